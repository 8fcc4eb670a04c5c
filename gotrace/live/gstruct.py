"""The part of runtime.g that tells where its goroutine is, parsed from the struct's bytes."""

from __future__ import annotations

import struct
from enum import IntEnum
from operator import itemgetter
from typing import NamedTuple

from gotrace.common.errors import Refused
from gotrace.gobin.layout import Layout

SCAN_BIT = 0x1000
_CODES = {"g_atomicstatus": "I", "g_waitreason": "B", "g_trackingSeq": "B"}
_ALWAYS = (
    "g_goid", "g_atomicstatus", "g_waitreason", "g_sched_pc", "g_sched_sp", "g_sched_bp", "g_stack_lo", "g_stack_hi",
)
_SYSCALL = ("g_syscallpc", "g_syscallsp", "g_syscallbp")


class Status(IntEnum):
    """g.atomicstatus without its scan bit (runtime/runtime2.go)."""

    IDLE = 0
    RUNNABLE = 1
    RUNNING = 2
    SYSCALL = 3
    WAITING = 4
    MORIBUND = 5
    DEAD = 6
    ENQUEUE = 7
    COPYSTACK = 8
    PREEMPTED = 9
    LEAKED = 10
    DEAD_EXTRA = 11


class Head(NamedTuple):
    """`pc`, `sp`, `bp` are the saved registers (sched, or the syscall's if it is in one), `lo` and `hi` the stack's bounds, `m` the address
    of its M, 0 if the layout lacks it. `tick` counts, modulo 256, how often it has left the CPU (g.trackingSeq, runtime/proc.go:
    casgstatus); -1 if the layout lacks it."""

    goid: int
    status: int
    reason: int
    pc: int
    sp: int
    bp: int
    lo: int
    hi: int
    m: int
    tick: int


class GStruct:
    """Parses the first `size` bytes of a g. `has_tick`: the layout has that field.

    Raises:
        Refused: the layout makes no sense.
    """

    def __init__(self, layout: Layout) -> None:
        wanted = (*_ALWAYS, *_SYSCALL, "g_m", "g_trackingSeq")
        places = sorted((offset, name) for name in wanted if (offset := getattr(layout, name)) is not None)
        text, end = "<", 0
        for offset, name in places:
            if offset < end:
                raise Refused(f"the layout of runtime.g ({layout.source}) makes no sense: two fields are in one place")
            text += f"{offset - end}x{_CODES.get(name, 'Q')}"
            end = offset + struct.calcsize("<" + _CODES.get(name, "Q"))
        self._struct = struct.Struct(text)
        self.size = end
        order = {name: index for index, (_, name) in enumerate(places)}
        self._always = itemgetter(*(order[name] for name in _ALWAYS))
        self._m, self._tick = order.get("g_m"), order.get("g_trackingSeq")
        self.has_tick = self._tick is not None
        self._syscall = itemgetter(*(order[name] for name in _SYSCALL if name in order)) if order.keys() >= set(_SYSCALL[:2]) else None

    def parse(self, raw: bytes | bytearray, offset: int = 0) -> Head:
        """Parses `raw`, which has at least `size` bytes from `offset` on."""
        values = self._struct.unpack_from(raw, offset)
        goid, status, reason, pc, sp, bp, lo, hi = self._always(values)
        status &= ~SCAN_BIT
        if status == Status.SYSCALL and self._syscall is not None:
            found = self._syscall(values)
            if found[1]:
                pc, sp = found[:2]
                bp = found[2] if len(found) > 2 else 0
        m = values[self._m] if self._m is not None else 0
        return Head(goid, status, reason, pc, sp, bp, lo, hi, m, values[self._tick] if self._tick is not None else -1)
