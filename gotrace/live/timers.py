"""Which timers feed channels, where the channel itself does not say it: up to Go 1.22, and up to Go 1.26 with GODEBUG=asynctimerchan=1,
which a go.mod older than 1.23 sets. The heaps of timers of all Ps are searched.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from gotrace.gobin.binary import GoBinary
from gotrace.live.pages import Pages, signed_at, word_at

_NEWEST = 27
_MOST_PROCS, _MOST_TIMERS = 1 << 16, 1 << 18
_TIMER = 80
_PLACES = ((8, 24, 40, 56, 64), (16, 32, 48, 0, 0), (24, 40, 56, 0, 0))
"""Offsets in runtime.timer of when, f, the data word of arg, and, up to Go 1.22, nextwhen and status (runtime/time.go): up to Go 1.22;
1.23 and 1.24; since 1.25."""
_WAITING, _MODIFIED = 1, (7, 8)
"""timerWaiting; timerModifiedEarlier and timerModifiedLater, whose moment is in nextwhen."""
SEND_TIME = "time.sendTime"
"""The function of a timer that feeds a channel (time/sleep.go)."""


class Timers:
    """The timers of one process that feed channels, read when they are first asked for; at most 262,144 timers."""

    def __init__(self, pages: Pages, binary: GoBinary, bias: int) -> None:
        self._pages, self._binary, self._bias = pages, binary, bias
        self._found: dict[int, int] | None = None
        self._senders: dict[int, bool | None] = {}  # by the address of the function's value
        minor = binary.version.minor if binary.version is not None else _NEWEST
        own = 0 if minor <= 22 else 1 if minor <= 24 else 2
        self._places = (_PLACES[own], *_PLACES[:own], *_PLACES[own + 1 :])

    def due(self, channel: int) -> int | None:
        """The moment of CLOCK_MONOTONIC at which a timer feeds the channel at that address, ns; None if none is known.

        Raises:
            ProcessLookupError, PermissionError: the memory can't be read.
        """
        if self._found is None:
            self._found = dict(self._all())
        return self._found.get(channel)

    def _all(self) -> Iterator[tuple[int, int]]:
        layout, allp = self._binary.sched_layout, self._binary.globals.allp
        heap = layout.p_timers_heap
        header = self._pages.read(allp + self._bias, 16) if allp is not None else None
        if header is None or heap is None:
            return
        base, count = struct.unpack("<QQ", header)
        ps = self._pages.read(base, 8 * count) if 0 < count <= _MOST_PROCS else None
        step, left = 16 if layout.timers_have_when else 8, _MOST_TIMERS
        for (p,) in struct.iter_unpack("<Q", ps or b""):
            heap_of_p = self._pages.read(p + heap, 24)
            entries, length, capacity = struct.unpack("<QQQ", heap_of_p or bytes(24))
            if not 0 < length <= min(capacity, left):
                continue
            left -= length
            raw = self._pages.read(entries, step * length)
            timers = [word_at(raw, at) for at in range(0, step * length, step)] if raw is not None else []
            self._pages.prefetch(timers, _TIMER)
            for timer in timers:
                yield from self._fed(timer)

    def _fed(self, timer: int) -> Iterator[tuple[int, int]]:
        raw = self._pages.read(timer, _TIMER)
        if raw is None:
            return
        for when, f, arg, next_when, status in self._places:
            sends = self._sends_time(word_at(raw, f))
            if sends is None:
                continue
            if sends:
                if status:
                    state = int.from_bytes(raw[status : status + 4], "little")
                    when = when if state == _WAITING else next_when if state in _MODIFIED else -1
                due = signed_at(raw, when) if when >= 0 else 0
                if due > 0:
                    yield word_at(raw, arg), due
            return

    def _sends_time(self, value: int) -> bool | None:
        """Whether a function value is that of time.sendTime; None if it is none."""
        if value not in self._senders:
            self._senders[value] = self._is_send_time(value)
        return self._senders[value]

    def _is_send_time(self, value: int) -> bool | None:
        code = self._pages.word(value) if value else None
        function = self._binary.table.function_at(code - self._bias) if code else None
        return function.name == SEND_TIME if function is not None and function.entry == (code or 0) - self._bias else None
