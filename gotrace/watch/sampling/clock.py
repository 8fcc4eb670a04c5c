"""When the next sample of a process's memory is due."""

from __future__ import annotations

import random
import time

_JITTER = 0.25


class SamplingClock:
    """The sampling clock of one process: `rate_hz` samples a second, fewer where they would take more than the share `busiest` of one
    CPU. Moments are CLOCK_MONOTONIC."""

    def __init__(self, rate_hz: float, busiest: float) -> None:
        self._period_ns = round(1e9 / rate_hz)
        self._busiest = busiest
        self._random = random.Random()
        self._next_ns = 0

    def begin(self, start_ns: int) -> None:
        """Starts with a first sample at `start_ns`. Call `plan` next."""
        self._next_ns = start_ns

    @property
    def due(self) -> bool:
        """Whether a sample is due."""
        return time.monotonic_ns() >= self._next_ns

    @property
    def wait_s(self) -> float:
        """Seconds until the next sample is due."""
        return max(0.0, (self._next_ns - time.monotonic_ns()) / 1e9)

    def plan(self, last_ns: int, cost_ns: int) -> bool:
        """Sets the moment of the next sample, after one at `last_ns` that took `cost_ns` of CPU time. The moment is random within the
        period, which grows where samples would take more than their share. It must not depend on when a CPU was free: the target's work
        decides that. Returns False if the moment has already passed; that sample is left out."""
        chance = self._random.uniform(-_JITTER, _JITTER)
        wait = round(self._period_ns * (1 + chance))
        least = round(cost_ns / self._busiest * (1 + _JITTER + chance))
        self._next_ns = max(self._next_ns + wait, last_ns + least)
        now = time.monotonic_ns()
        if self._next_ns > now:
            return True
        self._next_ns = now + wait
        return False
