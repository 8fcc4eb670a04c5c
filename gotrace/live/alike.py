"""Goroutines whose stacks are alike, read and walked together: in a process with many most wait at few places.

Those that stopped at one instruction, equally deep, are read with stacks of equal length. Of the first one the stack is walked. Of the
others it is enough that the words at which it has return addresses are the same (`Unwinder.way`).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from struct import Struct
from typing import Any, NamedTuple

from gotrace.live.gstruct import Heads, Status
from gotrace.live.unwinding import Unwinder
from gotrace.proc.memory import Memory

_PARKED = frozenset((Status.WAITING, Status.PREEMPTED, Status.LEAKED))
_DEEPEST = 4096
_AT_ONCE = 256
FEWEST = 4
"""So few at one place are not worth it."""
_MOST_SHAPES, _MOST_STACKS = 16, 4096


class Crowd(NamedTuple):
    """Goroutines with the same stack: their indexes, and the bytes of each g as it was after its stack was read."""

    pcs: tuple[int, ...]
    indexes: list[int]
    raws: list[bytes]


class _Shape(NamedTuple):
    """Stacks of one length with the return addresses at the same words: `row` takes the g before, these words, and the g after."""

    row: Struct
    places: tuple[int, ...]
    known: dict[tuple[int, ...], tuple[int, ...]]


class Alike:
    """Reads the goroutines of one process. Of a g the first `size` bytes tell where it is, `whole` bytes are wanted."""

    def __init__(self, memory: Memory, unwinder: Unwinder, size: int, whole: int, buffer: bytearray) -> None:
        self._memory, self._unwinder, self._buffer = memory, unwinder, buffer
        self._size, self._whole = size, whole

    def crowds(
        self, addresses: Sequence[int], heads: Heads, indexes: Iterable[int], stayed: Callable[[int, bytes, bytes], bool], left: list[int],
        fewest: int = FEWEST,
    ) -> Iterator[Crowd]:
        """The crowds among the goroutines with these indexes; `left` gets the others, and those of places with less than `fewest`. `stayed`
        tells whether a g is the same as its head says, by its bytes before and after."""
        groups: dict[tuple[int, int, int], tuple[array[int], array[int]]] = {}
        for index in indexes:
            status, reason, pc, sp, lo, hi = heads.stops(index)
            depth = hi - sp
            if status in _PARKED and lo <= sp and 8 < depth <= _DEEPEST and not depth % 8:
                key = pc, depth, reason
                group = groups.get(key)
                if group is None:
                    group = groups[key] = array("I"), array("Q")
                group[0].append(index)
                group[1].append(sp)
            else:
                left.append(index)
        for (pc, depth, _), (members, sps) in groups.items():
            if len(members) < fewest:
                left += members
                continue
            shapes: list[_Shape] = []
            for start in range(0, len(members), _AT_ONCE):
                part = members[start : start + _AT_ONCE]
                remote = array("Q")
                for index, sp in zip(part, sps[start : start + _AT_ONCE], strict=True):
                    address = addresses[index]
                    remote.extend((address, self._size, sp, depth, address, self._whole))
                yield from self._read(part, remote, pc, depth, shapes, stayed, left)

    def _read(
        self, part: array[int], remote: array[int], pc: int, depth: int, shapes: list[_Shape],
        stayed: Callable[[int, bytes, bytes], bool], left: list[int],
    ) -> Iterator[Crowd]:
        stride = self._size + depth + self._whole
        total = len(part) * stride
        if total > len(self._buffer) or self._memory.read_into(self._buffer, total, remote) != total:
            middle = len(part) // 2
            if not middle:
                left += part
                return
            for here, ranges in ((part[:middle], remote[: 6 * middle]), (part[middle:], remote[6 * middle :])):
                yield from self._read(here, ranges, pc, depth, shapes, stayed, left)
            return
        view, rest = memoryview(self._buffer)[:total], range(len(part))
        found: dict[tuple[int, ...], Crowd] = {}
        if shapes:
            row, _, known = shapes[0]  # most stacks are like the first
            unknown = []
            for number, words in enumerate(row.iter_unpack(view)):
                pcs: tuple[int, ...] | None = known.get(words[1:-1])
                if pcs is None:
                    unknown.append(number)
                else:
                    self._add(part[number], pcs, words[0], words[-1], stayed, found, left)
        for number in unknown if shapes else rest:
            words, pcs = self._by_itself(view[number * stride : (number + 1) * stride], pc, depth, shapes)
            if pcs is None:
                left.append(part[number])
            else:
                self._add(part[number], pcs, words[0], words[-1], stayed, found, left)
        yield from found.values()

    def _add(
        self, index: int, pcs: tuple[int, ...], before: bytes, after: bytes, stayed: Callable[[int, bytes, bytes], bool],
        found: dict[tuple[int, ...], Crowd], left: list[int],
    ) -> None:
        if not stayed(index, before, after[: self._size]):
            left.append(index)
            return
        crowd = found.get(pcs)
        if crowd is None:
            crowd = found[pcs] = Crowd(pcs, [], [])
        crowd.indexes.append(index)
        crowd.raws.append(after)

    def _by_itself(
        self, row: memoryview, pc: int, depth: int, shapes: list[_Shape]
    ) -> tuple[tuple[Any, ...], tuple[int, ...] | None]:
        """The words of one goroutine, and its program counters; None if its stack has to be walked in another way."""
        for shape in shapes:
            words = shape.row.unpack(row)
            pcs = shape.known.get(words[1:-1])
            if pcs is not None:
                return words, pcs
        way = self._unwinder.way(pc, bytes(row[self._size : self._size + depth]))
        if way is None:
            return (), None
        shape = next((one for one in shapes if one.places == way.places), None) or _Shape(self._row(way.places, depth), way.places, {})
        if len(shapes) < _MOST_SHAPES and shape not in shapes:
            shapes.append(shape)
        if len(shape.known) < _MOST_STACKS:
            shape.known[way.pcs[1:]] = way.pcs
        return shape.row.unpack(row), way.pcs

    def _row(self, places: tuple[int, ...], depth: int) -> Struct:
        text, end = f"<{self._size}s", 0
        for place in places:
            text += f"{8 * place - end}xQ"
            end = 8 * place + 8
        return Struct(f"{text}{depth - end}x{self._whole}s")
