"""What was last read of each goroutine of a process, and whether it is still so."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from gotrace.gobin.layout import Layout
from gotrace.live.gstruct import GStruct, Head, Heads, Status

_WAITING = int(Status.WAITING)


class KnownHeads:
    """By index: the heads, and hashes of the bytes from which they were parsed, 0 for what has not been read."""

    def __init__(self, layout: Layout) -> None:
        self.struct = GStruct(layout)
        self.heads = Heads()
        self.hashes = array("q")

    def grow(self, length: int) -> None:
        """Adds goroutines that were not read yet."""
        self.heads.grow(length)
        self.hashes.extend([0] * (length - len(self.hashes)))

    def parse(self, raw: bytes | bytearray, offset: int = 0) -> Head:
        """Two equal heads are the same stay. Without a tick, a stay elsewhere that no sample meets goes unnoticed."""
        return Head._make(self._fields(raw, offset))

    def _fields(self, raw: bytes | bytearray, offset: int = 0) -> tuple[int, ...]:
        head = self.struct.fields(raw, offset)
        return head if head[1] == _WAITING or not head[2] else Head._make(head)._replace(reason=0)

    def note(self, whole: bytes, places: Iterable[tuple[int, int]], changed: array[int]) -> None:
        """Notes what the g structs at these places of some bytes say, each with its index; those whose head has changed go to `changed`."""
        size, hashes, put, fields = self.struct.size, self.hashes, self.heads.put, self._fields
        for offset, index in places:
            mark = hash(whole[offset : offset + size])
            if mark != hashes[index]:
                hashes[index] = mark
                if put(index, fields(whole, offset)):
                    changed.append(index)

    def stayed(self, index: int, before: bytes, after: bytes) -> bool:
        """Whether a g that was read before and after its stack is still where its head says."""
        mark = hash(after)
        if before == after and mark == self.hashes[index]:
            return True
        head = self.heads[index]
        if self.parse(before) != head or self.parse(after) != head:
            return False
        self.hashes[index] = mark
        return True

    def moved(self, index: int, raw: bytes) -> bool:
        """Whether the g with these bytes does not say the same as its head."""
        if hash(raw) == self.hashes[index]:
            return False
        now, before = self.struct.parse(raw), self.heads[index]
        return (now.goid, now.status, now.pc, now.sp, now.tick) != (before.goid, before.status, before.pc, before.sp, before.tick)
