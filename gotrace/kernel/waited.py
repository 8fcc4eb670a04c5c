"""What the kernel side needs to tell what goroutines wait for in Go (bpf/waited.c), and the numbers that it gives these objects."""

from __future__ import annotations

import ctypes as ct
from collections.abc import Sequence
from dataclasses import dataclass

from gotrace.common.vocabulary import StartKind
from gotrace.gobin.layout import Layout
from gotrace.gobin.waitlayout import WaitLayout
from gotrace.kernel.records import RowKey
from gotrace.kernel.rows import mixed
from gotrace.kernel.structs import SELECT_CASES

NOT_READ, NO_ROOM = 1, 2
"""In place of an object's number: it could not be read; there was no room for another."""
OF_SELECT = 1 << 63
"""Set in the number of a select's channels, which is no address."""
MOST_CASES = 16
"""Of a select; if it has more, these tell."""
COND_LOCK = 24
"""From a sync.Cond to the lock of its waiters, for which its goroutines park (runtime/sema.go: notifyListWait)."""
MOST_OBJECTS = 1 << 12
"""Locks, and likewise channels and sets of them, that are told apart."""
MOST_BEFORE = 1 << 16
_IO_WAIT = 2
_MOST_REASONS = 64
_LARGEST_SUDOG = 256
_PARKS = frozenset((StartKind.PARK, StartKind.BEFORE, StartKind.SCHEDULE))


@dataclass(frozen=True)
class Reasons:
    """The wait reasons of one Go version behind which there is an object that a park tells, a bit for each number."""

    channels: int
    selects: int
    semaphores: int
    conds: int

    def kind(self, reason: int) -> str:
        """``chan``, ``select``, ``semaphore``, ``cond``, or "" if there is none."""
        bit = 1 << reason
        for mask, kind in ((self.channels, "chan"), (self.selects, "select"), (self.semaphores, "semaphore"), (self.conds, "cond")):
            if mask & bit:
                return kind
        return ""


def reasons_of(wait_reasons: Sequence[str]) -> Reasons:
    """By their texts (runtime/runtime2.go: waitReasonStrings). A nil channel is no object, and a select without cases has none."""
    masks = {"chan": 0, "select": 0, "sync": 0, "cond": 0}
    for number, text in enumerate(wait_reasons[:_MOST_REASONS]):
        if "(nil chan)" in text or "(no cases)" in text:
            continue
        if text == "sync.Cond.Wait":
            kind = "cond"
        elif text.startswith(("sync.", "semacquire")):
            kind = "sync"
        else:
            kind = next((kind for kind in ("chan", "select") if text.split(" ")[0] == kind), "")
        if kind:
            masks[kind] |= 1 << number
    return Reasons(masks["chan"], masks["select"], masks["sync"], masks["cond"])


@dataclass(frozen=True)
class ObjectLayout:
    """Of one process: its wait reasons, the fields that lead to objects, and where its table of semaphores is (0: not known)."""

    reasons: Reasons
    wait: WaitLayout
    semtable: int

    def constants(self, layout: Layout, size: int) -> dict[str, int]:
        """The values of constants of bpf/at_load.h. What needs a field that is not known is left out: its reasons are 0. `size`: so many
        bytes of a g are read at once."""
        wait = self.wait
        known = {name: getattr(wait, f"sudog_{name}") for name in ("elem", "c", "waitlink")}
        read = max((offset for offset in known.values() if offset is not None), default=0) + 8
        channels = None not in (wait.g_waiting, known["c"], known["waitlink"]) and read <= _LARGEST_SUDOG
        parks = layout.m_waitlock is not None and layout.g_m is not None and layout.g_m + 8 <= size
        semaphores = parks and known["elem"] is not None and bool(self.semtable) and read <= _LARGEST_SUDOG
        return {
            "OBJECTS": 1,
            "G_WAITING": wait.g_waiting or 0,
            "M_PARK_LOCK": layout.m_waitlock or 0,
            "SUDOG_ELEM": (known["elem"] or 0) if semaphores else 0,
            "SUDOG_C": (known["c"] or 0) if channels else 0,
            "SUDOG_WAITLINK": (known["waitlink"] or 0) if channels else 0,
            "SUDOG_READ": min(read, _LARGEST_SUDOG),
            "SEMTABLE": self.semtable,
            "CHANNEL_REASONS": self.reasons.channels if channels else 0,
            "SELECT_REASONS": self.reasons.selects if channels else 0,
            "SEMAPHORE_REASONS": self.reasons.semaphores if semaphores else 0,
            "COND_REASONS": self.reasons.conds if parks else 0,
        }


NO_OBJECTS = dict.fromkeys(
    (
        "OBJECTS", "G_WAITING", "M_PARK_LOCK", "SUDOG_ELEM", "SUDOG_C", "SUDOG_WAITLINK", "SUDOG_READ", "SEMTABLE", "CHANNEL_REASONS",
        "SELECT_REASONS", "SEMAPHORE_REASONS", "COND_REASONS",
    ),
    0,
)
"""The constants where objects are not asked for."""


class Waited(ct.Structure):
    """``struct waited``"""

    _fields_ = [("cases", ct.c_uint64), ("channels", ct.c_uint64 * SELECT_CASES)]


def is_of_go(key: RowKey) -> bool:
    """Whether `object` of that row is what this module tells of, and not a file."""
    return key.kind in _PARKS and key.reason != _IO_WAIT


def number_of_select(channels: Sequence[int]) -> int:
    """The number that the kernel side gives a select of these channels, in the order of its cases in the runtime."""
    number = 0
    for channel in channels[:MOST_CASES]:
        number = mixed(number, channel)
    return number | OF_SELECT
