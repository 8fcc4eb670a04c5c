"""What goroutines wait for at channels: runtime.g.waiting leads to a sudog for each case, and that to its channel.

Everything is believed only where it refers back: a sudog to its goroutine, a channel's timer to the channel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gotrace.gobin.waitlayout import WaitLayout
from gotrace.live.fieldsstruct import FieldsStruct
from gotrace.live.pages import Pages, signed_at, word_at
from gotrace.live.timers import Timers
from gotrace.live.typenames import TypeNames

RECEIVE, SEND = "receive", "send"
_MOST_CASES = 1 << 16
"""reflect.Select and the runtime allow no more in one select (runtime/select.go)."""
_MOST_SUDOGS = 1 << 23
_SUDOG = 112
_MOST_KEPT = 1 << 13
_NEXT = 8
_TIME = 24
"""Bytes of a time.Time."""
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


def sudogs_with_channels(
    pages: Pages, layout: WaitLayout, waiting: dict[int, int]
) -> tuple[dict[int, list[tuple[int, int]]], int]:
    """By the g's address: its sudogs with the channel of each, in the runtime's order; and how many goroutines had records that make no
    sense. `waiting` is their g.waiting.

    Raises:
        ProcessLookupError, PermissionError: the memory can't be read.
    """
    fields, refused = FieldsStruct([(0, "Q"), (layout.sudog_c or 0, "Q"), (layout.sudog_waitlink or 0, "Q"), (_SUDOG - 8, "Q")]), 0
    found: dict[int, list[tuple[int, int]]] = {}
    pending, total = {g: sudog for g, sudog in waiting.items() if sudog}, 0
    met: dict[int, set[int]] = {}  # of those with several cases
    while pending and total < _MOST_SUDOGS:
        following = {}
        total += len(pending)
        for (g, sudog), record in zip(pending.items(), pages.records(pending.values(), fields), strict=True):
            seen = met.get(g, ()) if met else ()
            if record is None or record[0] != g or sudog in seen or len(seen) >= _MOST_CASES:
                found.pop(g, None)
                refused += 1
                continue
            _, channel, link, _ = record
            if channel:
                if met and g in found:
                    found[g].append((sudog, channel))
                else:
                    found[g] = [(sudog, channel)]
            elif g not in found:
                continue  # of a semaphore (from Go 1.26 on)
            if link:
                following[g] = link
                met.setdefault(g, set()).add(sudog)
        pending = following
    for g in pending:
        found.pop(g, None)
    return found, refused


class Channels:
    """The channels of one process that its goroutines wait for. `refused` counts goroutines whose records make no sense."""

    def __init__(self, pages: Pages, layout: WaitLayout, types: TypeNames, timers: Timers) -> None:
        self._pages, self._layout, self._types, self._timers = pages, layout, types, timers
        self._fields = FieldsStruct([
            (0, "Q"), (8, "Q"), (24, "H"), (28, "I"), (layout.hchan_elemtype, "Q"), (layout.hchan_timer, "Q"),
            (layout.hchan_recvq, "Q"), (layout.hchan_sendq, "Q"),
        ])
        self._channels: dict[int, tuple[Channel, str] | None] = {}
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
        lists, refused = sudogs_with_channels(self._pages, self._layout, waiting)
        self.refused += refused
        if len(self._channels) > _MOST_KEPT:
            self._channels.clear()
        new = {channel for found in lists.values() for _, channel in found} - self._channels.keys()
        for address, record in zip(new, self._pages.records(new, self._fields), strict=True):
            self._channels[address] = self._channel(address, record)
        result: dict[int, tuple[Case, ...]] = {}
        for g, found in lists.items():
            cases = []
            for sudog, address in found:
                known = self._channels[address]
                if known is None:
                    self.refused += 1
                    break
                cases.append(Case(known[0], known[1] or self._op(sudog, address)))
            else:
                result[g] = tuple(cases)
        return result

    def channel(self, address: int) -> Channel | None:
        """The channel at `address`, None if there is none that makes sense."""
        known = self._known(address)
        return known[0] if known is not None else None

    def _known(self, address: int) -> tuple[Channel, str] | None:
        """The channel, with the operation for which all its waiters wait, "" if these differ, or there are none."""
        if address not in self._channels:
            self._channels[address] = self._channel(address, self._pages.fields(address, self._fields))
        return self._channels[address]

    def _channel(self, address: int, record: tuple[int, ...] | None) -> tuple[Channel, str] | None:
        if record is None or address % 8:
            return None
        length, capacity, elem_size, closed, elem_type, timer, receivers, senders = record
        # chan.go: makechan, closechan; an element is smaller than 64 kB.
        if length > capacity or capacity >= 1 << 47 or closed > 1:
            return None
        elem = self._types.name(elem_type, elem_size)
        channel = Channel(address, length, capacity, bool(closed), elem_size, elem, self._due(timer, address, elem_size))
        return channel, SEND if senders and not receivers else RECEIVE if receivers and not senders else ""

    def _due(self, timer: int, address: int, elem_size: int) -> int | None:
        """Go 1.23 and later: the timer that feeds the channel has it as its argument (time.go: newTimer). If the channel refers to none,
        one may refer to it."""
        if not timer:
            return self._timers.due(address) if elem_size == _TIME else None
        whole = self._pages.read(timer, 80)
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
