"""Intervals without an end inside the window: goroutines that are still parked, threads that are still blocked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from gotrace.histogram import bucket_of
from gotrace.kernel.records import NO_STACK, IntervalRow, OpenInterval, OpenThread, RawStack, RowKey
from gotrace.kernel.tracer import stack_hash
from gotrace.vocabulary import Part, StartKind


@dataclass(frozen=True)
class Parked:
    """A goroutine that was found off the CPU in the process's memory. `reason` is its g.waitreason."""

    g: int
    goid: int
    reason: int
    stack: RawStack


@dataclass
class CutOff:
    """Collects the rows of such intervals, for the window [start_ns, end_ns). The filters are those of the options.

    `goids` are the goroutines of each row.
    """

    start_ns: int
    end_ns: int
    per_goroutine: bool
    min_block_ns: int
    only_goid: int
    rows: dict[RowKey, IntervalRow] = field(default_factory=dict)
    goids: dict[RowKey, set[int]] = field(default_factory=dict)

    def add_parked(self, parked: Parked, interval: OpenInterval | None) -> None:
        """A parked goroutine, with what the kernel side knows of its interval: nothing, if no probe ever saw it."""
        interval = interval or OpenInterval(parked.g, StartKind.BEFORE, self.start_ns)
        self._add(parked.goid, parked.reason, parked.stack, interval)

    def add_lost(self, interval: OpenInterval) -> None:
        """An open interval whose goroutine could not be read: its time is known, where it went is not."""
        self._add(0, 0, NO_STACK, interval)

    def _add(self, goid: int, reason: int, stack: RawStack, interval: OpenInterval) -> None:
        # A number of its own (the kernel's are never negative): these figures are set once, beside the kernel's.
        identity = -1 - stack_hash(stack.pcs)
        ready = interval.ready_ns or self.end_ns
        data = min(interval.data_ns or ready, ready)
        times = {
            Part.MAIN: (interval.start_ns, data), Part.NETPOLL: (data, ready), Part.RUNNABLE: (ready, self.end_ns),
        }
        for part, duration in self._parts(goid, times):
            key = RowKey(
                identity, 0, interval.waker if part is Part.MAIN else 0,
                interval.object if part in (Part.MAIN, Part.NETPOLL) else 0, goid if self.per_goroutine else 0,
                reason, interval.kind, part, 0,
            )
            self._count(key, stack, goid, duration)

    def add_thread(self, thread: OpenThread) -> None:
        """A thread that is off its CPU."""
        woken = thread.woken_ns or self.end_ns
        if thread.kind == StartKind.CPU:
            woken = self.end_ns
        times = {Part.MAIN: (thread.out_ns, woken), Part.RUNQUEUE: (woken, self.end_ns)}
        for part, duration in self._parts(thread.goid, times):
            main = part is Part.MAIN
            # -1 - n: the same stack as the kernel's, in a row of its own.
            key = RowKey(
                -1 - thread.stack, thread.kernel_stack if main else 0, 0, thread.object if main else 0,
                thread.goid if self.per_goroutine else 0, 0, thread.kind, part, thread.syscall,
            )
            self._count(key, NO_STACK, thread.goid, duration)

    def _parts(self, goid: int, times: dict[Part, tuple[int, int]]) -> Iterator[tuple[Part, int]]:
        clipped = {
            part: max(0, min(until, self.end_ns) - max(since, self.start_ns)) for part, (since, until) in times.items()
        }
        if sum(clipped.values()) < self.min_block_ns or self.only_goid not in (0, goid):
            return
        yield from ((part, duration) for part, duration in clipped.items() if duration or part is Part.MAIN)

    def _count(self, key: RowKey, stack: RawStack, goid: int, duration: int) -> None:
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = IntervalRow(key, stack)
        row.count += 1
        row.total_ns += duration
        row.max_ns = max(row.max_ns, duration)
        row.squares += (duration >> 8) ** 2
        row.in_progress += 1
        bucket = bucket_of(duration)
        row.histogram[bucket] = row.histogram.get(bucket, 0) + 1
        self.goids.setdefault(key, set()).add(goid)
