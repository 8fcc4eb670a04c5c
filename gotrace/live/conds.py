"""Which sync.Cond a goroutine waits for: its stack has the Cond's address, and the Cond's list of waiters has the goroutine.

sync.Cond is {noCopy, L Locker, notify notifyList{wait, notify uint32; lock uintptr; head, tail *sudog}, checker}, from Go 1.19 to 1.27.
"""

from __future__ import annotations

from typing import NamedTuple

from gotrace.live.pages import Pages, word_at

_COND, _HEAD, _TAIL = 48, 32, 40
_LOCKER = 8
_NEXT = 8
_MOST_WAITERS = 1 << 22
_SEARCHED = 1024
"""Bytes of the stack: the frames of gopark, notifyListWait and Cond.Wait take less than half of it."""


class Cond(NamedTuple):
    """A sync.Cond; `locker` is the address of what its L points to."""

    address: int
    locker: int
    waiters: int


class Conds:
    """The Conds of one process that its goroutines wait for."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._waiters: dict[int, frozenset[int]] = {}

    def of(self, g: int, stack: bytes) -> Cond | None:
        """The Cond that the goroutine waits for, None if it was not found; `stack` is its stack from the stack pointer up.

        Raises:
            ProcessLookupError, PermissionError: the memory can't be read.
        """
        seen: set[int] = set()
        for offset in range(0, min(len(stack), _SEARCHED) & ~7, 8):
            address = word_at(stack, offset)
            if address in seen or address % 8 or not 4096 < address < 1 << 47:
                continue
            seen.add(address)
            raw = self._pages.read(address, _COND)
            if raw is None or not word_at(raw, _HEAD) or not word_at(raw, _TAIL):
                continue
            found = self._list(word_at(raw, _HEAD), word_at(raw, _TAIL))
            if g in found:
                return Cond(address, word_at(raw, _LOCKER), len(found))
        return None

    def _list(self, head: int, tail: int) -> frozenset[int]:
        """The gs of a list of sudogs, empty if it does not end at `tail`."""
        if head not in self._waiters:
            found: set[int] = set()
            seen: set[int] = set()
            sudog, last = head, 0
            while sudog and sudog not in seen and len(seen) < _MOST_WAITERS:
                raw = self._pages.read(sudog, 16)
                if raw is None or not word_at(raw, 0):
                    break
                seen.add(sudog)
                found.add(word_at(raw, 0))
                sudog, last = word_at(raw, _NEXT), sudog
            self._waiters[head] = frozenset(found) if not sudog and last == tail else frozenset()
        return self._waiters[head]
