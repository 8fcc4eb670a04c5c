"""What the BPF programs have recorded of requests, and the ring of what has happened, by which their causes are found (bpf/spans.c)."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from gotrace.kernel.bpf import BpfError, possible_cpus
from gotrace.kernel.maps import ONLY, Maps
from gotrace.kernel.program import history_chunks
from gotrace.kernel.structs import (
    HAPPENED_INTERVAL,
    HAPPENED_REQUEST,
    HISTORY_RECORDS,
    OpenSpan,
    SpanFunction,
    SpanPlace,
    SpanRow,
    SpanRowKey,
    SpanSite,
    Told,
    ToldKey,
)

_RECORD = struct.Struct("<5QII")
_ROW = struct.Struct("<4Q")
_KEY = struct.Struct("<QII")
_SIZE = HISTORY_RECORDS * _RECORD.size
_U32 = (1 << 32) - 1
_WRITERS = 64
"""So many of the last records of a CPU may still be being written."""
_AFTER_A_GAP = 5
"""Parts of one interval, which are recorded in a row when the last of them has ended."""
UNKNOWN_ROW = (1 << 64) - 1
"""In place of a row: waits of which not even state and reason were kept."""


@dataclass(frozen=True)
class Site:
    """A probed instruction at its address in the process; the fields are those of ``struct span_site``."""

    address: int
    function: int
    kind: int
    sp_above: int
    argument: int = 0


@dataclass(slots=True)
class DurationRow:
    """Completed requests of one function whose duration lies in one bucket: their sums, and by row (`rows.row_hash`) how many waits they
    had and how long these took."""

    count: int = 0
    total_ns: int = 0
    cpu_ns: int = 0
    max_ns: int = 0
    waits: dict[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request that has not ended. `over_ns`: a panic was recovered then, which was the end of it; else 0. `waits` as in `DurationRow`."""

    function: int
    goid: int
    start_ns: int
    over_ns: int
    off_ns: int
    request: int
    waits: dict[int, tuple[int, int]]


class PartRecord(NamedTuple):
    """A part of an interval of goroutine `goid`. `row` is the `rows.row_hash` of its key, `what` has its kind, reason and part."""

    start_ns: int
    duration_ns: int
    goid: int
    waker_goid: int
    row: int
    what: int

    @property
    def kind(self) -> int:
        """How the interval began: a value of `StartKind`."""
        return self.what >> 2 & 0xFF

    @property
    def reason(self) -> int:
        """The wait reason's number."""
        return self.what >> 10 & 0xFF

    @property
    def part(self) -> int:
        """A value of `Part`."""
        return self.what >> 18


class Completed(NamedTuple):
    """A request that has ended. `request` is the argument of its function."""

    start_ns: int
    duration_ns: int
    goid: int
    request: int
    bucket: int
    function: int


@dataclass(frozen=True)
class ArgumentLayout:
    """Where in the argument of a span's function the method is, a Go string, and a pointer to where the path is, another."""

    method: int
    url: int
    path: int


def _string(kept: bytes, length: int) -> bytes:
    return kept[:length] if length <= len(kept) else kept + b"..."


