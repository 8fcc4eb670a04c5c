"""What the BPF programs have recorded of requests (bpf/requests.c)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from gotrace.kernel.maps import Maps
from gotrace.kernel.structs import (
    SPAN_LATE,
    OpenSpan,
    SpanFunction,
    SpanPlace,
    SpanRow,
    SpanRowKey,
    SpanSite,
    Told,
    ToldKey,
)

_ROW = struct.Struct("<4Q")
_KEY = struct.Struct("<QII")
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
    """A request that has not ended, of the goroutine at `g`. `over_ns`: a panic was recovered then, which was the end of it; else 0.
    `waits` as in `DurationRow`. `late`: it began when no more were wanted, and will be in no row."""

    g: int
    function: int
    goid: int
    start_ns: int
    over_ns: int
    off_ns: int
    request: int
    waits: dict[int, tuple[int, int]]
    late: bool


@dataclass(frozen=True)
class ArgumentLayout:
    """Where in the argument of a span's function the method is, a Go string; a pointer to what has the path (None: the argument itself
    has it); and where there the path is, another string. None: nowhere."""

    method: int | None
    url: int | None
    path: int


class ToldRequest(NamedTuple):
    """Method and path of a request, and the profiler labels that its goroutine had last. What was not read is empty, and what is longer
    than gotrace keeps ends in three dots."""

    method: bytes
    path: bytes
    labels: dict[bytes, bytes]


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
        places = (argument.method, argument.url, argument.path) if argument is not None else (None,) * 3
        fields = [nowhere if place is None else place for place in places]
        self._maps.write("span_functions", struct.pack("<I", number), bytes(SpanFunction(slow_ns, *fields)))

    def take_told(self) -> dict[tuple[int, int], ToldRequest]:
        """What is known of slow requests that have ended since the last call, by goroutine and start."""
        found = {}
        for raw_key, told in list(self._maps.structs("told", ToldKey, Told)):
            self._maps.delete("told", raw_key)
            goid, start_ns = struct.unpack("<QQ", raw_key)
            found[goid, start_ns] = ToldRequest(
                _string(bytes(told.method), told.method_bytes), _string(bytes(told.path), told.path_bytes),
                {
                    _string(bytes(label.key), label.key_bytes): _string(bytes(label.value), label.value_bytes)
                    for label in told.labels if label.key_bytes
                },
            )
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
        return self.read_seen()[0]

    def read_seen(self) -> tuple[list[OpenRequest], set[tuple[int, int]]]:
        """The same, and function and goroutine of all requests that were seen to begin. Of a `g` only the last one is known."""
        found, seen = [], set()
        for raw_key, entry in self._maps.structs("spans", SpanPlace, OpenSpan):
            g, function = struct.unpack("<QQ", raw_key)
            seen.add((function, int(entry.goid)))
            if entry.start_ns:
                waits = {wait.row: (wait.count, wait.ns) for wait in entry.waits[: min(entry.used, len(entry.waits))]}
                found.append(OpenRequest(
                    g, function, entry.goid, entry.start_ns, entry.over_ns, entry.off_over_ns - entry.off_ns, entry.request, waits,
                    bool(entry.flags & SPAN_LATE),
                ))
        return found, seen

    def forget_open(self) -> None:
        """The probes are away: the end of no request that is in progress will be seen. `forgotten` counts them."""
        self.forgotten += sum(not request.over_ns and not request.late for request in self.read_open())
        self.clear()

    def clear(self) -> None:
        """No request is in progress any more."""
        self._maps.clear("spans", SpanPlace, OpenSpan)
