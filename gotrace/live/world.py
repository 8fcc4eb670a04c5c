"""Whether the world was asked to stop, and who does not: the goroutines that run on a P all the same."""

from __future__ import annotations

import struct

from gotrace.gobin.globals import Globals
from gotrace.gobin.schedlayout import SchedLayout
from gotrace.proc.memory import Memory

_RUNNING, _LAST_STATUS = 1, 4
"""runtime/runtime2.go: _Prunning, and the last status of a P, _Pdead."""
_MOST_PROCS = 1 << 16


class World:
    """Reads it of one process. runtime.stopTheWorldWithSema sets sched.gcwaiting and asks each P to stop (runtime/proc.go); all others
    stand still until the last has. `bias` is what the process's addresses are above the binary's."""

    def __init__(self, memory: Memory, variables: Globals, layout: SchedLayout, bias: int) -> None:
        self._memory = memory
        self._layout = layout
        sched, allp = variables.sched, variables.allp
        offset = layout.schedt_gcwaiting
        self._waiting = sched + bias + offset if sched is not None and offset is not None else None
        self._allp = allp + bias if allp is not None else None

    def late(self) -> frozenset[tuple[int, int]]:
        """Who has not stopped yet: for each such P its number and the address of the g that it runs. Nobody if no stop is under way, or if
        what is there makes no sense.

        Raises:
            ProcessLookupError, PermissionError: the memory can't be read.
        """
        raw = self._memory.read(self._waiting, 4) if self._waiting is not None else None
        if raw is None or int.from_bytes(raw, "little") != 1:
            return frozenset()
        return frozenset((number, g) for number, g in self._running() if g)

    def _running(self) -> list[tuple[int, int]]:
        layout, curg = self._layout, self._layout.m_curg
        header = self._memory.read(self._allp, 24) if self._allp is not None else None
        if header is None or layout.p_id is None or layout.p_status is None or layout.p_m is None or curg is None:
            return []
        base, count, capacity = struct.unpack("<QQQ", header)
        if not 0 < count <= min(capacity, _MOST_PROCS):
            return []
        ps = struct.unpack(f"<{count}Q", self._memory.read(base, 8 * count) or bytes(8 * count))
        numbers, states = self._values(ps, layout.p_id, 4), self._values(ps, layout.p_status, 4)
        if numbers != list(range(count)) or max(states) > _LAST_STATUS:
            return []
        running = [number for number, state in enumerate(states) if state == _RUNNING]
        ms = self._values([ps[number] for number in running], layout.p_m, 8)
        return list(zip(running, self._values(ms, curg, 8), strict=True))

    def _values(self, structs: list[int] | tuple[int, ...], offset: int, size: int) -> list[int]:
        """A field of each; 0 where it can't be read."""
        raws = self._memory.read_many([(address + offset, size) for address in structs])
        return [int.from_bytes(raw or b"", "little") for raw in raws]