class SpanTables:
    """Of one trace. `forgotten`: how many requests were in progress when their probes were removed."""

    def __init__(self, maps: Maps) -> None:
        self.forgotten = 0
        self._maps = maps

    def put_sites(self, sites: Iterable[Site]) -> None:
        """Tells the programs what is at the probed instructions."""
        for site in sites:
            raw = SpanSite(site.function, site.kind, site.sp_above & (1 << 64) - 1, site.argument)
            self._maps.write("span_sites", struct.pack("<Q", site.address), bytes(raw))

    def put_function(self, number: int, slow_ns: int, argument: ArgumentLayout | None) -> None:
        """Has requests of that function told that take at least so long, where the layout of its argument is known."""
        nowhere = (1 << 64) - 1
        fields = (argument.method, argument.url, argument.path) if argument is not None else (nowhere,) * 3
        self._maps.write("span_functions", struct.pack("<I", number), bytes(SpanFunction(slow_ns, *fields)))

    def take_told(self) -> dict[tuple[int, int], tuple[bytes, bytes]]:
        """Method and path of slow requests that have ended since the last call, by goroutine and start; what was not read is empty,
        and what is longer than gotrace keeps ends in three dots."""
        found = {}
        for raw_key, told in list(self._maps.structs("told", ToldKey, Told)):
            self._maps.delete("told", raw_key)
            goid, start_ns = struct.unpack("<QQ", raw_key)
            found[goid, start_ns] = _string(bytes(told.method), told.method_bytes), _string(bytes(told.path), told.path_bytes)
        return found

    def read_rows(self) -> dict[int, dict[int, DurationRow]]:
        """Completed requests by function and bucket of their duration."""
        found: dict[int, dict[int, DurationRow]] = {}
        for raw_key, raw in self._maps.table("span_rows", SpanRowKey, SpanRow):
            row, function, bucket = _KEY.unpack(raw_key)
            count, total, cpu, longest = _ROW.unpack(raw)
            entry = found.setdefault(function, {}).setdefault(bucket, DurationRow())
            if row:
                entry.waits[row] = count, total
            else:
                entry.count, entry.total_ns, entry.cpu_ns, entry.max_ns = count, total, cpu, longest
        return found

    def read_open(self) -> list[OpenRequest]:
        """Requests that are in progress, or whose end has not been noted."""
        found = []
        for raw_key, entry in self._maps.structs("spans", SpanPlace, OpenSpan):
            if entry.start_ns:
                waits = {wait.row: (wait.count, wait.ns) for wait in entry.waits[: min(entry.used, len(entry.waits))]}
                found.append(OpenRequest(
                    int.from_bytes(raw_key[8:], "little"), entry.goid, entry.start_ns, entry.over_ns, entry.off_over_ns - entry.off_ns,
                    entry.request, waits,
                ))
        return found

    def forget_open(self) -> None:
        """The probes are away: the end of no request that is in progress will be seen. `forgotten` counts them."""
        self.forgotten += sum(not request.over_ns for request in self.read_open())
        self._maps.clear("spans", SpanPlace, OpenSpan)


class HistoryReader:
    """Reads the rings of all CPUs, on and on. `lost`: how many records were overwritten before they were read; `known_since_ns`: all
    parts that ended later have been handed out, or will be."""

    def __init__(self, maps: Maps) -> None:
        self.lost = 0
        self.known_since_ns = 0
        self._maps = maps
        self._chunks = history_chunks()
        self._next = [0] * possible_cpus()
        self._unwritten = [0] * possible_cpus()

    def read(self) -> tuple[list[PartRecord], list[Completed]]:
        """What was recorded since the last call, by all CPUs; of each CPU in the order of its records."""
        parts: list[PartRecord] = []
        requests: list[Completed] = []
        heads = struct.unpack(f"<{len(self._next)}Q", self._maps.raw("history_heads", ONLY, 8 * len(self._next)))
        for cpu, head in enumerate(heads):
            if head > self._next[cpu]:
                self._read_cpu(cpu, head, parts, requests)
        return parts, requests

    def _read_cpu(self, cpu: int, head: int, parts: list[PartRecord], requests: list[Completed]) -> None:
        start = max(self._next[cpu], head - (self._chunks - 1) * HISTORY_RECORDS)
        gap = _AFTER_A_GAP if start > self._next[cpu] else 0
        self.lost += start - self._next[cpu]
        number = start
        for number, fields in self._records(cpu, start, head):
            what = fields[5]
            if fields[6] != number & _U32:
                if number > head - _WRITERS and number != self._unwritten[cpu]:
                    self._unwritten[cpu] = number  # being written: the next time
                    number -= 1
                    break
                self.lost += 1  # written anew meanwhile
                gap = _AFTER_A_GAP
            elif what & 3 == HAPPENED_INTERVAL:
                part = PartRecord._make(fields[:6])
                parts.append(part)
                if gap:
                    gap -= 1
                    self.known_since_ns = max(self.known_since_ns, part.start_ns + part.duration_ns)
            elif what & 3 == HAPPENED_REQUEST:
                start_ns, duration_ns, goid, request, bucket = fields[:5]
                requests.append(Completed(start_ns, duration_ns, goid, request, bucket, what >> 2))
        if gap:
            self.known_since_ns = time.monotonic_ns()
        self._next[cpu] = number

    def _records(self, cpu: int, start: int, end: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Records [start, end) of a CPU's ring, each with the number that it has if it is the one that is meant."""
        for chunk in range(start // HISTORY_RECORDS, (end - 1) // HISTORY_RECORDS + 1):
            key = struct.pack("<I", cpu * self._chunks + chunk % self._chunks)
            try:
                raw = self._maps.raw("history", key, _SIZE)
            except BpfError:
                return
            low, high = max(start - chunk * HISTORY_RECORDS, 0), min(end - chunk * HISTORY_RECORDS, HISTORY_RECORDS)
            records = memoryview(raw)[low * _RECORD.size : high * _RECORD.size]
            yield from enumerate(_RECORD.iter_unpack(records), chunk * HISTORY_RECORDS + low + 1)
