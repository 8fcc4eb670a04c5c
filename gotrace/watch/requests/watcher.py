"""The requests of one process, from the kernel's tables to records with symbols."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gotrace.common.histogram import bucket_of
from gotrace.common.vocabulary import Loss, Stage
from gotrace.kernel.history import Completed
from gotrace.kernel.records import NO_STACK, RawStack
from gotrace.kernel.spans import UNKNOWN_ROW, DurationRow, OpenRequest, Site
from gotrace.kernel.structs import SPAN_BEGUN_BEFORE
from gotrace.kernel.tables import Tables
from gotrace.kernel.waited import Reasons
from gotrace.plan.probes import Plan
from gotrace.proc.memory import Memory
from gotrace.profile.holders import RUNNING, RUNNING_OR_NOT
from gotrace.profile.requests import Exemplar, Span
from gotrace.profile.types import Distribution
from gotrace.watch.inprogress.cutoff import CutOff, Follow, Parked
from gotrace.watch.requests.earlier import EarlierRequests
from gotrace.watch.requests.followed import Followed, Slow
from gotrace.watch.requests.holders import Holders
from gotrace.watch.requests.names import RequestNames, known_arguments
from gotrace.watch.requests.ongoing import OngoingRequests, RequestsInProgress, add_duration
from gotrace.watch.requests.serving import Serving
from gotrace.watch.requests.summing import Summing
from gotrace.watch.requests.timelines import MOST_PARTS, PART_BYTES, Timelines
from gotrace.watch.tally import Tally

_READ_EVERY_NS = 300_000_000


@dataclass(frozen=True)
class RequestOptions:
    """How many of the slowest requests are kept of each function, and whether it is read what they ask for."""

    exemplars: int
    names: bool = True


class Requests:
    """Of a process whose `plan` has spans, loaded at `bias`. `stop_reasons`: of stops of the world, by number. They are traced from `begin`
    to `close` or `interrupt`, in one window or several."""

    def __init__(
        self, tables: Tables, tally: Tally, plan: Plan, serving: Serving, bias: int, pid: int, options: RequestOptions,
        stop_reasons: Sequence[str] = (),
    ) -> None:
        self._read_pauses = tables.read_pauses
        self._open_since = tables.open_since
        self._tables = tables.spans
        self._history = tables.history
        self._functions = [span.name for span in plan.spans]
        self._pid = pid
        self._serving = serving
        self._exemplars = options.exemplars
        self._timelines = Timelines(0)
        self._followed = Followed(self._timelines, options.exemplars)
        self._summing = Summing(tally, tables.stack, stop_reasons)
        self._earlier = EarlierRequests(serving, self._timelines, self._summing.raw_stack_of)
        self._due_ns = self._opened_ns = self._until_ns = self._traced_ns = self._windows = 0
        self._open, self._knows_earlier = False, True
        self._has_wakers = plan.has("ready")
        self._going: dict[int, OngoingRequests] = {}
        self._cut: dict[int, Distribution] = {}
        self._over: list[OpenRequest] = []
        self._final: list[Span] | None = None
        self.holders: Holders | None = None
        self._names = RequestNames(self._tables, known_arguments(plan) if options.exemplars and options.names else {})
        self._lasting = RequestsInProgress(self._timelines, self._summing, self._functions, options.exemplars)
        for number in range(len(plan.spans)):
            self._tables.put_function(number, 0, self._names.layout(number))
        self._tables.put_sites(
            Site(site.probe.site.address + bias, site.function, site.kind, site.sp_above, self._names.argument(site))
            for site in plan.span_sites
        )

    def tell_holders(self, reasons: Reasons, sees_threads: bool) -> None:
        """Tells who held locks, too. `sees_threads`: what the kernel does with threads is known."""
        ran = RUNNING if sees_threads else RUNNING_OR_NOT
        summing = self._summing
        self.holders = Holders(self._pid, self._timelines, reasons, summing.key_of, summing.stack_of, summing.why_of, ran)

    def begin(self, start_ns: int, parked: Iterable[Parked] = ()) -> None:
        """They are traced from now on, with these goroutines parked."""
        self._timelines.lost(start_ns)
        self._open, self._opened_ns, self._until_ns = True, start_ns, 0
        self._windows += 1
        self._earlier.begin(start_ns, parked)

    def take_until(self, until_ns: int) -> None:
        """Those that begin later are not recorded."""
        self._until_ns = until_ns

    def interrupt(self, now_ns: int) -> None:
        """They are not traced any more, while the window goes on: those in progress are lost."""
        self._tables.forget_open()
        self._going.clear()
        self._stop(now_ns)

    def _stop(self, end_ns: int) -> None:
        self._traced_ns = self._traced_until(end_ns)
        self._open = False

    def _traced_until(self, now_ns: int) -> int:
        until_ns = min(now_ns, self._until_ns or now_ns)
        return self._traced_ns + (max(0, until_ns - self._opened_ns) if self._open else 0)

    def tick(self, placed: frozenset[Stage]) -> None:
        """Reads what has happened since the last call, if it is time. `placed`: the stages that are traced now."""
        # What is not known of some requests is taken to be as it was for the others.
        self._followed.sums_up = Stage.WAKERS in placed or not self._has_wakers
        if time.monotonic_ns() >= self._due_ns:
            self._take_history()
            self._due_ns = time.monotonic_ns() + _READ_EVERY_NS

    def forget(self, before_ns: int, history_bytes: int) -> None:
        """Forgets the slowest requests that ended before that moment, and what happened beyond so many bytes."""
        self._followed.forget(before_ns)
        self._timelines.most = min(MOST_PARTS, history_bytes // PART_BYTES)

    def wanted(self) -> Follow:
        """For `CutOff.followed`, as a window ends: goroutines that serve a request, and those that wait for locks where holders are told.
        Where only the kernel's tables have the stack, all."""
        goids = {request.goid for request in self._tables.read_open()}
        of_locks = self.holders.wanted() if self.holders is not None else None

        def followed(goid: int, stack: RawStack, what: int) -> bool:
            serves = stack is NO_STACK or goid in goids or bool(self._serving.functions(stack))
            return serves or of_locks is not None and of_locks(what)

        return followed

    def tell_open(self, memory: Memory) -> None:
        """Reads what requests in progress ask for, of those whose goroutines do not move meanwhile. To be called while the probes are
        placed."""
        self._names.read_open(memory, self._open_since)

    def close(self, end_ns: int, cut: CutOff, running: Iterable[int] | None) -> None:
        """A window ends in which they were traced; the tables are about to be cleared. `cut`: who was off the CPU then, and waits for what;
        `running`: goroutines that were not, None if the process is gone."""
        if not self._open:
            return
        self._take_history()
        self._timelines.end(part for part, _ in cut.parts)
        self._summing.learn_rows()
        opened, seen = self._tables.read_seen()
        earlier = self._earlier.end(cut, running, seen) if running is not None else self._earlier.now(seen)
        self._followed.take(_completed(request) for request in opened if request.over_ns and not request.late)
        self._followed.take_left()
        self._knows_earlier = earlier is not None
        self._going = self._lasting.at_the_end(opened, earlier or (), self._opened_ns, end_ns)
        for request in opened:
            if not request.over_ns and not request.late:
                add_duration(self._cut.setdefault(request.function, Distribution()), max(0, end_ns - request.start_ns))
        self._over += [request for request in opened if request.over_ns and not request.late]
        self._tables.clear()
        self._timelines.end(())
        self._stop(end_ns)

    def finish(
        self, start_ns: int, end_ns: int, losses: dict[Loss, int], cut: CutOff, running: Iterable[int] | None,
    ) -> None:
        """The trace is over, and all rows are read: reads what is left, as the tables are about to go. Adds to the `losses`. `cut` and
        `running` as for `close`."""
        self._take_history()
        if self.holders is not None:
            in_progress = [part for part, _ in cut.parts]
            self._timelines.end(in_progress)
            self._summing.learn_rows()
            self.holders.finish(in_progress, end_ns)
            losses[Loss.HOLDERS_UNFOLLOWED] = self.holders.unfollowed
        self.close(end_ns, cut, running)
        self._final = self.spans(start_ns, end_ns)
        losses[Loss.HISTORY_LOST] = self._history.lost
        losses[Loss.SPAN_END_UNSEEN] = losses.get(Loss.SPAN_END_UNSEEN, 0) + self._tables.forgotten

    def _take_history(self) -> None:
        self._names.take()  # first: each of these has its record by now
        happened, records = self._history.read()
        self._timelines.lost(self._history.known_since_ns)
        self._timelines.take(happened)
        if self.holders is not None:
            self._summing.learn_rows()
            self.holders.take(happened)
            self.holders.settle(happened.until_ns)
        stops = self._read_pauses(len(self._followed.stops))
        self._followed.stops += stops[:-1] if stops and not stops[-1].duration_ns else stops
        earlier = [record for record in records if record.bucket == SPAN_BEGUN_BEFORE]
        self._earlier.take(earlier)
        self._followed.take_earlier(self._opened_ns, earlier)
        self._followed.take(record for record in records if record.bucket != SPAN_BEGUN_BEFORE)
        for number in range(len(self._functions)) if self._exemplars else ():
            slowest = self._followed.slowest.get(number, [])
            least = slowest[-1].duration_ns if len(slowest) >= self._exemplars else 0
            self._tables.put_function(number, least, self._names.layout(number))
        self._names.keep({(slow.goid, slow.start_ns) for slowest in self._followed.slowest.values() for slow in slowest})

    def spans(self, start_ns: int, end_ns: int) -> list[Span]:
        """What is known, of the window that began at `start_ns` and reaches to `end_ns`, 0: to now; those without a call are left out."""
        if self._final is not None:
            return self._final
        end_ns = end_ns or time.monotonic_ns()
        self._summing.learn_rows()
        sums, over, going, knows = self._tables.read_rows(), self._over, self._going, self._knows_earlier
        if self._open:
            opened, seen = self._tables.read_seen()
            over = [*over, *(request for request in opened if request.over_ns and not request.late)]
            earlier = self._earlier.now(seen)
            knows = earlier is not None
            going = self._lasting.now(opened, earlier or (), self._opened_ns, end_ns)
        result = []
        for number, name in enumerate(self._functions):
            rows = sums.get(number, {})
            before = rows.pop(SPAN_BEGUN_BEFORE, None)
            for request in over:
                if request.function == number:
                    _add_over(rows, request)
            span = Span(name, self._pid, begun_before=before.count if before is not None else 0, traced_ns=self._traced_until(end_ns))
            span.windows = self._windows
            if self._windows > 1:
                span.cut = self._cut.get(number, span.cut)
            self._summing.add_ended(span, rows, self._followed.buckets.get(number, {}))
            mine = going.get(number, OngoingRequests())
            span.in_progress, span.lasting, span.doing = mine.count, mine.lasting, mine.doing
            span.in_progress_before = mine.before if knows else None
            span.exemplars = self._chosen(number, name, mine.shown, start_ns)
            if span.latency.count or span.in_progress or span.begun_before:
                result.append(span)
        return sorted(result, key=lambda span: -span.latency.total_ns)

    def _chosen(self, number: int, name: str, going: list[Slow], start_ns: int) -> list[Exemplar]:
        """The slowest, those in progress among them, but no more than half of these where there are others: they may be all in progress
        throughout the window, and the bands are of what has ended."""
        ended = [*self._followed.slowest.get(number, ()), *self._followed.earlier.get(number, ())]
        ended.sort(key=lambda slow: -slow.duration_ns)
        shown = going[: max(self._exemplars - len(ended), (self._exemplars + 1) // 2)]
        slowest = sorted((*ended[: self._exemplars - len(shown)], *shown), key=lambda slow: -slow.duration_ns)
        return [self._summing.exemplar(slow, name, start_ns, *self._names.of(slow.goid, slow.start_ns)) for slow in slowest]


def _completed(request: OpenRequest) -> Completed:
    """One that a panic has ended."""
    duration_ns = max(0, request.over_ns - request.start_ns)
    return Completed(request.start_ns, duration_ns, request.goid, request.request, bucket_of(duration_ns), request.function)


def _add_over(rows: dict[int, DurationRow], request: OpenRequest) -> None:
    """A panic was its end, and no probe has met its goroutine since."""
    duration = max(0, request.over_ns - request.start_ns)
    row = rows.setdefault(bucket_of(duration), DurationRow())
    row.count += 1
    row.total_ns += duration
    row.cpu_ns += max(0, duration - request.off_ns)
    row.max_ns = max(row.max_ns, duration)
    for number, (count, total_ns) in request.waits.items():
        known = row.waits.get(number or UNKNOWN_ROW, (0, 0))
        row.waits[number or UNKNOWN_ROW] = known[0] + count, known[1] + total_ns
