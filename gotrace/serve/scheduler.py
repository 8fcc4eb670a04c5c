"""The scheduler of a process that gotrace serve traces, read from time to time."""

from __future__ import annotations

import time
from collections import deque

from gotrace.common.errors import GotraceError
from gotrace.sched.reading import SchedReader
from gotrace.sched.types import Snapshot
from gotrace.serve.totals import Labels, Totals
from gotrace.serve.triggers import Growth
from gotrace.watch.target import OpenTarget

_SHARE = 0.02
"""It is read so seldom that it takes at most this share of a CPU."""
_MOST_S = 10.0
_MOST_THROTTLED = 128


class SchedWatch:
    """Of one process. `snapshot` is the last that was read; `growth` is that of the number of goroutines; `throttled` are pairs of when
    (CLOCK_MONOTONIC) and for how long the control group had been without quota up to then, in ns."""

    def __init__(self, pid: int, totals: Totals, labels: Labels) -> None:
        self.snapshot: Snapshot | None = None
        self.growth = Growth()
        self.throttled: deque[tuple[int, int]] = deque(maxlen=_MOST_THROTTLED)
        self._pid = pid
        self._totals = totals
        self._labels = labels
        self._due = 0.0
        self._reader: SchedReader | None = None

    def begin(self, target: OpenTarget) -> None:
        """It can be read from now on."""
        self._reader = SchedReader(self._pid, target)

    def end(self) -> None:
        """It can't be read any more."""
        self._reader = None

    def tick(self) -> None:
        """Reads it if it is time."""
        now = time.monotonic()
        if self._reader is None or now < self._due:
            return
        try:
            self.snapshot = self._reader.read()
        except GotraceError:
            self._reader = None  # it has ended: so will the trace
        else:
            cost_s = time.monotonic() - now
            self._due = now + min(_MOST_S, max(0.8, cost_s / _SHARE))
            self._take(self.snapshot, self._reader.quota_group)

    def _take(self, sched: Snapshot, quota_group: tuple[int, int]) -> None:
        now_ns = time.monotonic_ns()
        if sched.goroutines.total is not None:
            self.growth.add(now_ns, sched.goroutines.total)
        if sched.throttled_ns is not None:
            self._totals.note_throttled(self._labels, quota_group, sched.throttled_ns)
            self.throttled.append((now_ns, sched.throttled_ns))
