"""Being on time. A look at goroutines counts for the time around it, so its moment must not depend on what they do. A thread that has
to wait for a CPU until one of them leaves it sees too few that run: `tests/integration/watch/test_sample.py` has such a program."""

from __future__ import annotations

import os
import time

LATE_S = 0.001
"""A look that comes so much too late has waited for a CPU."""
LONGEST_NS = 5_000_000
"""So long a look is before the target; what is left of it is done like anything else."""


class Promptness:
    """The lowest real-time priority for the calling thread, where it may have that (CAP_SYS_NICE): it then gets a CPU as soon as it
    wakes. To be taken before it waits and given back once the look has read what depends on its moment, so that nothing else that it does
    is before the target."""

    def __init__(self) -> None:
        self._usual = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        # Who has been given another policy shall keep it.
        self._possible = self._usual in (os.SCHED_OTHER, os.SCHED_BATCH)
        self._taken = False
        self._since_ns = 0

    def take(self) -> None:
        """Nothing where it may not be had."""
        if self._possible:
            self._possible = self._taken = self._set(os.SCHED_FIFO, 1)

    def begin(self) -> None:
        """The look begins now."""
        self._since_ns = time.monotonic_ns()

    def check(self) -> None:
        """To be called all the time during a look: gives it back when that has taken long enough."""
        if self._taken and time.monotonic_ns() - self._since_ns > LONGEST_NS:
            self.give_back()

    def give_back(self) -> None:
        """Back to what it was; nothing if it was not taken."""
        if self._taken:
            self._taken = False
            self._set(self._usual, 0)

    def allowed(self) -> bool:
        """Whether it may be had, or we have it anyway: tried."""
        if self._usual in (os.SCHED_FIFO, os.SCHED_RR):
            return True
        self.take()
        self.give_back()
        return self._possible

    def _set(self, policy: int, priority: int) -> bool:
        try:
            # Not for children. The flag stays: who has no CAP_SYS_NICE, but a limit that allows this, can't take it away.
            os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
        except OSError:
            return False
        return True
