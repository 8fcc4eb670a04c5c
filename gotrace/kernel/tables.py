"""Reads what the BPF programs have recorded, without symbols."""

from __future__ import annotations

import ctypes as ct
import struct
from collections.abc import Iterator
from itertools import chain, islice

from gotrace.common.vocabulary import OTHER_VALUES, UNREAD, Loss, StartKind, Stat
from gotrace.kernel.bpf import possible_cpus
from gotrace.kernel.earlier import EarlierState
from gotrace.kernel.history import HistoryReader
from gotrace.kernel.maps import ONLY, Maps
from gotrace.kernel.records import (
    NO_STACK,
    IntervalRow,
    KernelObject,
    LabelValues,
    OpenInterval,
    OpenThread,
    RawStack,
    RunningTime,
    UnseenWait,
    WorldPause,
)
from gotrace.kernel.rows import parse_labels, parse_object, parse_row, parse_stack
from gotrace.kernel.spans import SpanTables
from gotrace.kernel.structs import (
    GOROUTINE_BORN,
    GOROUTINE_ENDED,
    LABELS_OTHER,
    LABELS_UNREAD,
    MAX_PAUSES,
    THREAD_CONTINUES,
    THREAD_OUTSIDE,
    WAIT_BEFORE,
    WAIT_COUNTED,
    WANTED_LABELS,
    Goroutine,
    IntervalKey,
    IntervalValue,
    MemberKey,
    Object,
    Pause,
    Stack,
    Thread,
    UnixPath,
    Wait,
    WantedLabels,
    World,
)
from gotrace.kernel.tablewriter import TableWriter
from gotrace.kernel.waited import OF_SELECT, Waited, is_of_go

_UNSEEN_NS = 1_000_000
"""Shorter waits without a seen start are within the time that it takes to open a window."""
_LOSSES = {
    Stat.GOROUTINE_TABLE_FULL: Loss.GOROUTINE_TABLE_FULL,
    Stat.STACK_TABLE_FULL: Loss.STACK_TABLE_FULL,
    Stat.GOROUTINE_SET_FULL: Loss.GOROUTINE_SET_FULL,
    Stat.RING_FULL: Loss.RING_FULL,
    Stat.INTERVAL_LOST: Loss.INTERVAL_LOST,
    Stat.STACK_TRUNCATED: Loss.STACK_TRUNCATED,
    Stat.STACK_UNREADABLE: Loss.STACK_UNREADABLE,
    Stat.START_WHILE_STOPPED: Loss.START_WHILE_STOPPED,
    Stat.END_WHILE_RUNNING: Loss.END_WHILE_RUNNING,
    Stat.WAKER_LOST: Loss.WAKER_LOST,
    Stat.OBJECT_TABLE_FULL: Loss.OBJECT_TABLE_FULL,
    Stat.THREAD_STACK_UNREADABLE: Loss.THREAD_STACK_UNREADABLE,
    Stat.STACK_IN_TRANSIT: Loss.STACK_IN_TRANSIT,
    Stat.KERNEL_STACK_LOST: Loss.KERNEL_STACK_LOST,
    Stat.PAUSE_TABLE_FULL: Loss.PAUSE_TABLE_FULL,
    Stat.START_UNSEEN: Loss.START_UNSEEN,
    Stat.SWITCH_UNSEEN: Loss.SWITCH_UNSEEN,
    Stat.ARRIVAL_UNWATCHED: Loss.ARRIVALS_MISSED,
    Stat.SPAN_TABLE_FULL: Loss.SPAN_TABLE_FULL,
    Stat.SPAN_END_UNSEEN: Loss.SPAN_END_UNSEEN,
    Stat.SPAN_WAITS_FULL: Loss.SPAN_WAITS_FULL,
    Stat.LABEL_VALUES_FULL: Loss.LABEL_VALUES_FULL,
    Stat.LABELS_UNREAD: Loss.LABELS_UNREAD,
}
_START = slice(Goroutine.start_ns.offset, Goroutine.start_ns.offset + Goroutine.start_ns.size)
_UNSEEN = slice(Goroutine.unseen_ns.offset, Goroutine.unseen_ns.offset + 8)
_INTERVALS = ("intervals", "more_intervals")


def _is_resolved(row: IntervalRow) -> bool:
    """Whether all stacks and labels that its key names are there. (What an object is not known to be stays unknown.)"""
    key = row.key
    return (
        row.stack is not NO_STACK and (row.waker is not None or not key.waker)
        and (row.kernel_stack is not None or not key.kernel_stack) and UNREAD not in row.labels
    )


