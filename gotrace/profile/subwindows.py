"""How the figures of each stack changed during the window: one row per second, fewer in a long trace."""

from __future__ import annotations

from collections.abc import Iterable

from gotrace.profile.types import StackStat, SubWindow

FIRST_LENGTH_NS = 1_000_000_000
MAX_SUBWINDOWS = 64
"""If there are more, two become one: a trace of an hour has rows of 64 seconds."""
MAX_ROWS = 100_000
"""For all stacks together: about 25 MB of gotrace's memory."""


class SubWindows:
    """Keeps `StackStat.subwindows` of one process; call it with the changed stacks at every reading of the kernel's sums."""

    def __init__(self) -> None:
        self._length_ns = FIRST_LENGTH_NS
        self._last_ns = 0
        self._rows = 0
        # By identity: a stack's key is long, and the reference held here keeps the identity valid.
        self._sums: dict[int, tuple[StackStat, int, int, int]] = {}

    def add(self, changed: Iterable[StackStat], now_ns: int) -> None:
        """Adds what the stacks' sums gained since the last call to the sub-window that contains the middle of that time. `now_ns` is from
        the window's start."""
        middle = (self._last_ns + now_ns) // 2
        self._last_ns = now_ns
        while middle // self._length_ns >= MAX_SUBWINDOWS:
            self._double()
        start = middle // self._length_ns * self._length_ns
        for stack in changed:
            d = stack.distribution
            _, count, total_ns, squares = self._sums.get(id(stack), (stack, 0, 0, 0))
            self._sums[id(stack)] = (stack, d.count, d.total_ns, d.squares)
            if d.count <= count:
                continue
            new = SubWindow(start, self._length_ns, d.count - count, d.total_ns - total_ns, d.squares - squares)
            rows = stack.subwindows
            if rows and rows[-1].start_ns == start:
                rows[-1] += new
            else:
                rows.append(new)
                self._rows += 1
        while self._rows > MAX_ROWS and self._length_ns < self._last_ns:
            self._double()

    def _double(self) -> None:
        self._length_ns *= 2
        self._rows = 0
        for stack, *_ in self._sums.values():
            stack.subwindows[:] = with_length(stack.subwindows, self._length_ns)
            self._rows += len(stack.subwindows)


def with_length(rows: Iterable[SubWindow], length_ns: int) -> list[SubWindow]:
    """`rows` (of any stacks, in any order) summed up in sub-windows of `length_ns`, a multiple of theirs; in time order."""
    merged: dict[int, SubWindow] = {}
    for row in rows:
        start = row.start_ns // length_ns * length_ns
        row = row._replace(start_ns=start, duration_ns=length_ns)
        merged[start] = merged[start] + row if start in merged else row
    return [merged[start] for start in sorted(merged)]
