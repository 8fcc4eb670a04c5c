"""What each goroutine did of late: the parts of its intervals, in the order of time. In between it ran."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable

from gotrace.kernel.spans import PartRecord

_MOST_PARTS = 400_000
"""100 MB."""


class Timelines:
    """Keeps a bounded number of parts, the latest. `since_ns`: from when on nothing is missing."""

    def __init__(self, since_ns: int) -> None:
        self.since_ns = since_ns
        self._of: dict[int, list[PartRecord]] = {}
        self._unsorted: set[int] = set()
        self._count = 0

    def take(self, parts: Iterable[PartRecord], now_ns: int) -> None:
        """Adds what was recorded since the last call, in any order. `now_ns`: all that ended before is there."""
        of, unsorted = self._of, self._unsorted
        for part in parts:
            own = of.get(part.goid)
            if own is None:
                of[part.goid] = [part]
            else:
                if part < own[-1]:
                    unsorted.add(part.goid)
                own.append(part)
            self._count += 1
        if self._count > _MOST_PARTS:
            self._forget(now_ns)

    def lost(self, until_ns: int) -> None:
        """Records are missing from before that moment."""
        self.since_ns = max(self.since_ns, until_ns)

    def of(self, goid: int) -> list[PartRecord]:
        """Those of one goroutine, in the order of their starts. They don't overlap."""
        own = self._of.get(goid, [])
        if goid in self._unsorted:
            self._unsorted.discard(goid)
            own.sort()
        return own

    def _forget(self, now_ns: int) -> None:
        """The older half."""
        starts: list[int] = []
        for number, parts in enumerate(self._of.values()):
            if not number % 16 or len(starts) < 64:
                for part in parts[:: max(1, len(parts) // 16)]:
                    insort(starts, part.start_ns)
        middle = min(starts[len(starts) // 2], now_ns)
        self.since_ns = max(self.since_ns, middle)
        for goid in list(self._of):
            kept = [part for part in self._of[goid] if part.start_ns + part.duration_ns >= middle]
            if kept:
                self._of[goid] = kept
            else:
                del self._of[goid]
                self._unsorted.discard(goid)
        self._count = sum(map(len, self._of.values()))
