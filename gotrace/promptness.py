"""Being on time. A look at goroutines counts for the time around it, so its moment must not depend on what they do. A thread that has
to wait for a CPU until one of them leaves it sees too few that run: `tests/integration/test_sample.py` has such a
program."""

from __future__ import annotations

import os

LATE_S = 0.001
"""A look that comes so much too late has waited for a CPU."""
_LONGEST_NS = 5_000_000


class Promptness:
    """The lowest real-time priority for the calling thread, where it may have that (CAP_SYS_NICE): it then gets a CPU as soon as it
    wakes. To be taken before it waits and given back after its look, so that nothing else that it does is before the target."""

    def __init__(self) -> None:
        self._usual = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        # Who has been given another policy shall keep it.
        self._possible = self._usual in (os.SCHED_OTHER, os.SCHED_BATCH)
        self._taken = False

    def take(self, last_look_ns: int) -> None:
        """Nothing if the last look took so long that the next one would keep the target from its CPUs for too long."""
        if self._possible and last_look_ns <= _LONGEST_NS:
            self._possible = self._taken = self._set(os.SCHED_FIFO, 1)

    def allowed(self) -> bool:
        """Whether it may be had, or we have it anyway: tried."""
        if self._usual in (os.SCHED_FIFO, os.SCHED_RR):
            return True
        self.take(0)
        self.give_back()
        return self._possible

    def give_back(self) -> None:
        """Back to what it was; nothing if it was not taken."""
        if self._taken:
            self._taken = False
            self._set(self._usual, 0)

    def _set(self, policy: int, priority: int) -> bool:
        try:
            # Not for children. The flag stays: who has no CAP_SYS_NICE, but a limit that allows this, can't take it away.
            os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
        except OSError:
            return False
        return True
