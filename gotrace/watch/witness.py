"""Detects goroutines that run without a probe seeing it, from the target's own memory."""

from __future__ import annotations

from itertools import islice

from gotrace.live.goroutines import GoroutineReader
from gotrace.live.gstruct import Status

_WATCHED = 1024


class Witness:
    """Parked goroutines, as they were when the window opened. One that has left a CPU since was resumed before that, which a probe sees.

    Created once the window is open; raises ProcessLookupError if the process is gone.
    """

    def __init__(self, reader: GoroutineReader) -> None:
        self._reader = reader
        waiting = islice(reader.in_states(frozenset((Status.WAITING,))), _WATCHED)
        self._known = {found.address: (found.goid, found.tick) for found in waiting if found.tick >= 0}

    def moved(self) -> int:
        """How many of them have run since; 0 where Go does not count that, or where it can't be read."""
        now = self._reader.read(list(self._known))
        return sum(found.goid == goid and found.tick != tick for found in now for goid, tick in [self._known[found.address]])
