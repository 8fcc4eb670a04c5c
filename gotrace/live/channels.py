"""What goroutines wait for at channels: runtime.g.waiting leads to a sudog for each case, and that to its channel.

Everything is believed only where it refers back: a sudog to its goroutine, a channel's timer to the channel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gotrace.gobin.waitlayout import WaitLayout
from gotrace.live.pages import Pages, signed_at, word_at
from gotrace.live.typenames import TypeNames

RECEIVE, SEND = "receive", "send"
_MOST_CASES = 1 << 16
"""reflect.Select and the runtime allow no more in one select (runtime/select.go)."""
_MOST_SUDOGS = 1 << 23
_SUDOG, _HCHAN = 112, 128
_NEXT = 8
_WHEN_TO_ARG = 24
_WHEN = (16, 24)
"""timer.when: Go 1.23 and 1.24; since 1.25. timer.arg.data, 32 bytes after it, is the channel."""


class Channel(NamedTuple):
    """A channel. `elem` is "" where the type's name is not known, `due_ns` the moment of CLOCK_MONOTONIC at which its timer is due, None if
    no timer is known to feed it."""

    address: int
    length: int
    capacity: int
    closed: bool
    elem_size: int
    elem: str
    due_ns: int | None


class Case(NamedTuple):
    """One operation that a goroutine waits for; `op` is RECEIVE, SEND, or "" if it is not known."""

    channel: Channel
    op: str


class Channels:
    """The channels of one process that its goroutines wait for. `refused` counts goroutines whose records make no sense."""

    def __init__(self, pages: Pages, layout: WaitLayout, types: TypeNames) -> None:
        self._pages, self._layout, self._types = pages, layout, types
        self._channels: dict[int, Channel | None] = {}
        self._receivers: dict[int, set[int]] = {}
        self.refused = 0

    def cases(self, waiting: dict[int, int]) -> dict[int, tuple[Case, ...]]:
        """By the g's address, what each goroutine waits for; `waiting` is its g.waiting. Goroutines that wait for a semaphore, or whose
        records make no sense, are left out.

        Raises:
            ProcessLookupError, PermissionError: the memory can't be read.
        """
        if not self._layout.knows_channels:
            return {}
        lists = self._sudogs(waiting)
        pointers = {channel for found in lists.values() for _, channel in found}
        self._pages.prefetch(pointers, _HCHAN)
        result = {}
        for g, found in lists.items():
            cases = [Case(channel, self._op(sudog, address)) for sudog, address in found if (channel := self._channel(address)) is not None]
            if len(cases) == len(found):
                result[g] = tuple(cases)
            else:
                self.refused += 1
        return result

    def _sudogs(self, waiting: dict[int, int]) -> dict[int, list[tuple[int, int]]]:
        """By g: its sudogs with the channel of each."""
        at_c, at_link = self._layout.sudog_c or 0, self._layout.sudog_waitlink or 0
        found: dict[int, list[tuple[int, int]]] = {}
        pending, total = {g: sudog for g, sudog in waiting.items() if sudog}, 0
        met: dict[int, set[int]] = {}
        while pending and total < _MOST_SUDOGS:
            self._pages.prefetch(pending.values(), _SUDOG)
            following = {}
            for g, sudog in pending.items():
                raw, seen = self._pages.read(sudog, _SUDOG), met.setdefault(g, set())
                total += 1
                if raw is None or word_at(raw, 0) != g or sudog in seen or len(seen) >= _MOST_CASES:
                    found.pop(g, None)
                    self.refused += 1
                    continue
                seen.add(sudog)
                if channel := word_at(raw, at_c):
                    found.setdefault(g, []).append((sudog, channel))
                elif g not in found:
                    continue  # of a semaphore (from Go 1.26 on)
                if link := word_at(raw, at_link):
                    following[g] = link
            pending = following
        for g in pending:
            found.pop(g, None)
        return found

    def channel(self, address: int) -> Channel | None:
        """The channel at `address`, None if there is none that makes sense."""
        return self._channel(address)

    def _channel(self, address: int) -> Channel | None:
        if address not in self._channels:
            self._channels[address] = self._read(address)
        return self._channels[address]

    def _read(self, address: int) -> Channel | None:
        raw = self._pages.read(address, _HCHAN) or self._pages.read(address, 104)
        if raw is None or address % 8:
            return None
        length, capacity, elem_size = word_at(raw, 0), word_at(raw, 8), int.from_bytes(raw[24:26], "little")
        closed = int.from_bytes(raw[28:32], "little")
        # chan.go: makechan, closechan; an element is smaller than 64 kB.
        if length > capacity or capacity >= 1 << 47 or closed > 1:
            return None
        elem = self._types.name(word_at(raw, self._layout.hchan_elemtype or 0), elem_size)
        return Channel(address, length, capacity, bool(closed), elem_size, elem, self._due(raw, address))

    def _due(self, raw: bytes, address: int) -> int | None:
        """Go 1.23 and later: the timer that feeds the channel has it as its argument (time.go: newTimer)."""
        offset = self._layout.hchan_timer
        timer = word_at(raw, offset) if offset is not None else 0
        whole = self._pages.read(timer, 80) if timer else None
        if whole is None:
            return None
        for when in _WHEN:
            if word_at(whole, when + _WHEN_TO_ARG + 8) == address:
                due = signed_at(whole, when)
                return due if due > 0 else None
        return None

    def _op(self, sudog: int, channel: int) -> str:
        """Which of the channel's queues the sudog is in."""
        receivers = self._receivers.get(channel)
        if receivers is None:
            receivers = self._receivers[channel] = self._queue(channel, self._layout.hchan_recvq or 0)
        if sudog in receivers:
            return RECEIVE
        senders = self._receivers.get(-channel)
        if senders is None:
            senders = self._receivers[-channel] = self._queue(channel, self._layout.hchan_sendq or 0)
        return SEND if sudog in senders else ""

    def _queue(self, channel: int, offset: int) -> set[int]:
        found: set[int] = set()
        sudog = self._pages.word(channel + offset) or 0
        while sudog and sudog not in found and len(found) < _MOST_SUDOGS:
            found.add(sudog)
            sudog = self._pages.word(sudog + _NEXT) or 0
        return found


def waiting_for_channels(cases: Iterable[tuple[Case, ...]]) -> set[int]:
    """The addresses of all channels among these cases."""
    return {case.channel.address for found in cases for case in found}
