"""The scheduler's tables in a process's memory: runtime.sched, the Ps, the Ms and the collector's figures.

Each table is checked against what must hold in every process (numbers of Ps in order, a list of Ms that is as long as it is counted,
lengths that a queue can have). A table that does not fit after some tries is not used: its values are None. A table is read while the
process runs, so that one reading may not fit.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from gotrace.gobin.dwarf import RuntimeTypes
from gotrace.gobin.globals import Globals
from gotrace.gobin.schedlayout import sched_layout
from gotrace.proc.memory import Memory
from gotrace.sched.types import PHASES, Collector, Timers
from gotrace.watch.target import OpenTarget

_TRIES, _RETRY_S = 5, 0.001
_MOST_PROCS, _MOST_THREADS = 1 << 16, 1 << 17
_LONGEST_QUEUE = 256
"""runtime/runtime2.go: p.runq."""
_LAST_P_STATUS = 4
_MOST_TIMERS = 1 << 30
_MOST_CYCLES = 1 << 32
_NEW_THREADS = 4
"""How many Ms may have come or gone between two readings."""
_Table = TypeVar("_Table")


@dataclass(frozen=True)
class Sched:
    """Fields of runtime.sched: lengths of lists. `threads` is how many Ms there are."""

    threads: int
    idle_threads: int | None
    spinning_threads: int | None
    idle_procs: int | None
    run_queue: int | None


@dataclass(frozen=True)
class Procs:
    """The Ps. `queues` are the lengths of their run queues, `timers` is about their timers."""

    count: int
    queues: list[int] | None
    timers: Timers


@dataclass(frozen=True)
class Thread:
    """One M. `number` is its thread's in the process's own PID namespace, 0 before it runs; `goroutine` the address of the g it runs, or in
    whose system call it is; `in_cgo` is None if that is not known."""

    address: int
    number: int
    goroutine: int
    in_cgo: bool | None


class Tables:
    """Reads the tables of one process, any number of times.

    All methods raise ProcessLookupError or PermissionError if the memory can't be read.
    """

    def __init__(self, target: OpenTarget) -> None:
        binary = target.binary
        self._memory: Memory = target.memory
        self._bias = target.bias
        self._layout = sched_layout(binary.version, RuntimeTypes(binary.image))
        self._globals = Globals(binary, self._layout)
        link = self._globals.alllink
        self._link = link if link is not None else self._layout.m_alllink
        procid, curg = binary.layout.m_procid, binary.layout.m_curg
        self._procid = procid if procid is not None else self._layout.m_procid
        self._curg = curg if curg is not None else self._layout.m_curg
        self._known: list[int] = []

    def procs(self) -> Procs | None:
        """The Ps; None if they are not known."""
        return _tried(self._read_procs)

    def sched(self, procs: Procs | None, threads: list[Thread] | None, goroutines: int) -> Sched | None:
        """runtime.sched, checked against the Ps, the Ms and the number of g structs; None if it is not known."""
        return _tried(lambda: self._read_sched(procs, threads, goroutines))

    def threads(self) -> list[Thread] | None:
        """All Ms; None if they are not known."""
        return _tried(self._read_threads)

    def collector(self) -> Collector:
        """What the garbage collector does and has done."""
        places = self._globals.collector
        phase = self._number(places.phase, 4)
        cycles = self._number(places.numgc, 4)
        pauses = self._number(places.pause_total_ns, 8)
        known = phase is not None and phase < len(PHASES)
        # A pause can't be longer than the process has run.
        believed = cycles is not None and pauses is not None and cycles < _MOST_CYCLES and pauses <= time.monotonic_ns()
        return Collector(
            bool(phase) if known else None, cycles if believed else None, pauses if believed else None,
            PHASES[phase] if phase is not None and known else None,
        )

    def _number(self, address: int | None, size: int) -> int | None:
        raw = self._memory.read(address + self._bias, size) if address is not None else None
        return int.from_bytes(raw, "little") if raw is not None else None

    # -- Ps --------------------------------------------------------------------------------------------------------------

    def _read_procs(self) -> Procs | None:
        layout, at = self._layout, self._globals.allp
        header = self._memory.read(at + self._bias, 24) if at is not None else None
        if header is None or layout.p_id is None or layout.p_status is None:
            return None
        base, count, capacity = struct.unpack("<QQQ", header)
        if not 0 < count <= min(capacity, _MOST_PROCS):
            return None
        pointers = self._memory.read(base, 8 * count)
        if pointers is None:
            return None
        ps = struct.unpack(f"<{count}Q", pointers)
        ids = self._fields(ps, layout.p_id, 4)
        states = self._fields(ps, layout.p_status, 4)
        if ids != list(range(count)) or states is None or max(states) > _LAST_P_STATUS:
            return None
        return Procs(count, self._queues(ps), self._timers(ps))

    def _queues(self, ps: tuple[int, ...]) -> list[int] | None:
        heads, tails = self._fields(ps, self._layout.p_runqhead, 4), self._fields(ps, self._layout.p_runqtail, 4)
        if heads is None or tails is None:
            return None
        lengths = [(tail - head) % (1 << 32) for head, tail in zip(heads, tails, strict=True)]
        # The head was read first: between the two readings goroutines may have been added, and others taken.
        return lengths if max(lengths) <= 2 * _LONGEST_QUEUE else None

    def _timers(self, ps: tuple[int, ...]) -> Timers:
        layout = self._layout
        counts = self._fields(ps, layout.p_timers_len, 4)
        whens, earlier = self._fields(ps, layout.p_timers_when, 8), self._fields(ps, layout.p_timers_modified, 8)
        if counts is None or max(counts) > _MOST_TIMERS:
            return Timers()
        if whens is None or earlier is None or any(when >= 1 << 63 for when in (*whens, *earlier)):
            return Timers(sum(counts))
        now = time.monotonic_ns()  # as the runtime's nanotime
        # The lesser of the two where both are there (runtime/time.go: wakeTime, nobarrierWakeTime).
        due = [min(times) for pair in zip(whens, earlier, strict=True) if (times := [when for when in pair if when])]
        late = [now - when for when in due if when <= now]
        return Timers(sum(counts), min((when - now for when in due if when > now), default=None), max(late, default=0))

    def _fields(self, structs: tuple[int, ...], offset: int | None, size: int) -> list[int] | None:
        if offset is None:
            return None
        raws = self._memory.read_many([(address + offset, size) for address in structs])
        return [int.from_bytes(raw, "little") for raw in raws if raw is not None] if None not in raws else None

    # -- sched -----------------------------------------------------------------------------------------------------------

    def _read_sched(self, procs: Procs | None, threads: list[Thread] | None, goroutines: int) -> Sched | None:
        layout, at = self._layout, self._globals.sched
        raw = self._memory.read(at + self._bias, layout.size("schedt_")) if at is not None else None
        if raw is None or layout.schedt_mnext is None or layout.schedt_nmfreed is None:
            return None
        made, freed = (int.from_bytes(raw[offset : offset + 8], "little") for offset in (layout.schedt_mnext, layout.schedt_nmfreed))
        count = made - freed
        if not 0 < count <= _MOST_THREADS or threads is not None and abs(count - len(threads)) > _NEW_THREADS:
            return None

        def length(offset: int | None, most: int) -> int | None:
            value = int.from_bytes(raw[offset : offset + 4], "little") if offset is not None else None
            return value if value is not None and value <= most else None

        found = Sched(
            count, length(layout.schedt_nmidle, count), length(layout.schedt_nmspinning, count),
            length(layout.schedt_npidle, procs.count if procs is not None else _MOST_PROCS), length(layout.schedt_runqsize, goroutines),
        )
        known = (layout.schedt_nmidle, layout.schedt_nmspinning, layout.schedt_npidle, layout.schedt_runqsize)
        values = (found.idle_threads, found.spinning_threads, found.idle_procs, found.run_queue)
        # One field that can't be right: another one may be wrong as well.
        return found if all(offset is None or value is not None for offset, value in zip(known, values, strict=True)) else None

    # -- Ms --------------------------------------------------------------------------------------------------------------

    def _read_threads(self) -> list[Thread] | None:
        first = self._number(self._globals.allm, 8)
        if not first or self._link is None or self._procid is None or self._curg is None or self._layout.m_g0 is None:
            return None
        addresses = self._listed(first, self._link)
        if addresses is None:
            return None
        incgo = self._layout.m_incgo
        size = 8 + max(self._link, self._procid, self._curg, incgo or 0)
        raws = self._memory.read_many([(address, size) for address in addresses])
        found = []
        for address, raw in zip(addresses, raws, strict=True):
            if raw is None:
                return None
            number, goroutine = (int.from_bytes(raw[at : at + 8], "little") for at in (self._procid, self._curg))
            cgo = raw[incgo] if incgo is not None else 2
            if number > 1 << 32:
                return None
            found.append(Thread(address, number, goroutine, bool(cgo) if cgo < 2 else None))
        return found

    def _listed(self, first: int, link: int) -> list[int] | None:
        """The addresses of all Ms, the newest first. The list of the last reading is confirmed at once, as Ms are rarely made or freed."""
        if self._known and self._known[0] == first:
            nexts = self._fields(tuple(self._known), link, 8)
            if nexts == [*self._known[1:], 0]:
                return self._known
        found: list[int] = []
        seen: set[int] = set()
        address = first
        while address:
            if address in seen or len(found) >= _MOST_THREADS or address % 8 or address >= 1 << 47:
                return None
            seen.add(address)
            found.append(address)
            following = self._memory.u64(address + link)
            if following is None:
                return None
            address = following
        self._known = found
        return found


def _tried(read: Callable[[], _Table | None]) -> _Table | None:
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_RETRY_S)
        found = read()
        if found is not None:
            return found
    return None
