"""Intervals without an end inside the window: goroutines that are still parked, threads that are still blocked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from gotrace.common.histogram import bucket_of
from gotrace.common.vocabulary import Part, StartKind
from gotrace.kernel.history import PartRecord
from gotrace.kernel.records import NO_STACK, IntervalRow, OpenInterval, OpenThread, RawStack, RowKey, UnseenWait
from gotrace.kernel.rows import row_hash, stack_hash
from gotrace.kernel.structs import HAPPENED_INTERVAL

Follow = Callable[[int, RawStack, int], bool]


@dataclass(frozen=True)
class Parked:
    """A goroutine that was found off the CPU in the process's memory. `reason` is its g.waitreason. `created`: it has not had its first
    turn yet. `kind` is how it left the CPU according to its state, BEFORE if the state does not tell. `labels` is the number of
    its labels in the kernel's table."""

    g: int
    goid: int
    reason: int
    stack: RawStack
    created: bool = False
    kind: StartKind = StartKind.BEFORE
    labels: int = 0


@dataclass
class CutOff:
    """Collects the rows of such intervals, for the window [start_ns, end_ns). The filters are those of the options.

    `goids` are the goroutines of each row. `stopped_ns` is how long the world had been stopped in total at the window's end, `halted_ns`
    how long the process had been stopped from outside. `parts` are single parts, with their rows, of waits that are `followed`: by
    goroutine id, stack (`NO_STACK` where the kernel's tables have it), and `PartRecord.what`.
    """

    start_ns: int
    end_ns: int
    per_goroutine: bool
    min_block_ns: int
    only_goid: int
    stopped_ns: int = 0
    halted_ns: int = 0
    rows: dict[RowKey, IntervalRow] = field(default_factory=dict)
    goids: dict[RowKey, set[int]] = field(default_factory=dict)
    followed: Follow | None = None
    parts: list[tuple[PartRecord, RowKey]] = field(default_factory=list)
    _unseen: dict[tuple[tuple[int, ...], int, bool, StartKind, int, int], RowKey] = field(default_factory=dict)

    def add_parked(self, parked: Parked, interval: OpenInterval | None, thing: int = 0) -> None:
        """Adds a parked goroutine, with its interval as the kernel side knows it, None if no probe ever saw it. `thing` is the number of
        the file that it waits for, 0 if there is none or it is not known."""
        if interval is not None:
            if thing and not interval.object:
                interval = replace(interval, object=thing)
            if interval.kind in (StartKind.BEFORE, StartKind.SCHEDULE):
                interval = replace(interval, kind=parked.kind)
            self._add(parked.goid, parked.reason, parked.stack, interval, parked.labels)
        elif self.only_goid in (0, parked.goid) and self.end_ns - self.start_ns >= self.min_block_ns:
            key = self._unseen_key(parked, thing)
            self._count(key, parked.stack, parked.goid, self.end_ns - self.start_ns, self.stopped_ns, 0, self.halted_ns)
            self._keep_part(parked.goid, key, parked.stack, self.start_ns, self.end_ns)

    def add_unmoved(self, parked: Parked, thing: int, number: int) -> None:
        """Adds `number` goroutines like this one at once, which no probe ever saw, as `add_parked` would. Their goids are not kept."""
        if not number:
            return
        key = self._unseen_key(parked, thing)
        known = self.rows.pop(key, None)
        self.add_parked(parked, None, thing)
        row = self.rows.get(key)
        if row is not None:
            for name in ("count", "total_ns", "squares", "in_progress", "stopped_ns", "halted_ns"):
                setattr(row, name, getattr(row, name) * number + (getattr(known, name) if known else 0))
            histogram = {bucket: count * number for bucket, count in row.histogram.items()}
            for bucket, count in known.histogram.items() if known else ():
                histogram[bucket] = histogram.get(bucket, 0) + count
            row.histogram = histogram
        elif known is not None:
            self.rows[key] = known

    def _unseen_key(self, parked: Parked, thing: int) -> RowKey:
        """The row of a goroutine that was off the CPU for the whole window. There may be a million of them, at few places."""
        alike = parked.stack.pcs, parked.reason, parked.created, parked.kind, thing, parked.labels
        key = self._unseen.get(alike)
        if key is None:
            kind = StartKind.CREATED if parked.created else parked.kind
            key = self._unseen[alike] = RowKey(
                -1 - stack_hash(parked.stack.pcs), 0, 0, thing, 0, parked.labels, parked.reason, kind, Part.MAIN, 0
            )
        return key._replace(goid=parked.goid) if self.per_goroutine else key

    def add_lost(self, interval: OpenInterval) -> None:
        """Adds an open interval whose goroutine could not be read: its time is known, its place is not."""
        self._add(0, 0, NO_STACK, interval)

    def _add(self, goid: int, reason: int, stack: RawStack, interval: OpenInterval, labels: int = 0) -> None:
        # A number of its own (the kernel's are never negative): these figures are set once, beside the kernel's.
        identity = -1 - stack_hash(stack.pcs)
        ready, at_ready = (interval.ready_ns, interval.stopped_at_ready) if interval.ready_ns else (self.end_ns, self.stopped_ns)
        data, at_data = (interval.data_ns, interval.stopped_at_data) if 0 < interval.data_ns < ready else (ready, at_ready)
        times = {
            Part.MAIN: (interval.start_ns, data), Part.NETPOLL: (data, ready), Part.RUNNABLE: (ready, self.end_ns),
        }
        stopped = {
            Part.MAIN: at_data - interval.stopped_at_start, Part.NETPOLL: at_ready - at_data,
            Part.RUNNABLE: self.stopped_ns - at_ready,
        }
        halted_at_ready = interval.halted_at_ready if interval.ready_ns else self.halted_ns
        halted = {Part.MAIN: halted_at_ready - interval.halted_at_start, Part.RUNNABLE: self.halted_ns - halted_at_ready}
        for part, duration in self._parts(goid, times):
            key = RowKey(
                identity, 0, interval.waker if part in (Part.MAIN, Part.RUNNABLE) else 0,
                interval.object if part in (Part.MAIN, Part.NETPOLL) else 0, goid if self.per_goroutine else 0,
                labels, reason, interval.kind, part, 0,
            )
            self._count(key, stack, goid, duration, stopped[part], interval.long_run_ns if part is Part.MAIN else 0, halted.get(part, 0))
            self._keep_part(goid, key, stack, *times[part])
            if part is Part.MAIN:
                self.rows[key].margin_ns += interval.margin_ns

    def add_thread(self, thread: OpenThread, labels: int = 0) -> None:
        """Adds a thread that is off its CPU; `labels` are those of its goroutine, by number."""
        woken, at_woken = (thread.woken_ns, thread.stopped_at_woken) if thread.woken_ns else (self.end_ns, self.stopped_ns)
        if thread.kind in (StartKind.CPU, StartKind.THROTTLED):
            woken, at_woken = self.end_ns, self.stopped_ns
        last = Part.THROTTLED if thread.throttled else Part.RUNQUEUE
        times = {Part.MAIN: (thread.out_ns, woken), last: (woken, self.end_ns)}
        if thread.carried_ns and not thread.counted:
            times[Part.MAIN] = (thread.out_ns - thread.carried_ns, woken)  # with the part that was too short by itself
        stopped = {Part.MAIN: at_woken - thread.stopped_at_out, last: self.stopped_ns - at_woken}
        for part, duration in self._parts(thread.goid, times):
            main = part is Part.MAIN
            # -1 - n: the same stack as the kernel's, in a row of its own.
            key = RowKey(
                -1 - thread.stack, thread.kernel_stack if main else 0, 0, thread.object if main else 0,
                thread.goid if self.per_goroutine else 0, labels, 0, thread.kind, part, thread.syscall,
            )
            halted = self.halted_ns - thread.halted_at_out if main else 0
            carried = thread.carried_ns if main and thread.counted else 0
            self._count(key, NO_STACK, thread.goid, duration, stopped[part], thread.long_run_ns if main else 0, halted, carried)
            self._keep_part(thread.goid, key, NO_STACK, max(times[part][0], thread.out_ns), times[part][1])
            if carried and thread.before:
                self.rows[key].in_progress -= 1  # it was counted as that already

    def add_unseen(self, wait: UnseenWait) -> None:
        """Adds a thread that was off its CPU as the window began, for an unknown cause."""
        if self.only_goid in (0, wait.goid) and wait.duration_ns >= self.min_block_ns:
            goid = wait.goid if self.per_goroutine else 0
            key = RowKey(-1 - stack_hash(()), 0, 0, 0, goid, 0, 0, StartKind.FAULT, Part.MAIN, 0)
            self._count(key, NO_STACK, wait.goid, wait.duration_ns, 0, 0, 0)

    def _parts(self, goid: int, times: dict[Part, tuple[int, int]]) -> Iterator[tuple[Part, int]]:
        clipped = {
            part: max(0, min(until, self.end_ns) - max(since, self.start_ns)) for part, (since, until) in times.items()
        }
        if sum(clipped.values()) < self.min_block_ns or self.only_goid not in (0, goid):
            return
        yield from ((part, duration) for part, duration in clipped.items() if duration or part is Part.MAIN)

    def _keep_part(self, goid: int, key: RowKey, stack: RawStack, since: int, until: int) -> None:
        since, until = max(since, self.start_ns), min(until, self.end_ns)
        if until > since and self.followed is not None:
            what = HAPPENED_INTERVAL | key.kind << 2 | (key.reason & 0xFF) << 10 | key.part << 18
            if self.followed(goid, stack, what):
                self.parts.append((PartRecord(since, until - since, goid, 0, row_hash(key), what), key))

    def _count(
        self, key: RowKey, stack: RawStack, goid: int, duration: int, stopped: int, long_run: int, halted: int, carried: int = 0
    ) -> None:
        """`carried`: the part of the same wait that another row counts as an interval of that length, which this row prolongs."""
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = IntervalRow(key, stack)
        row.count += not carried
        row.total_ns += duration
        row.halted_ns += min(max(0, halted), duration)
        if carried:
            row.squares -= (carried >> 8) ** 2
            before = bucket_of(carried)
            row.histogram[before] = row.histogram.get(before, 0) - 1
            duration += carried
        row.max_ns = max(row.max_ns, duration)
        row.squares += (duration >> 8) ** 2
        row.in_progress += 1
        row.stopped_ns += min(max(0, stopped), duration - carried)
        row.long_runs += bool(long_run)
        row.long_run_max_ns = max(row.long_run_max_ns, long_run)
        bucket = bucket_of(duration)
        row.histogram[bucket] = row.histogram.get(bucket, 0) + 1
        self.goids.setdefault(key, set()).add(goid)
