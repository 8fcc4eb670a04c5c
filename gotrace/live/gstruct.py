"""The part of runtime.g that tells where its goroutine is, parsed from the struct's bytes."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
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


_WAITING = int(Status.WAITING)


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
        # What the layout lacks is one of two values behind those of the struct: 0 for the M, -1 for the tick.
        self._lacks = () if {"g_m", "g_trackingSeq"} <= order.keys() else (0, -1)
        order = {"g_m": len(places), "g_trackingSeq": len(places) + 1} | order
        self._pick = itemgetter(*(order[name] for name in (*_ALWAYS, "g_m", "g_trackingSeq")))
        self.has_tick = layout.g_trackingSeq is not None
        self._syscall = itemgetter(*(order[name] for name in _SYSCALL if name in order)) if order.keys() >= set(_SYSCALL[:2]) else None

    def parse(self, raw: bytes | bytearray, offset: int = 0) -> Head:
        """Parses `raw`, which has at least `size` bytes from `offset` on."""
        return Head._make(self.fields(raw, offset))

    def fields(self, raw: bytes | bytearray, offset: int = 0) -> tuple[int, ...]:
        """The same as a tuple, which takes less time."""
        values = self._struct.unpack_from(raw, offset)
        head: tuple[int, ...] = self._pick((*values, *self._lacks) if self._lacks else values)
        return head if head[1] == _WAITING else self._complete(Head._make(head), values)

    def _complete(self, head: Head, values: tuple[int, ...]) -> Head:
        """Without the scan bit; with the registers that count in a system call."""
        status = head.status & ~SCAN_BIT
        if status == Status.SYSCALL and self._syscall is not None:
            found = self._syscall(values)
            if found[1]:
                return head._replace(status=status, pc=found[0], sp=found[1], bp=found[2] if len(found) > 2 else 0)
        return head._replace(status=status) if status != head.status else head


_RECORD = struct.Struct("<QIB6Qhx")
_STOP = struct.Struct("<8xIBQQ8xQQ")
_STATUS = struct.Struct("<8xI52x")


class Heads:
    """The heads of many goroutines by index, 64 bytes each: as objects they would take six times as much."""

    def __init__(self) -> None:
        self._raw = bytearray()

    def __len__(self) -> int:
        return len(self._raw) // _RECORD.size

    def __getitem__(self, index: int) -> Head:
        return Head._make(_RECORD.unpack_from(self._raw, index * _RECORD.size))

    def __setitem__(self, index: int, head: Head) -> None:
        _RECORD.pack_into(self._raw, index * _RECORD.size, *head)

    def __iter__(self) -> Iterator[Head]:
        return map(Head._make, _RECORD.iter_unpack(self._raw))

    def put(self, index: int, head: tuple[int, ...]) -> bool:
        """Sets one; returns whether it differs from what was there."""
        record, start = _RECORD.pack(*head), index * _RECORD.size
        if self._raw[start : start + _RECORD.size] == record:
            return False
        self._raw[start : start + _RECORD.size] = record
        return True

    def stops(self, index: int) -> tuple[int, int, int, int, int, int]:
        """Status, reason, program counter, stack pointer and the stack's bounds of one."""
        return _STOP.unpack_from(self._raw, index * _RECORD.size)

    def in_states(self, wanted: frozenset[Status]) -> array[int]:
        """The indexes of those in one of these states."""
        return array("I", [index for index, (status,) in enumerate(_STATUS.iter_unpack(self._raw)) if status in wanted])

    def grow(self, length: int) -> None:
        """Adds goroutines that were not read yet, in no state and with no stack, up to that number."""
        self._raw += _NOT_READ * (length - len(self))


_NOT_READ = _RECORD.pack(0, 0xFFFFFFFF, 0, 0, 0, 0, 0, 0, 0, -1)
