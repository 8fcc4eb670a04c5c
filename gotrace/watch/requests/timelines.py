"""What each goroutine did recently: the parts of its intervals, in the order of time. In between it ran."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from gotrace.kernel.history import Happened, PartRecord

MOST_PARTS = 1_000_000
PART_BYTES = 100


class Timelines:
    """Keeps a bounded number of parts, the latest: `most`, of which each takes 50 to `PART_BYTES` bytes. `since_ns`: from when on nothing
    is missing."""

    def __init__(self, since_ns: int) -> None:
        self.since_ns = since_ns
        self.most = MOST_PARTS
        self._happened: deque[Happened] = deque()
        self._count = 0
        self._asked: dict[tuple[int, int], list[PartRecord]] = {}
        self._in_progress: dict[int, list[PartRecord]] = {}

    def take(self, happened: Happened) -> None:
        """Adds what was recorded since the last call."""
        self._asked.clear()
        self._happened.append(happened)
        self._count += happened.count
        while self._count > self.most and len(self._happened) > 1:
            oldest = self._happened.popleft()
            self._count -= oldest.count
            self.lost(oldest.until_ns)

    def end(self, parts: Iterable[PartRecord]) -> None:
        """Takes what is in progress as a window ends."""
        self._in_progress.clear()
        for part in parts:
            self._in_progress.setdefault(part.goid, []).append(part)
        self._asked.clear()

    def ending_at(self, end_ns: int) -> list[int]:
        """Goroutines, of those in the last records, that waited to that moment and were resumed after it."""
        latest = self._happened[-1] if self._happened else None
        return [
            goid for goid in latest.goids() if any(part.start_ns + part.duration_ns >= end_ns for part in latest.of(goid))
        ] if latest is not None else []

    def last(self, goid: int, end_ns: int) -> PartRecord | None:
        """What the goroutine waits for at `end_ns`, as the window ends; None if it runs."""
        if goid not in self._in_progress:
            parts = self.of(goid, end_ns - 1)
            return parts[-1] if parts and parts[-1].start_ns + parts[-1].duration_ns >= end_ns else None
        return max(self._in_progress[goid])

    def lost(self, until_ns: int) -> None:
        """Records are missing from before that moment."""
        self.since_ns = max(self.since_ns, until_ns)

    def of(self, goid: int, since_ns: int = 0) -> list[PartRecord]:
        """Those of one goroutine that end after `since_ns`, and maybe more, in the order of their starts. They don't overlap."""
        # What was recorded later has ended later. Most that are asked for lies in the last of hundreds.
        first = len(self._happened)
        while first and self._happened[first - 1].until_ns > since_ns:
            first -= 1
        known = self._asked.get((goid, first))
        if known is None:
            recorded = (part for at in range(first, len(self._happened)) for part in self._happened[at].of(goid))
            known = self._asked[goid, first] = sorted([*recorded, *self._in_progress.get(goid, ())])
        return known
