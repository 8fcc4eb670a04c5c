"""Samples all goroutines repeatedly, at the cost of those that changed.

A span of g structs (`gotrace.live.spans`) with the same bytes as in the last sample is done with one comparison. Only what differs is
parsed. The bytes of many goroutines are not kept: of these a hash of each g struct is compared.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from gotrace.gobin.layout import Layout
from gotrace.live.alike import FEWEST, Alike, Crowd
from gotrace.live.goroutines import GoroutineReader
from gotrace.live.gstruct import Head, Status
from gotrace.live.knownheads import KnownHeads
from gotrace.live.spans import BUFFER, RANGES_PER_CALL, Batch, batches
from gotrace.live.unwinding import Unwinder
from gotrace.proc.memory import Memory
from gotrace.proc.priority import SamplePriority

_COPIES_PER_CALL = 128
_READ_PER_CALL = 1024
_MOST_BATCHES = 32
_MOST_KEPT = 32 << 20
"""Bytes of the last sample, in all."""
_LARGE_GROWTH = 1000
_WHOLE_STACK = 8192
"""Stacks up to this size are read whole: it then does not matter if the stack pointer has moved since it was read."""
_ABOVE_SP = 512
_MAX_STACK_READ = 1 << 20


class Copy(NamedTuple):
    """A goroutine and the bytes of its stack from the stack pointer up, None if it moved while they were read."""

    head: Head
    stack: bytes | None


class Snapshot(NamedTuple):
    """A goroutine with its stack. `pcs` is None if it moved while it was read, or its stack makes no sense."""

    head: Head
    pcs: tuple[int, ...] | None


class Scanner:
    """The goroutines of one process, by index into runtime.allgs, which only grows. Long work gives `priority` back."""

    def __init__(
        self, memory: Memory, reader: GoroutineReader, unwinder: Unwinder, layout: Layout, priority: SamplePriority | None = None,
    ) -> None:
        self._memory = memory
        self._reader = reader
        self._unwinder = unwinder
        self._known = KnownHeads(layout)
        self._struct, self.heads, self._hashes = self._known.struct, self._known.heads, self._known.hashes
        self._head = self._known.parse
        self._priority = priority or SamplePriority()
        self._addresses = array("Q")
        self._batches: list[Batch] = []
        self._keeps = True
        self._buffer = bytearray(BUFFER)

    @property
    def has_tick(self) -> bool:
        """Whether short stays at one place can be distinguished from a long one."""
        return self._struct.has_tick

    def address(self, index: int) -> int:
        """The address of the g."""
        return self._addresses[index]

    def sample(self) -> array[int]:
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
        changed = array("I")
        for batch in self._batches:
            whole = batch.ranges.read()
            if whole is None:
                self._read_each(batch, changed)
            elif not self._keeps:
                self._known.note(whole, zip(batch.offsets, batch.indexes, strict=True), changed)
            elif whole != batch.whole:
                before, batch.whole = batch.whole, whole
                for span in batch.spans:
                    if whole[span.begin : span.end] != before[span.begin : span.end]:
                        self._known.note(whole, batch.places(span), changed)
            self._priority.check()
        return changed

    def _read_each(self, batch: Batch, changed: array[int]) -> None:
        batch.whole = b""
        for span, raw in zip(batch.spans, batch.ranges.read_each(), strict=True):
            if raw is not None:
                self._known.note(raw, ((offset - span.begin, index) for offset, index in batch.places(span)), changed)

    def _add(self, addresses: array[int]) -> None:
        """Adds goroutines: the list only grows; after a large addition the spans are determined again."""
        known = len(self._addresses)
        if addresses[:known] != self._addresses:
            known = 0  # half a list was read
        first = known
        if len(addresses) > 1.2 * known or len(self._batches) > _MOST_BATCHES + len(addresses) // RANGES_PER_CALL:
            first = 0
        if first == 0:
            self._batches = []
        self._known.grow(len(addresses))
        self._addresses = addresses
        self._batches += batches(self._memory, addresses, range(first, len(addresses)), self._struct.size, self._buffer)
        self._keeps = sum(batch.spans[-1].end for batch in self._batches) <= _MOST_KEPT
        if not self._keeps:
            for batch in self._batches:
                batch.whole = b""

    def crowds(self, indexes: Iterable[int], left: list[int], more: int = 0, fewest: int = FEWEST) -> Iterator[Crowd]:
        """Goroutines with the same stack, together: each as of one moment, as those of `copies`, and off the CPU as its head says. `left`
        gets those that have to be copied one by one. `more`: so many bytes of the g are wanted, if that is more than the heads need."""
        alike = Alike(self._memory, self._unwinder, self._struct.size, max(more, self._struct.size), self._buffer)
        for crowd in alike.crowds(self._addresses, self.heads, indexes, self._known.stayed, left, fewest):
            self._priority.check()
            yield crowd

    def copies(self, indexes: Sequence[int]) -> dict[int, Copy]:
        """The goroutines with their stacks, each as of one moment: its g is read before and after the stack, in the same system call, and
        must not have changed. Their `heads` are updated; those that can't be read are left out."""
        found: dict[int, Copy] = {}
        for start in range(0, len(indexes), _COPIES_PER_CALL):
            self._copy(indexes[start : start + _COPIES_PER_CALL], found)
            self._priority.check()
        return found

    def forget_samples(self) -> None:
        """Frees the bytes of the last sample, if there will be no other."""
        self._keeps = False
        for batch in self._batches:
            batch.whole = b""

    def moved(self, indexes: Sequence[int]) -> set[int]:
        """Those of which the g does not say the same as their `heads`, as of now, or can't be read."""
        if len(indexes) < len(self._addresses) // 8:
            return self._moved_of(indexes)
        size, found, again = self._struct.size, set[int](), list[int]()
        for batch in self._batches:
            whole = batch.ranges.read()
            if whole is None:
                again += batch.indexes
                continue
            for offset, index in zip(batch.offsets, batch.indexes, strict=True):
                if self._known.moved(index, whole[offset : offset + size]):
                    found.add(index)
        return (found | self._moved_of(again)).intersection(indexes)

    def _moved_of(self, indexes: Sequence[int]) -> set[int]:
        size, found = self._struct.size, set()
        for start in range(0, len(indexes), _READ_PER_CALL):
            part = indexes[start : start + _READ_PER_CALL]
            for index, raw in zip(part, self._memory.read_many([(self._addresses[index], size) for index in part]), strict=True):
                if raw is None or self._known.moved(index, raw):
                    found.add(index)
        return found

    def copied(self, index: int) -> int:
        """The most bytes of its stack that `copies` would take."""
        head = self.heads[index]
        return max(0, min(head.hi - head.sp, _MAX_STACK_READ))

    def snapshot(self, copy: Copy) -> Snapshot:
        """The copy with its stack walked."""
        return Snapshot(copy.head, None if copy.stack is None else self._walk(copy.head, copy.stack))

    def snapshots(self, indexes: Sequence[int]) -> dict[int, Snapshot]:
        """`copies` with their stacks walked."""
        return {index: self.snapshot(copy) for index, copy in self.copies(indexes).items()}

    def _copy(self, indexes: Sequence[int], found: dict[int, Copy]) -> None:
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
            raw = bytes(buffer[after : after + size])
            mark = hash(raw)
            if mark == self._hashes[index]:
                head = old  # the same bytes as it was parsed from
            else:
                head = self.heads[index] = self._head(raw)
                self._hashes[index] = mark
            stayed = buffer[before:stack] == raw or self._head(buffer, before) == head
            same = stayed and (old.lo, old.hi) == (head.lo, head.hi)
            whole = same and start <= head.sp < min(head.hi, start + length)
            found[index] = Copy(head, bytes(memoryview(buffer)[stack + head.sp - start : after]) if whole else None)

    def _copy_parts(self, indexes: Sequence[int], found: dict[int, Copy]) -> None:
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
