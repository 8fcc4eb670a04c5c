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
        self._known: dict[int, tuple[int, int]] = {}

    def of(self, g: int, stack: bytes) -> Cond | None:
        """The Cond that the goroutine waits for, None if it was not found; `stack` is its stack from the stack pointer up.

        Raises:
            ProcessLookupError, PermissionError: the memory can't be read.
        """
        words = [word_at(stack, offset) for offset in range(0, min(len(stack), _SEARCHED) & ~7, 8)]
        for address in words:
            if address in self._known and g in self._waiters[self._known[address][0]]:
                return self._cond(address, self._known[address])
        seen: set[int] = set()
        for address in words:
            if address in seen or address % 8 or not 4096 < address < 1 << 47:
                continue
            seen.add(address)
            raw = self._pages.read(address, _COND)
            if raw is None or not word_at(raw, _HEAD) or not word_at(raw, _TAIL):
                continue
            head = word_at(raw, _HEAD)
            if g in self._list(head, word_at(raw, _TAIL)):
                self._known[address] = head, word_at(raw, _LOCKER)
                return self._cond(address, self._known[address])
        return None

    def _cond(self, address: int, known: tuple[int, int]) -> Cond:
        return Cond(address, known[1], len(self._waiters[known[0]]))

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
