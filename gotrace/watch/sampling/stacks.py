"""The stacks of goroutines that are off the CPU, copied at one moment and walked afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gotrace.live.gstruct import Head
from gotrace.live.scan import Copy, Scanner, Snapshot

_TRIES = 3
_AT_ONCE, _BYTES_AT_ONCE = 1024, 32 << 20
"""Goroutines, and bytes of their stacks, that are copied before they are walked."""


class StackReader:
    """Reads stacks through `scanner`, by index. `off_cpu` tells whose stacks are wanted."""

    def __init__(self, scanner: Scanner, off_cpu: Callable[[Head], bool]) -> None:
        self._scanner = scanner
        self._off_cpu = off_cpu

    def portions(self, wanted: list[int]) -> Iterator[list[int]]:
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

    def copies(self, wanted: list[int]) -> dict[int, Copy]:
        """Copies the goroutines and their stacks, as of now."""
        found: dict[int, Copy] = {}
        for _ in range(_TRIES):
            found |= self._scanner.copies(wanted)
            again = [index for index in wanted if index in found and found[index].stack is None and self._off_cpu(found[index].head)]
            wanted = next(self.portions(again))  # their stacks may be larger now
            if not wanted:
                break
        return found

    def walked(self, index: int, copy: Copy) -> Snapshot:
        """Walks a copied stack; reads it again if it makes no sense."""
        snapshot = self._scanner.snapshot(copy)
        for _ in range(_TRIES - 1 if copy.stack is not None else 0):
            if snapshot.pcs is not None or not self._off_cpu(snapshot.head):
                break
            snapshot = self._scanner.snapshots([index]).get(index, snapshot)
        return snapshot