class Tables:
    """The maps of one trace, given by name, as records. `writer` adds to them, `earlier` adds what began before the window. The ring
    of what happened has `history_chunks` for each CPU. Times are CLOCK_MONOTONIC."""

    def __init__(self, maps: dict[str, int], history_chunks: int = 1) -> None:
        self._maps = Maps(maps)
        self.writer = TableWriter(self._maps)
        self.earlier = EarlierState(self._maps, self.writer)
        self.spans = SpanTables(self._maps)
        self.history = HistoryReader(self._maps, history_chunks)
        self._possible_cpus = possible_cpus()
        self._seen: dict[bytes, tuple[int, IntervalRow]] = {}
        """Of each row a hash of its figures, and how it was last."""
        self._pass: Iterator[IntervalRow] | None = None
        self._stacks: dict[int, RawStack] = {}
        self._objects: dict[int, KernelObject | None] = {}
        self._selects: dict[int, tuple[int, tuple[int, ...]] | None] = {}
        self._labels: dict[int, LabelValues] = {}

    # -- sums ----------------------------------------------------------------------------------------------------------

    def read_rows(self, at_most: int = 0) -> list[IntervalRow]:
        """Returns the sums of those rows that changed since they were last read. With `at_most` it returns no more than that, and the next
        such call continues there; fewer mean that the table's end was reached. Without it, all rows, each as of now."""
        if self._pass is None or not at_most:
            self._pass = self._changed_rows()
        rows = list(islice(self._pass, at_most or None))
        if len(rows) < at_most or not at_most:
            self._pass = None
        return rows

    def close(self) -> None:
        """Reads no more rows, and frees what is remembered of them."""
        self._seen.clear()
        self._stacks.clear()
        self._objects.clear()
        self._selects.clear()
        self._labels.clear()

    def _changed_rows(self) -> Iterator[IntervalRow]:
        for raw_key, raw in chain.from_iterable(self._maps.table(name, IntervalKey, IntervalValue) for name in _INTERVALS):
            # Count and total: a wait that continues after an interruption changes the total alone, one of length zero the count alone.
            figures, seen = hash(bytes(raw[:16])), self._seen.get(raw_key)
            if seen is not None and seen[0] == figures:
                continue
            row = parse_row(raw_key, raw, seen[1] if seen is not None else None)
            self._seen[raw_key] = figures, row
            if seen is None or not _is_resolved(row):
                self.resolve(row)
            yield row

    def resolve(self, row: IntervalRow) -> None:
        """Fills in what the row's key names in other tables."""
        key = row.key
        if row.stack is NO_STACK:
            row.stack = self.stack(key.stack if key.stack >= 0 else -1 - key.stack) or NO_STACK
        row.kernel_stack = self.stack(key.kernel_stack) if key.kernel_stack else None
        row.waker = self.stack(key.waker) if key.waker else None
        if key.object and is_of_go(key):
            row.cases = self._cases(key.object) if key.object & OF_SELECT else None
        else:
            row.object = self.object(key.object) if key.object else None
        row.labels = self.labels(key.labels) if key.labels else ()

    def _cases(self, number: int) -> tuple[int, tuple[int, ...]] | None:
        if number not in self._selects:
            raw = self._maps.numbered("waited_channels", number, Waited)
            waited = Waited.from_buffer_copy(raw) if raw is not None else None
            self._selects[number] = (waited.cases, tuple(waited.channels[: waited.cases])) if waited is not None else None
        return self._selects[number]

    def stack(self, number: int) -> RawStack | None:
        """A stack by its number in the kernel's table; None if the table was full."""
        if number not in self._stacks:
            raw = self._maps.numbered("stacks", number, Stack) or self._maps.numbered("more_stacks", number, Stack)
            if raw is None:
                return None
            self._stacks[number] = parse_stack(raw)
        return self._stacks[number]

    def object(self, number: int) -> KernelObject | None:
        """A file or socket by its number in the kernel's table."""
        if number not in self._objects:
            raw = self._maps.numbered("objects", number, Object)
            self._objects[number] = None if raw is None else parse_object(
                Object.from_buffer_copy(raw), lambda path: self._maps.numbered("unix_paths", path, UnixPath)
            )
        return self._objects[number]

    def labels(self, number: int) -> LabelValues:
        """The wanted labels of goroutines, by their number in the kernel's table."""
        if number in (LABELS_OTHER, LABELS_UNREAD):
            return (OTHER_VALUES if number == LABELS_OTHER else UNREAD,) * WANTED_LABELS
        if number not in self._labels:
            raw = self._maps.numbered("label_values", number, WantedLabels)
            if raw is None:
                return (UNREAD,) * WANTED_LABELS
            self._labels[number] = parse_labels(WantedLabels.from_buffer_copy(raw))
        return self._labels[number]

    def read_members(self) -> Iterator[tuple[int, int]]:
        """Yields (`member_hash`, goid) of every goroutine that was counted for a stack; some may come twice."""
        return (struct.unpack("<QQ", key) for key, _ in self._maps.table("members", MemberKey, ct.c_uint64))

    def read_stats(self) -> dict[Stat, int]:
        """All counters, summed over the CPUs."""
        each = 8 * len(Stat)
        raw = self._maps.raw("stats", ONLY, each * self._possible_cpus)
        of_cpus = struct.iter_unpack(f"<{len(Stat)}Q", raw)
        return dict(zip(Stat, map(sum, zip(*of_cpus, strict=True)), strict=True))

    def losses(self) -> dict[Loss, int]:
        """The kernel side's losses."""
        stats = self.read_stats()
        losses = {loss: stats[stat] for stat, loss in _LOSSES.items()}
        losses[Loss.LABEL_VALUES_FULL] += self.writer.labels_left_out
        losses[Loss.LABELS_UNREAD] += self.writer.labels_unread
        return losses

    # -- what is going on ----------------------------------------------------------------------------------------------

    def read_open(self) -> tuple[dict[int, OpenInterval], set[int], list[UnseenWait]]:
        """The open intervals by g address, the addresses of all goroutines in the table, and waits of at least a millisecond whose start
        was not seen."""
        opened, known, unseen = {}, set(), []
        for raw_key, raw in self._maps.table("goroutines", ct.c_uint64, Goroutine):
            g = int.from_bytes(raw_key, "little")
            known.add(g)
            if any(bytes(raw[_START])):  # most goroutines have no open interval
                entry = Goroutine.from_buffer_copy(raw)
                opened[g] = OpenInterval(
                    g, entry.kind, entry.start_ns, entry.data_ns, entry.ready_ns, entry.waker, entry.object,
                    entry.stopped_at_start, entry.stopped_at_data, entry.stopped_at_ready, entry.long_run_ns,
                    entry.margin_ns if entry.kind == StartKind.SCHEDULE else 0, entry.halted_at_start, entry.halted_at_ready,
                )
            if any(bytes(raw[_UNSEEN])):
                entry = Goroutine.from_buffer_copy(raw)
                if entry.unseen_ns >= _UNSEEN_NS:
                    unseen.append(UnseenWait(entry.unseen_goid, entry.unseen_ns))
        return opened, known, unseen

    def open_since(self, g: int) -> int:
        """When the open interval of the goroutine at `g` began, 0 if there is none."""
        raw = self._maps.numbered("goroutines", g, Goroutine)
        return 0 if raw is None else Goroutine.from_buffer_copy(raw).start_ns

    def read_running(self) -> list[RunningTime]:
        """The running times of all goroutines in the table."""
        return [
            RunningTime(int.from_bytes(key, "little"), e.run_ns, e.off_ns, e.run_since, bool(e.flags & (GOROUTINE_BORN | GOROUTINE_ENDED)))
            for key, e in self._maps.structs("goroutines", ct.c_uint64, Goroutine)
        ]

    def read_open_threads(self) -> list[OpenThread]:
        """The threads that are off their CPU with a goroutine."""
        return [
            OpenThread(
                e.g, e.goid, e.kind, e.out_ns, e.woken_ns, e.stack, e.kernel_stack, e.object, e.syscall, e.stopped_at_out,
                e.stopped_at_woken, e.long_run_ns, bool(e.throttled), e.halted_at_out,
                *self._carried(e),
            )
            for _, e in self._maps.structs("threads", ct.c_uint32, Thread) if e.out_ns
        ]

    def _carried(self, thread: Thread) -> tuple[int, bool, bool]:
        """`OpenThread.carried_ns`, `counted` and `before` of a thread that sleeps again in a wait that was interrupted."""
        raw = self._maps.numbered("waits", thread.g, Wait) if thread.flags & THREAD_CONTINUES else None
        if raw is None:
            return 0, False, False
        wait = Wait.from_buffer_copy(raw)
        return wait.ns, bool(wait.flags & WAIT_COUNTED), bool(wait.flags & WAIT_BEFORE)

    def read_pauses(self, since: int = 0) -> list[WorldPause]:
        """Stop-the-world pauses from number `since` on; the last one may still last."""
        began = self._maps.read("world", ONLY, World).pauses
        found = []
        for index in range(since, min(began, MAX_PAUSES)):
            entry = self._maps.read("pauses", struct.pack("<I", index), Pause)
            found.append(WorldPause(entry.start_ns, entry.duration_ns, entry.reason))
        return found

    def stopped_ns(self, until_ns: int) -> int:
        """How long the world had been stopped in total, counted as in bpf/maps.c: stopped_until."""
        world = self._maps.read("world", ONLY, World)
        total: int = world.stopped_ns + (max(0, until_ns - world.stopped_since) if world.stopped_since else 0)
        return total

    def halted_ns(self, until_ns: int) -> int:
        """How long the process had been stopped from outside in total, counted as in bpf/maps.c: halted_until."""
        return self._maps.halted_ns(until_ns)

    def threads_outside(self) -> int:
        """How many threads were seen in C, with no Go code below."""
        return sum(bool(thread.flags & THREAD_OUTSIDE) for _, thread in self._maps.structs("threads", ct.c_uint32, Thread))
