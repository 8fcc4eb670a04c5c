"""Which channels and locks nobody but those who wait for them can reach: the whole memory is searched for references to them.

A reference is a word that holds the address of anything inside the object, or inside an object that refers to it. Words that only resemble
addresses count, as do objects that are garbage: so some are taken for reachable that are not, but hardly the other way round.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from gotrace.live.heap import Heap
from gotrace.proc.memory import Memory

_CHUNK = 1 << 16
_BATCH = 64
_LARGEST_OBJECT = 4096
"""Objects beyond that are not followed: what they refer to is taken for reachable."""
_MOST_NODES = 100_000
_MOST_ROUNDS = 6


@dataclass(frozen=True)
class Stack:
    """A goroutine's stack: where it is, and where the part in use begins. `goid`: whose."""

    lo: int
    hi: int
    sp: int
    goid: int


@dataclass
class Search:
    """What a search found. `alone`: the objects that only their own waiters can reach; `searched` bytes of memory, in `rounds`.
    `complete`: it was not given up."""

    alone: set[int] = field(default_factory=set)
    searched: int = 0
    rounds: int = 0
    complete: bool = True


class References:
    """Searches the memory of one process. `waiters`: by object, the goroutines that wait for it; `things`: by goroutine, all objects for
    which it waits; `owned`: what belongs to a goroutine (its g, its sudogs)."""

    def __init__(
        self, memory: Memory, heap: Heap, stacks: Collection[Stack], waiters: dict[int, set[int]], things: dict[int, set[int]],
        owned: dict[int, int],
    ) -> None:
        self._memory, self._heap = memory, heap
        self._stacks = sorted(stacks, key=lambda stack: stack.lo)
        self._starts = [stack.lo for stack in self._stacks]
        self._waiters, self._things, self._owned = waiters, things, owned
        self._edges: dict[int, set[int]] = {}
        """By object, the objects that it refers to."""
        self._of_goroutine: dict[int, set[int]] = {}
        self._live: set[int] = set()

    def search(self, areas: Collection[tuple[int, int]], most: int) -> Search:
        """Searches these areas, each from its start to its end, `most` bytes in all rounds together.

        Raises:
            ProcessLookupError, PermissionError: the memory can't be read.
        """
        result = Search()
        size = sum(end - start for start, end in areas)
        pending = set(self._waiters)
        nodes: dict[int, int] = {}
        while pending and result.complete:
            targets = self._targets(pending, nodes)
            if result.rounds >= _MOST_ROUNDS or result.searched + size > most or len(nodes) > _MOST_NODES:
                self._live |= pending  # what refers to these is not known
                result.complete = result.rounds > 0 and len(nodes) <= _MOST_NODES
                break
            result.rounds += 1
            result.searched += size
            pending = {source for place, word in self._found(areas, targets) for source in self._refers(place, targets[word], nodes)}
        result.alone = set(self._waiters) - self._reached() if result.complete else set()
        return result

    def _targets(self, pending: set[int], nodes: dict[int, int]) -> dict[int, int]:
        """By each address inside the objects to search for, the object."""
        targets = {}
        for base in pending:
            found = self._heap.object(base)
            if found is None or found[1] > _LARGEST_OBJECT:
                self._live.add(base)
                nodes[base] = 0
                continue
            nodes[base] = found[1]
            targets.update(dict.fromkeys(range(found[0], found[0] + found[1], 8), base))
        return targets

    def _found(self, areas: Collection[tuple[int, int]], targets: dict[int, int]) -> Iterator[tuple[int, int]]:
        """(place, word) of each reference."""
        wanted = targets.keys()
        if not wanted:
            return
        chunks = [(at, min(_CHUNK, end - at)) for start, end in areas for at in range(start, end, _CHUNK)]
        for first in range(0, len(chunks), _BATCH):
            ranges = chunks[first : first + _BATCH]
            for (at, _), raw in zip(ranges, self._memory.read_many(ranges), strict=True):
                words = array("Q", raw) if raw is not None else array("Q")
                if not wanted.isdisjoint(words):
                    yield from ((at + 8 * index, word) for index, word in enumerate(words) if word in wanted)

    def _refers(self, place: int, target: int, nodes: dict[int, int]) -> Iterator[int]:
        """Notes that the word at `place` refers to the object `target`; yields the object that contains it if it is a new one."""
        index = bisect_right(self._starts, place) - 1
        if index >= 0 and place < self._stacks[index].hi:
            stack = self._stacks[index]
            if place >= stack.sp:
                self._of_goroutine.setdefault(stack.goid, set()).add(target)
            return
        span = self._heap.span(place)
        if span is None:
            self._live.add(target)  # a variable of the program, or memory that is not Go's
            return
        found = self._heap.object(place)
        if span.manual or not span.pointers or found is None:
            return
        base = found[0]
        if base in self._owned:
            self._of_goroutine.setdefault(self._owned[base], set()).add(target)
        elif base != target:
            self._edges.setdefault(base, set()).add(target)
            if base not in nodes:
                nodes[base] = found[1]
                yield base

    def _reached(self) -> set[int]:
        """Everything that goroutines can reach that something may wake."""
        reached: set[int] = set()
        pending = list(self._live)
        for goid, targets in self._of_goroutine.items():
            if goid not in self._things:
                pending += targets
        while pending:
            node = pending.pop()
            if node in reached:
                continue
            reached.add(node)
            pending += self._edges.get(node, ())
            for goid in self._waiters.get(node, ()):  # whoever waits for it may go on, and use all that it has
                pending += self._of_goroutine.get(goid, ())
                pending += self._things.get(goid, ())
        return reached
