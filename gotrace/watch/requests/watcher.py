"""The requests of one process, from the kernel's tables to records with symbols."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from gotrace.common.histogram import bucket_of
from gotrace.common.vocabulary import Loss, Stage, State
from gotrace.kernel.history import Completed, PartRecord
from gotrace.kernel.records import RowKey
from gotrace.kernel.rows import row_hash
from gotrace.kernel.spans import UNKNOWN_ROW, ArgumentLayout, DurationRow, OpenRequest, Site
from gotrace.kernel.structs import SPAN_BEGUN_BEFORE
from gotrace.kernel.tables import Tables
from gotrace.plan.probes import Plan
from gotrace.profile.requests import Cause, Exemplar, PathStep, Span, SpanBucket, WaitSum
from gotrace.profile.types import Distribution, StackStat
from gotrace.watch.requests.causes import Causes
from gotrace.watch.requests.followed import Followed, FollowedBucket, Slow
from gotrace.watch.requests.path import follow
from gotrace.watch.requests.timelines import Timelines
from gotrace.watch.tally import Tally

_READ_EVERY_NS = 300_000_000


class _Argument(NamedTuple):
    """Which argument tells what was requested: bpf/shared.h: SPAN_ARGUMENT_*, with the register that has to be intact for it."""

    number: int
    register: str
    layout: ArgumentLayout


_GRPC = _Argument(4, "r8", ArgumentLayout(None, None, 0))
"""grpc.MethodDesc and StreamDesc, both of which begin with the name; in R8, or with a context and a transport before it in R10."""
_ARGUMENTS = {
    # net/http.Request.Method and .URL, net/url.URL.Path: the same in Go 1.19 to 1.27.
    "net/http.serverHandler.ServeHTTP": _Argument(3, "rdi", ArgumentLayout(method=0, url=16, path=56)),
    "google.golang.org/grpc.(*Server).processUnaryRPC": _GRPC,
    "google.golang.org/grpc.(*Server).processStreamingRPC": _GRPC,
}
_METHOD = re.compile(rb"[A-Z][A-Z-]{0,15}")
_NAME = re.compile(rb"[A-Z]\w{0,127}")


class Requests:
    """Of a process whose `plan` has spans; `exemplars`: how many of the slowest requests are kept of each function; `stop_reasons`: of
    stops of the world, by number; `names`: what slow requests asked for is read. `placed_ns` tells for how long the probes were placed,
    until a time."""

    def __init__(
        self, tables: Tables, placed_ns: Callable[[int], int], tally: Tally, plan: Plan, bias: int, pid: int, exemplars: int,
        stop_reasons: Sequence[str] = (), names: bool = True,
    ) -> None:
        self._read_pauses = tables.read_pauses
        self._tables = tables.spans
        self._history = tables.history
        self._functions = [span.name for span in plan.spans]
        self._placed_ns = placed_ns
        self._tally = tally
        self._pid = pid
        self._exemplars = exemplars
        self._timelines = Timelines(0)
        self._followed = Followed(self._timelines, exemplars)
        self._rows: dict[int, RowKey] = {}
        self._rough: dict[int, RowKey] = {}
        self._causes = Causes(self._stack_of_hash, stop_reasons)
        self._due_ns = self._placed_before_ns = 0
        self._has_wakers = plan.has("ready")
        self._ended = False
        self._final: list[Span] | None = None
        told = {
            span.begin: argument for span in plan.spans if exemplars and names
            for name, argument in _ARGUMENTS.items() if name == span.name and argument.register in span.intact
        }
        self._layouts = {site.function: argument.layout for site, argument in told.items()}
        self._told: dict[tuple[int, int], tuple[str | None, dict[str, str]]] = {}
        for number in range(len(plan.spans)):
            self._tables.put_function(number, 0, self._layouts.get(number))
        self._tables.put_sites(
            Site(site.probe.site.address + bias, site.function, site.kind, site.sp_above, told[site].number if site in told else 0)
            for site in plan.span_sites
        )

    def begin(self, start_ns: int) -> None:
        """A window opens. Requests in progress that an earlier one left are not followed further."""
        self._timelines.lost(start_ns)
        self._placed_before_ns = self._placed_ns(start_ns)

    def tick(self, placed: frozenset[Stage]) -> None:
        """Reads what has happened since the last call, if it is time. `placed`: the stages that are traced now."""
        # What is not known of some requests is taken to be as it was for the others.
        self._followed.sums_up = Stage.WAKERS in placed or not self._has_wakers
        if time.monotonic_ns() >= self._due_ns:
            self._take_history()
            self._due_ns = time.monotonic_ns() + _READ_EVERY_NS

    def goids(self) -> set[int]:
        """Goroutines that serve a request now."""
        return {request.goid for request in self._tables.read_open()}

    def finish(self, start_ns: int, end_ns: int, losses: dict[Loss, int], in_progress: Iterable[PartRecord]) -> None:
        """The window is closed, and all rows are read: reads what is left, as the tables are about to go. Adds to the `losses`.
        `in_progress`: what the goroutines of requests in progress wait for."""
        self._take_history()
        self._timelines.end(in_progress)
        self._ended = True
        self._followed.take([_completed(request) for request in self._tables.read_open() if request.over_ns])
        self._followed.take_left()
        self._final = self.spans(start_ns, end_ns)
        losses[Loss.HISTORY_LOST] = self._history.lost
        losses[Loss.SPAN_END_UNSEEN] = losses.get(Loss.SPAN_END_UNSEEN, 0) + self._tables.forgotten

    def _take_history(self) -> None:
        self._keep_told()  # first: each of these has its record by now
        happened, requests = self._history.read()
        self._timelines.lost(self._history.known_since_ns)
        self._timelines.take(happened)
        stops = self._read_pauses(len(self._followed.stops))
        self._followed.stops += stops[:-1] if stops and not stops[-1].duration_ns else stops
        self._followed.take(requests)
        for number in range(len(self._functions)) if self._exemplars else ():
            slowest = self._followed.slowest.get(number, [])
            least = slowest[-1].duration_ns if len(slowest) >= self._exemplars else 0
            self._tables.put_function(number, least, self._layouts.get(number))
        kept = {(slow.goid, slow.start_ns) for slowest in self._followed.slowest.values() for slow in slowest}
        self._told = {key: what for key, what in self._told.items() if key in kept}

    def _keep_told(self) -> None:
        for key, told in self._tables.take_told().items():
            labels = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in told.labels.items()}
            self._told[key] = _what(told.method, told.path), labels

    def _learn_rows(self) -> None:
        """What happened names rows by their hash."""
        for key in self._tally.rows_from(len(self._rows)):
            self._rows[row_hash(key)] = key
            rough = key._replace(stack=0, kernel_stack=0, waker=0, object=0, goid=0)
            self._rough[row_hash(rough)] = rough

    def spans(self, start_ns: int, end_ns: int) -> list[Span]:
        """What is known, of the window that began at `start_ns` and reaches to `end_ns`, 0: to now; those without a call are left out."""
        if self._final is not None:
            return self._final
        end_ns = end_ns or time.monotonic_ns()
        self._learn_rows()
        traced_ns = max(0, self._placed_ns(end_ns) - self._placed_before_ns)
        sums, opened = self._tables.read_rows(), self._tables.read_open()
        result = []
        for number, name in enumerate(self._functions):
            before = sums.get(number, {}).pop(SPAN_BEGUN_BEFORE, None)
            mine = [request for request in opened if request.function == number]
            rows = sums.get(number, {})
            for request in mine:
                if request.over_ns:
                    _add_over(rows, request)
            going = [request for request in mine if not request.over_ns]
            span = self._span(number, name, rows, going, start_ns, end_ns)
            span.begun_before = before.count if before is not None else 0
            span.traced_ns = traced_ns
            if span.latency.count or span.in_progress or span.begun_before:
                result.append(span)
        return sorted(result, key=lambda span: -span.latency.total_ns)

    def _span(
        self, number: int, name: str, rows: dict[int, DurationRow], going: list[OpenRequest], start_ns: int, end_ns: int,
    ) -> Span:
        span = Span(name, self._pid, in_progress=len(going))
        followed = self._followed.buckets.get(number, {})
        for bucket in sorted(rows):
            row = rows[bucket]
            span.latency.add(Distribution(row.count, row.total_ns, row.max_ns, 0, {bucket: row.count}))
            span.buckets[bucket] = self._bucket(row, followed.get(bucket), name)
        slow = list(self._followed.slowest.get(number, ()))
        exemplars = [self._exemplar(each, name, start_ns, False) for each in slow]
        for request in sorted(going, key=lambda request: request.start_ns)[: self._exemplars]:
            # What it waits for now is known at the end.
            exemplars.append(self._exemplar(self._slow(request, end_ns, self._ended), name, start_ns, True))
        span.exemplars = sorted(exemplars, key=lambda exemplar: -exemplar.duration_ns)[: self._exemplars]
        return span

    def _bucket(self, row: DurationRow, followed: FollowedBucket | None, function: str) -> SpanBucket:
        bucket = SpanBucket(row.count, row.total_ns, row.cpu_ns)
        for number, (count, total_ns) in row.waits.items():
            key = self._rows.get(number)
            stack = self._tally.stack_of(key) if key is not None else None
            if stack is not None:
                wait = bucket.waits.setdefault(stack.key, WaitSum())
            else:
                rough = self._rough.get(number) if number != UNKNOWN_ROW else None
                wait = bucket.other.setdefault(self._tally.why(rough) if rough is not None else (State.WAITING, "unknown"), WaitSum())
            wait.count += count
            wait.total_ns += total_ns
        if followed is not None:
            bucket.followed, bucket.followed_ns = followed.count, followed.total_ns
            by_text: dict[str, Cause] = {}
            for raw, total_ns in sorted(followed.causes.items(), key=lambda item: -item[1]):
                cause = self._causes.of_raw(raw, function)
                cause = by_text.setdefault(cause.text, cause)
                bucket.causes[cause] = bucket.causes.get(cause, 0) + total_ns
        return bucket

    def _slow(self, request: OpenRequest, end_ns: int, followed: bool = True) -> Slow:
        steps = tuple(follow(self._timelines, request.goid, request.start_ns, end_ns)) if followed else ()
        return Slow(end_ns - request.start_ns, request.start_ns, request.goid, request.request, steps)

    def _exemplar(self, slow: Slow, function: str, start_ns: int, in_progress: bool) -> Exemplar:
        path = []
        for step in slow.steps:
            cause = self._causes.of(step, function, step.goid == slow.goid and not step.via)
            begin_ns = step.start_ns - start_ns
            path.append(PathStep(step.goid, begin_ns, step.duration_ns, cause.state, cause.reason, cause.frames, cause.object))
        what, labels = self._told.get((slow.goid, slow.start_ns), (None, {}))
        return Exemplar(slow.start_ns - start_ns, slow.duration_ns, slow.goid, what, labels, tuple(path), in_progress)

    def _stack_of_hash(self, row: int) -> StackStat | None:
        key = self._rows.get(row)
        return self._tally.stack_of(key) if key is not None else None


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


def _what(method: bytes, path: bytes) -> str | None:
    """What was requested. It is checked by what it looks like: a token, and an absolute path or an asterisk (RFC 9110, 9112), or the name
    of a method."""
    if _METHOD.fullmatch(method) and path[:1] in (b"/", b"*"):
        return f"{method.decode()} {path.decode(errors='replace')}"
    return path.decode() if not method and _NAME.fullmatch(path) else None
