"""Where the goroutines of a process stay, from sample to sample: some forty bytes each, as there may be a million."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gotrace.profile.estimate import Place


class Stay(NamedTuple):
    """A goroutine at one place, or on the CPU (`place` is None), since `start_ns`. `begun_before`: since before the window."""

    goid: int
    start_ns: int
    place: Place | None
    begun_before: bool


class Stays:
    """The stays by the index of the goroutine's struct. Each has a key that distinguishes it from the next one. A hash of it is kept, and
    one of all its parts but the last."""

    def __init__(self) -> None:
        self._goids, self._starts, self._marks, self._stems = array("Q"), array("q"), array("q"), array("q")
        self._places: list[Place | None] = []
        self._flags = bytearray()
        self._there = 0

    def __len__(self) -> int:
        return self._there

    def __contains__(self, index: int) -> bool:
        return index < len(self._flags) and bool(self._flags[index])

    def get(self, index: int) -> Stay | None:
        """The stay, None if there is none."""
        if index not in self:
            return None
        return Stay(self._goids[index], self._starts[index], self._places[index], self._flags[index] == _BEFORE)

    def has_key(self, index: int, key: tuple[object, ...]) -> bool:
        """Whether that is the key of the stay."""
        return index in self and self._marks[index] == hash(key)

    def has_stem(self, index: int, stem: tuple[object, ...]) -> bool:
        """Whether the key of the stay is that with one more part."""
        return index in self and self._stems[index] == hash(stem)

    def put(self, index: int, key: tuple[object, ...], goid: int, start_ns: int, place: Place | None) -> None:
        """Begins a stay where there is none."""
        if index >= len(self._flags):
            more = max(index + 1 - len(self._flags), len(self._flags) // 8)
            for column in (self._goids, self._starts, self._marks, self._stems):
                column.frombytes(bytes(8 * more))
            self._places += [None] * more
            self._flags += bytes(more)
        self._there += not self._flags[index]
        self._goids[index], self._starts[index], self._places[index] = goid, start_ns, place
        self._marks[index], self._stems[index] = hash(key), hash(key[:-1])
        self._flags[index] = _SINCE

    def move(self, index: int, place: Place) -> None:
        """Sets the place of a stay."""
        self._places[index] = place

    def pop(self, index: int) -> Stay | None:
        """Removes the stay and returns it."""
        stay = self.get(index)
        if stay is not None:
            self._flags[index], self._places[index] = _NONE, None
            self._there -= 1
        return stay

    def values(self) -> Iterator[Stay]:
        """All of them."""
        for index, flag in enumerate(self._flags):
            if flag:
                yield Stay(self._goids[index], self._starts[index], self._places[index], flag == _BEFORE)

    def begin(self, start_ns: int) -> None:
        """All have been since before that moment, from which they count."""
        self._starts = array("q", (start_ns,)) * len(self._starts)
        self._flags = self._flags.replace(_SINCE_BYTE, _BEFORE_BYTE)

    def clear(self) -> None:
        """Removes all."""
        self.__init__()  # type: ignore[misc]


_NONE, _SINCE, _BEFORE = range(3)
_SINCE_BYTE, _BEFORE_BYTE = bytes((_SINCE,)), bytes((_BEFORE,))


class Ids:
    """The distinct ones of many numbers, eight bytes each."""

    def __init__(self) -> None:
        self._all = array("Q")
        self._distinct = 0

    def add(self, number: int) -> None:
        """Adds one."""
        self._all.append(number)
        if len(self._all) > 2 * self._distinct + 1024:
            self._settle()

    def __len__(self) -> int:
        self._settle()
        return self._distinct

    def __iter__(self) -> Iterator[int]:
        self._settle()
        return iter(self._all)

    def _settle(self) -> None:
        if len(self._all) != self._distinct:
            self._all = array("Q", set(self._all))
            self._distinct = len(self._all)
