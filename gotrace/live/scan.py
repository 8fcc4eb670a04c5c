"""Samples all goroutines repeatedly, at the cost of those that changed.

The g structs are in a few spans of the heap (runtime/proc.go: malg), so a span is one range to read, and a span with the same bytes as
in the last sample is done with one comparison. Only what differs is parsed.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import NamedTuple

from gotrace.gobin.layout import Layout
from gotrace.live.goroutines import GoroutineReader, Unwinder
from gotrace.live.gstruct import GStruct, Head, Status
from gotrace.proc.memory import FixedRanges, Memory
from gotrace.proc.priority import SamplePriority

_LARGEST_GAP = 1024
_LARGEST_RANGE = 8192
_RANGES_PER_CALL = 512
_COPIES_PER_CALL = 128
_MOST_BATCHES = 32
_LARGE_GROWTH = 1000
_WHOLE_STACK = 8192
"""Stacks up to this size are read whole: it then does not matter if the stack pointer has moved since it was read."""
_ABOVE_SP = 512
_MAX_STACK_READ = 1 << 20
_NOT_READ = Head(0, -1, 0, 0, 0, 0, 0, 0, 0, -1)
"""The head of a goroutine that no sample has met yet: in no state, with no stack."""


class Copy(NamedTuple):
    """A goroutine and the bytes of its stack from the stack pointer up, None if it moved while they were read."""

    head: Head
    stack: bytes | None


class Snapshot(NamedTuple):
    """A goroutine with its stack. `pcs` is None if it moved while it was read, or its stack makes no sense."""

    head: Head
    pcs: tuple[int, ...] | None


@dataclass
class _Batch:
    ranges: FixedRanges
    spans: list[tuple[int, int, list[tuple[int, int]]]]  # begin, end, (offset in it, index of the g)
    whole: bytes = b""


class Scanner:
    """The goroutines of one process, by index into runtime.allgs, which only grows. Long work gives `priority` back."""

    def __init__(
        self, memory: Memory, reader: GoroutineReader, unwinder: Unwinder, layout: Layout, priority: SamplePriority | None = None,
    ) -> None:
        self._memory = memory
        self._reader = reader
        self._unwinder = unwinder
        self._struct = GStruct(layout)
        self._priority = priority or SamplePriority()
        self._addresses = array("Q")
        self._batches: list[_Batch] = []
        self._buffer = bytearray(_RANGES_PER_CALL * _LARGEST_RANGE)
        self.heads: list[Head] = []

    @property
    def has_tick(self) -> bool:
        """Whether short stays at one place can be distinguished from a long one."""
        return self._struct.has_tick

    def address(self, index: int) -> int:
        """The address of the g."""
        return self._addresses[index]

    def sample(self) -> list[int]:
        """Takes a sample; returns the indexes of those whose `heads` have changed since the last one.

        Raises:
            ProcessLookupError: the process is gone.
            PermissionError: we may not read it any more.
        """
        count = self._reader.count()
        if count > len(self._addresses):
            if count - len(self._addresses) > _LARGE_GROWTH:
                self._priority.give_back()
            self._add(self._reader.addresses())
        changed: list[int] = []
        for batch in self._batches:
            whole = batch.ranges.read()
            if whole is None:
                self._read_each(batch, changed)
            elif whole != batch.whole:
                self._compare(batch, whole, changed)
            self._priority.check()
        return changed

    def _compare(self, batch: _Batch, whole: bytes, changed: list[int]) -> None:
        before, batch.whole = batch.whole, whole
        for begin, end, places in batch.spans:
            span, old = whole[begin:end], before[begin:end]
            if span != old:
                self._compare_span(span, old, places, changed)

    def _compare_span(self, span: bytes, old: bytes, places: list[tuple[int, int]], changed: list[int]) -> None:
        size, heads = self._struct.size, self.heads
        for offset, index in places:
            raw = span[offset : offset + size]
            if raw != old[offset : offset + size]:
                head = self._head(raw)
                if head != heads[index]:
                    heads[index] = head
                    changed.append(index)

    def _read_each(self, batch: _Batch, changed: list[int]) -> None:
        batch.whole = b""
        for (_, _, places), span in zip(batch.spans, batch.ranges.read_each(), strict=True):
            if span is not None:
                self._compare_span(span, b"", places, changed)

    def _head(self, raw: bytes | bytearray, offset: int = 0) -> Head:
        """Two equal heads are the same stay. Without a tick, a stay elsewhere that no sample meets goes unnoticed."""
        head = self._struct.parse(raw, offset)
        return head if head.status == Status.WAITING or not head.reason else head._replace(reason=0)

    def _add(self, addresses: array[int]) -> None:
        """Adds goroutines: the list only grows; after a large addition the spans are determined again."""
        known = len(self._addresses)
        if addresses[:known] != self._addresses:
            known = 0  # half a list was read
        first = known
        if len(addresses) > 1.2 * known or len(self._batches) > _MOST_BATCHES + len(addresses) // _RANGES_PER_CALL:
            first = 0
        if first == 0:
            self._batches = []
        self.heads += [_NOT_READ] * (len(addresses) - len(self.heads))
        self._addresses = addresses
        spans = self._spans(sorted((addresses[index], index) for index in range(first, len(addresses))))
        for start in range(0, len(spans), _RANGES_PER_CALL):
            part, position, ranges = [], 0, []
            for begin, end, places in spans[start : start + _RANGES_PER_CALL]:
                ranges.append((begin, end - begin))
                part.append((position, position + end - begin, places))
                position += end - begin
            self._batches.append(_Batch(self._memory.fixed(ranges, self._buffer), part))

    def _spans(self, order: list[tuple[int, int]]) -> list[tuple[int, int, list[tuple[int, int]]]]:
        size = self._struct.size
        spans: list[tuple[int, int, list[tuple[int, int]]]] = []
        for address, index in order:
            if spans:
                begin, end, places = spans[-1]
                if address - end <= _LARGEST_GAP and address + size - begin <= _LARGEST_RANGE:
                    places.append((address - begin, index))
                    spans[-1] = (begin, address + size, places)
                    continue
            spans.append((address, address + size, [(0, index)]))
        return spans

    def copies(self, indexes: list[int]) -> dict[int, Copy]:
        """The goroutines with their stacks, each as of one moment: its g is read before and after the stack, in the same system call, and
        must not have changed. Their `heads` are updated; those that can't be read are left out."""
        found: dict[int, Copy] = {}
        for start in range(0, len(indexes), _COPIES_PER_CALL):
            self._copy(indexes[start : start + _COPIES_PER_CALL], found)
            self._priority.check()
        return found

    def copied(self, index: int) -> int:
        """The most bytes of its stack that `copies` would take."""
        head = self.heads[index]
        return max(0, min(head.hi - head.sp, _MAX_STACK_READ))

    def snapshot(self, copy: Copy) -> Snapshot:
        """The copy with its stack walked."""
        return Snapshot(copy.head, None if copy.stack is None else self._walk(copy.head, copy.stack))

    def snapshots(self, indexes: list[int]) -> dict[int, Snapshot]:
        """`copies` with their stacks walked."""
        return {index: self.snapshot(copy) for index, copy in self.copies(indexes).items()}

    def _copy(self, indexes: list[int], found: dict[int, Copy]) -> None:
        size, buffer, words, places, total = self._struct.size, self._buffer, array("Q"), [], 0
        for index in indexes:
            head, address = self.heads[index], self._addresses[index]
            lo, hi, sp = head.lo, head.hi, head.sp
            start = lo if hi - lo <= _WHOLE_STACK else max(lo, min(sp - _ABOVE_SP, hi - 8))
            length = max(0, min(hi - start, _MAX_STACK_READ))
            words.extend((address, size, start, length, address, size))
            places.append((index, total, start, length))
            total += size + length + size
        if total > len(buffer) or self._memory.read_into(buffer, total, words) != total:
            self._copy_parts(indexes, found)
            return
        for index, before, start, length in places:
            stack, old = before + size, self.heads[index]
            after = stack + length
            head = self.heads[index] = self._head(buffer, after)
            stayed = buffer[before:stack] == buffer[after : after + size] or self._head(buffer, before) == head
            same = stayed and (old.lo, old.hi) == (head.lo, head.hi)
            whole = same and start <= head.sp < min(head.hi, start + length)
            found[index] = Copy(head, bytes(memoryview(buffer)[stack + head.sp - start : after]) if whole else None)

    def _copy_parts(self, indexes: list[int], found: dict[int, Copy]) -> None:
        """Copies half by half, if one of them can't be read, or they are too many at once."""
        if len(indexes) > 1:
            middle = len(indexes) // 2
            self._copy(indexes[:middle], found)
            self._copy(indexes[middle:], found)
            return
        raw = self._memory.read(self._addresses[indexes[0]], self._struct.size)
        if raw is not None:
            head = self.heads[indexes[0]] = self._head(raw)
            found[indexes[0]] = Copy(head, None)

    def _walk(self, head: Head, stack: bytes) -> tuple[int, ...] | None:
        if waits_for_first_turn(head):
            return (head.pc, int.from_bytes(stack[:8], "little"))
        return self._unwinder.unwind(head.pc, stack, head.sp, bp=head.bp)


def waits_for_first_turn(head: Head) -> bool:
    """Whether it was created and has not run yet (runtime/proc.go: newproc1; sched.bp is set at the first switch away)."""
    return head.status == Status.RUNNABLE and not head.bp and bool(head.pc)
