"""The stacks of goroutines that are off the CPU, copied at one moment and walked afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from gotrace.live.gstruct import Head, Status
from gotrace.live.scan import Copy, Scanner, Snapshot

_TRIES = 3
_MOST_SEEN = 1 << 16
_AT_ONCE, _BYTES_AT_ONCE = 1024, 32 << 20
"""Goroutines, and bytes of their stacks, that are copied before they are walked."""


class StackReader:
    """Reads stacks through `scanner`, by index. `off_cpu` tells whose stacks are wanted."""

    def __init__(self, scanner: Scanner, off_cpu: Callable[[Head], bool]) -> None:
        self._scanner = scanner
        self._off_cpu = off_cpu
        self._seen: dict[tuple[int, ...], tuple[int, ...] | None] = {}
        self._first: dict[int, Head] = {}
        self._copied: dict[int, Copy] = {}

    def portions(self, wanted: Sequence[int]) -> Iterator[list[int]]:
        """Splits `wanted` into portions: the first sample may have a million. Yields at least one, which may be empty."""
        portion: list[int] = []
        size = 0
        for index in wanted:
            more = self._scanner.copied(index)
            if len(portion) >= _AT_ONCE or portion and size + more > _BYTES_AT_ONCE:
                yield portion
                portion, size = [], 0
            portion.append(index)
            size += more
        yield portion

    def begin(self, wanted: list[int]) -> None:
        """Copies these at once, for the `copies` that follow: each microsecond some of them move on."""
        first = next(self.portions(wanted))
        self._first = {index: self._scanner.heads[index] for index in first}
        self._copied = self._copies(first)

    def copies(self, wanted: list[int]) -> tuple[dict[int, Copy], dict[int, Head]]:
        """Copies the goroutines and their stacks, as of now, or of `begin`; and what had been seen of them before."""
        first = {index: self._first.get(index) or self._scanner.heads[index] for index in wanted}
        found = {index: copy for index in wanted if (copy := self._copied.get(index)) is not None}
        return found | self._copies([index for index in wanted if index not in self._first]), first

    def _copies(self, wanted: list[int]) -> dict[int, Copy]:
        found: dict[int, Copy] = {}
        for _ in range(_TRIES):
            found |= self._scanner.copies(wanted)
            again = [index for index in wanted if index in found and found[index].stack is None and self._off_cpu(found[index].head)]
            wanted = next(self.portions(again))  # their stacks may be larger now
            if not wanted:
                break
        return found

    def walked(self, index: int, copy: Copy, first: Head, had_cpu: bool) -> Snapshot:
        """Walks a copied stack; reads it again if it makes no sense. `first` is what was seen of the goroutine before; `had_cpu`: its
        thread was not asleep then. It counts where it was at first: those that ran at first are not read again, so who has got a CPU
        since then would run besides who has lost it. Its stack is that of all that were read which had stopped at the same
        instruction, equally deep, for the same reason; if there were none or several, it is not known."""
        snapshot = self._scanner.snapshot(copy)
        for _ in range(_TRIES - 1 if copy.stack is not None else 0):
            if snapshot.pcs is not None or not self._off_cpu(snapshot.head):
                break
            snapshot = self._scanner.snapshots([index]).get(index, snapshot)
        if first != snapshot.head and (had_cpu or self._off_cpu(first) and not self._off_cpu(snapshot.head)):
            return Snapshot(first, self._known(first))
        if snapshot.pcs is not None and self._off_cpu(snapshot.head):
            self._note(snapshot)
        return snapshot

    def _note(self, snapshot: Snapshot) -> None:
        for stop in _stops(snapshot.head):
            if self._seen.setdefault(stop, snapshot.pcs) != snapshot.pcs:
                self._seen[stop] = None  # there are several
        if len(self._seen) > _MOST_SEEN:
            self._seen.clear()

    def _known(self, head: Head) -> tuple[int, ...] | None:
        stops = _stops(head)[: 1 if head.status == Status.WAITING else 2]
        return next((pcs for stop in stops if (pcs := self._seen.get(stop)) is not None), None)


def _stops(head: Head) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where a goroutine stopped, how deep, and for which reason if it waits: those with the same stack have the same. Who has been woken
    has no reason any more."""
    depth = head.hi - head.sp
    return (head.pc, depth, head.reason if head.status == Status.WAITING else -1), (head.pc, depth)
