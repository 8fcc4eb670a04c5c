"""Standing back. Gotrace works in bursts. A thread of the target that wakes while gotrace has that CPU would wait for the end of its
time slice, some milliseconds, which add to the latency of a server although it has CPUs to spare."""

from __future__ import annotations

import os
import threading

from gotrace.watch.backoff import Backoff

LATE_S = 0.01
"""If it is this late for what is due while it stands back, there is no CPU to spare."""
_LOWEST = 19


class Niceness:
    """The lowest niceness for the calling thread, as long as that leaves it on time. Where all CPUs are busy it has the usual niceness, for
    longer each time that this happens. Does nothing if it could not return (no CAP_SYS_NICE), or if another policy was set, or if it is not
    `wanted`.

    Within a control group or session that the scheduler treats as a whole (cgroups, autogroup; sched(7)) niceness counts only among its
    own threads."""

    def __init__(self, wanted: bool = True) -> None:
        self._usual = os.getpriority(os.PRIO_PROCESS, 0)
        policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        self._possible = wanted and policy in (os.SCHED_OTHER, os.SCHED_BATCH) and self._usual < _LOWEST and self._can_return()
        self._lowest = False
        self._backoff = Backoff()

    def stand_back(self) -> None:
        """Takes the lowest niceness, again also after a pause. Call it repeatedly."""
        if self._possible and not self._lowest and self._backoff.over:
            self._lowest = _set(_LOWEST)

    def came_late(self) -> None:
        """Notes that something was done late: if we stood back, not again for a while."""
        if self._lowest:
            self.end()
            self._backoff.failed()

    def end(self) -> None:
        """Returns to the usual niceness."""
        if self._lowest:
            self._lowest = False
            _set(self._usual)

    def _can_return(self) -> bool:
        # In a thread of its own: if it can't return, that thread keeps the niceness.
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
