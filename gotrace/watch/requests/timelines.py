"""What each goroutine did recently: the parts of its intervals, in the order of time. In between it ran."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from gotrace.kernel.history import Happened, PartRecord

_MOST_PARTS = 1_000_000
"""60 MB."""
_REMEMBERED = 4096


class Timelines:
    """Keeps a bounded number of parts, the latest. `since_ns`: from when on nothing is missing."""

    def __init__(self, since_ns: int) -> None:
        self.since_ns = since_ns
        self._happened: deque[Happened] = deque()
        self._count = 0
        self._sorted: dict[int, list[PartRecord]] = {}
        self._in_progress: dict[int, list[PartRecord]] = {}

    def take(self, happened: Happened) -> None:
        """Adds what was recorded since the last call."""
        for goid in self._sorted.keys() & set(happened.goids()) if len(self._sorted) < _REMEMBERED else list(self._sorted):
            del self._sorted[goid]
        self._happened.append(happened)
        self._count += happened.count
        while self._count > _MOST_PARTS and len(self._happened) > 1:
            oldest = self._happened.popleft()
            self._count -= oldest.count
            self.lost(oldest.latest_ns())
            self._sorted.clear()

    def end(self, parts: Iterable[PartRecord]) -> None:
        """Adds what is in progress as the window ends."""
        for part in parts:
            self._in_progress.setdefault(part.goid, []).append(part)
        self._sorted.clear()

    def lost(self, until_ns: int) -> None:
        """Records are missing from before that moment."""
        self.since_ns = max(self.since_ns, until_ns)

    def of(self, goid: int) -> list[PartRecord]:
        """Those of one goroutine, in the order of their starts. They don't overlap."""
        known = self._sorted.get(goid)
        if known is None:
            known = self._sorted[goid] = sorted(
                [*(part for happened in self._happened for part in happened.of(goid)), *self._in_progress.get(goid, ())]
            )
        return known
