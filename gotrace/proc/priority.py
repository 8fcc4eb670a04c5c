"""The scheduling priority of samples. A sample counts for the time around it, so its moment must not depend on what goroutines do. A
thread that has to wait until one of them leaves a CPU sees too few that run: `tests/integration/watch/test_sample.py` has such a
program."""

from __future__ import annotations

import os
import time

LATE_S = 0.001
"""A sample that is this late has waited for a CPU."""
LONGEST_NS = 5_000_000
"""How long a sample precedes the target; the rest of it has no priority."""


class SamplePriority:
    """The lowest real-time priority for the calling thread, if it is allowed (CAP_SYS_NICE): the thread then gets a CPU as soon as it
    wakes. Take it before waiting, and give it back once the sample has read what depends on its moment, so that nothing else precedes the
    target."""

    def __init__(self) -> None:
        self._usual = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        # A thread that was given another policy keeps it.
        self._possible = self._usual in (os.SCHED_OTHER, os.SCHED_BATCH)
        self._taken = False
        self._since_ns = 0

    def take(self) -> None:
        """Takes the priority; does nothing if that is not allowed."""
        if self._possible:
            self._possible = self._taken = self._set(os.SCHED_FIFO, 1)

    def begin(self) -> None:
        """Notes that the sample begins now."""
        self._since_ns = time.monotonic_ns()

    def check(self) -> None:
        """Gives the priority back if the sample has taken long enough. Call it repeatedly during a sample."""
        if self._taken and time.monotonic_ns() - self._since_ns > LONGEST_NS:
            self.give_back()

    def give_back(self) -> None:
        """Returns to the usual priority, if this one was taken."""
        if self._taken:
            self._taken = False
            self._set(self._usual, 0)

    def allowed(self) -> bool:
        """Whether it is allowed, found by trying, or the thread has such a priority anyway."""
        if self._usual in (os.SCHED_FIFO, os.SCHED_RR):
            return True
        self.take()
        self.give_back()
        return self._possible

    def _set(self, policy: int, priority: int) -> bool:
        try:
            # Not for children. The flag stays: with a limit that allows this, but no CAP_SYS_NICE, it can't be cleared.
            os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
        except OSError:
            return False
        return True
