"""Single intervals as they come: a wait in the kernel that signals interrupt comes in pieces, and is one interval."""

from __future__ import annotations

from collections import OrderedDict

from gotrace.profile.types import SingleInterval

_MOST = 1 << 16


class GrowingWaits:
    """Where the last wait in the kernel of each goroutine was put, for a limited number of goroutines, those seen last. If the wait of
    another one continues, it is put as a second wait."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[int, int], tuple[int, int]] = OrderedDict()

    def place(self, pid: int, interval: SingleInterval, new: int) -> int:
        """Returns the number under which to put the interval: that of its beginning, or `new`."""
        if not interval.may_go_on:
            return new
        goroutine = pid, interval.goid
        start_ns, number = self._last.pop(goroutine, (-1, new))
        if not interval.goes_on or start_ns != interval.start_ns:
            number = new
        self._last[goroutine] = interval.start_ns, number
        if len(self._last) > _MOST:
            self._last.popitem(last=False)
        return number
