"""The goroutines of a dump as they are found, with what is needed of each until the dump is complete: a million of them fit into memory."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gotrace.dump.types import GoroutineState
from gotrace.live.scan import Scanner, Snapshot


class Found(NamedTuple):
    """A goroutine of the dump: its number in the list of all and the address of its g, what was read of it, and its record."""

    number: int
    address: int
    snapshot: Snapshot
    state: GoroutineState


class FoundGoroutines:
    """`states` in the order in which they were found, `numbers` those in the list of all. `parked` are the positions of those that Go takes
    for waiting, `waiting` what the g's of these have in the field of that name."""

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner
        self.states: list[GoroutineState] = []
        self.numbers = array("I")
        self.parked, self.waiting = array("I"), array("Q")
        self._sleeping, self._timers, self._dues = array("I"), array("Q"), array("Q")
        self.places: dict[tuple[int, ...] | None, array[int]] = {}

    def __len__(self) -> int:
        return len(self.states)

    def add(self, numbers: list[int], states: list[GoroutineState], pcs: tuple[int, ...] | None) -> None:
        """Adds some with the same stack, whose program counters these are."""
        place = self.places.get(pcs)
        if place is None:
            place = self.places[pcs] = array("I")
        place.extend(range(len(self.states), len(self.states) + len(states)))
        self.states += states
        self.numbers.extend(numbers)

    def park(self, sudogs: Sequence[int], timers: Sequence[int], dues: Sequence[int], asleep: bool) -> None:
        """Notes that the last ones wait. `timers` and `dues` matter only if they are `asleep`."""
        if asleep:
            self._sleeping.extend(range(len(self.parked), len(self.parked) + len(sudogs)))
            self._timers.extend(timers)
            self._dues.extend(dues)
        self.parked.extend(range(len(self.states) - len(sudogs), len(self.states)))
        self.waiting.extend(sudogs)

    def sleep(self, which: int) -> tuple[int, int]:
        """The timer of one of `parked`, and when it is due; 0 if it does not sleep."""
        at = bisect_left(self._sleeping, which)
        return (self._timers[at], self._dues[at]) if at < len(self._sleeping) and self._sleeping[at] == which else (0, 0)

    def address(self, position: int) -> int:
        """That of its g."""
        return self._scanner.address(self.numbers[position])

    def moved(self) -> set[int]:
        """The positions of those that have moved since they were read."""
        moved = self._scanner.moved(self.numbers)
        return {position for position, number in enumerate(self.numbers) if number in moved} if moved else set()

    def whole(self, position: int, pcs: tuple[int, ...] | None) -> Found:
        """All that is known of one, with its stack's program counters."""
        number = self.numbers[position]
        return Found(number, self._scanner.address(number), Snapshot(self._scanner.heads[number], pcs), self.states[position])

    def all(self) -> Iterator[Found]:
        """All of them, place by place."""
        return (self.whole(position, pcs) for pcs, positions in self.places.items() for position in positions)
