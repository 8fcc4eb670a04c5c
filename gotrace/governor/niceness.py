"""Standing back. Gotrace works in bursts, and a thread of the target that wakes while it has that CPU would wait for its time slice, some
milliseconds, which is in the latency of a server that has CPUs to spare."""

from __future__ import annotations

import os
import threading

from gotrace.watch.backoff import Backoff

LATE_S = 0.01
"""Who stands back and comes so late to what is due has found no CPU to spare."""
_LOWEST = 19


class Niceness:
    """The lowest niceness for the calling thread, as long as that leaves it on time: where all CPUs are busy it has the usual one, for
    longer each time that this happens. Nothing where the way back is barred (no CAP_SYS_NICE), or another policy was given.

    Within a control group or session that the scheduler treats as a whole (cgroups, autogroup; sched(7)) niceness counts among its own
    threads alone."""

    def __init__(self) -> None:
        self._usual = os.getpriority(os.PRIO_PROCESS, 0)
        policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        self._possible = policy in (os.SCHED_OTHER, os.SCHED_BATCH) and self._usual < _LOWEST and self._can_return()
        self._lowest = False
        self._backoff = Backoff()

    def stand_back(self) -> None:
        """To be called again and again: begins, and goes on after a pause."""
        if self._possible and not self._lowest and self._backoff.over:
            self._lowest = _set(_LOWEST)

    def came_late(self) -> None:
        """We were late for what was due: if we stood back, not again for a while."""
        if self._lowest:
            self.end()
            self._backoff.failed()

    def end(self) -> None:
        """Back to what it was."""
        if self._lowest:
            self._lowest = False
            _set(self._usual)

    def _can_return(self) -> bool:
        # In a thread of its own: who can't would stay there.
        found: list[bool] = []

        def attempt() -> None:
            found.append(_set(_LOWEST) and _set(self._usual))

        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
        return found == [True]


def _set(niceness: int) -> bool:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, niceness)  # on Linux of the calling thread (setpriority(2))
    except OSError:
        return False
    return True
