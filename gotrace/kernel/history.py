"""The ring of what has happened, by which the causes of requests are found (bpf/spans.c)."""

from __future__ import annotations

import struct
import time
from collections.abc import Collection, Container, Iterable
from typing import NamedTuple

from gotrace.kernel.bpf import possible_cpus
from gotrace.kernel.maps import ONLY, Maps
from gotrace.kernel.structs import HAPPENED_INTERVAL, HAPPENED_REQUEST, HISTORY_RECORDS

_WORDS = 6
"""Of ``struct happening``; the last one is its two halves."""
_SIZE = HISTORY_RECORDS * _WORDS * 8
_U32 = (1 << 32) - 1
_WHAT = _U32 & ~3
"""Of a record's tail: what a `PartRecord` says besides that it is one."""
_WRITERS = 64
"""So many of the last records of a CPU may still be being written."""
_TAIL, _KINDS = 8 * _WORDS - 8, bytes(byte & 3 for byte in range(256))
"""The byte of a record that has its kind, and what kind by that byte."""
_AFTER_A_GAP = 5
"""Parts of one interval, which are recorded in a row when the last of them has ended."""


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


class Happened:
    """Parts of intervals that were recorded in one stretch of time, by goroutine. They stay as they were read: most are never asked for.
    `until_ns`: none has ended later."""

    def __init__(self, until_ns: int) -> None:
        self.until_ns = until_ns
        self.count = 0
        self._segments: list[memoryview] = []
        self._of: dict[int, list[int]] | None = None
        self._but: set[tuple[int, int]] = set()

    def goids(self) -> Iterable[int]:
        """Goroutines that have some."""
        return self._places().keys()

    def of(self, goid: int) -> list[PartRecord]:
        """Those of one goroutine, in no order."""
        found = []
        for place in self._places().get(goid, ()):
            start_ns, duration_ns, _, waker_goid, row, tail = self._words(place)
            found.append(PartRecord(start_ns, duration_ns, goid, waker_goid, row, tail & _U32))
        return found

    def parts_of(self, whats: Container[int]) -> list[PartRecord]:
        """Those whose kind, reason and part, as bits of `PartRecord.what`, are among `whats`; in no order."""
        found = []
        for number, words in enumerate(self._segments):
            for place, tail in enumerate(words[5::_WORDS].tolist()):
                if tail & 3 == HAPPENED_INTERVAL and tail & _WHAT in whats and (number, place) not in self._but:
                    start_ns, duration_ns, goid, waker_goid, row, tail = words[place * _WORDS : (place + 1) * _WORDS].tolist()
                    found.append(PartRecord(start_ns, duration_ns, goid, waker_goid, row, tail & _U32))
        return found

    def _words(self, place: int) -> list[int]:
        at = place % HISTORY_RECORDS * _WORDS
        return self._segments[place // HISTORY_RECORDS][at : at + _WORDS].tolist()

    def _places(self) -> dict[int, list[int]]:
        """The places of each goroutine's parts, found when one is asked for."""
        if self._of is None:
            self._of = {}
            for number, words in enumerate(self._segments):
                first = number * HISTORY_RECORDS
                for place, (goid, tail) in enumerate(zip(words[2::_WORDS].tolist(), words[5::_WORDS].tolist(), strict=True)):
                    if tail & 3 == HAPPENED_INTERVAL and (number, place) not in self._but:
                        self._of.setdefault(goid, []).append(first + place)
        return self._of

    def take(self, words: memoryview, requests: list[Completed], but: Collection[int] = ()) -> None:
        """Takes the records of a segment, at most `HISTORY_RECORDS`, but for those at the places `but`; requests go to `requests`."""
        self._but.update((len(self._segments), place) for place in but)
        self._of = None
        # Not a view of a whole chunk, of which most was taken before.
        kept = memoryview(bytes(words))
        self._segments.append(kept.cast("Q"))
        kinds = kept[_TAIL :: 8 * _WORDS].tobytes().translate(_KINDS)
        place = kinds.find(HAPPENED_REQUEST)
        while place >= 0:
            if place not in but:
                start_ns, duration_ns, goid, request, bucket, tail = words[place * _WORDS : (place + 1) * _WORDS].tolist()
                requests.append(Completed(start_ns, duration_ns, goid, request, bucket, (tail & _U32) >> 2))
            place = kinds.find(HAPPENED_REQUEST, place + 1)
        self.count += len(words) // _WORDS


class HistoryReader:
    """Reads the rings of all CPUs, on and on. `lost`: how many records were overwritten before they were read; `known_since_ns`: all
    parts that ended later have been handed out, or will be. The ring of each CPU has so many `chunks`."""

    def __init__(self, maps: Maps, chunks: int) -> None:
        self.lost = 0
        self.known_since_ns = 0
        self._maps = maps
        self._chunks = chunks
        self._next = [0] * possible_cpus()
        self._unwritten = [0] * possible_cpus()

    def read(self) -> tuple[Happened, list[Completed]]:
        """What was recorded since the last call, by all CPUs."""
        requests: list[Completed] = []
        heads = struct.unpack(f"<{len(self._next)}Q", self._maps.raw("history_heads", ONLY, 8 * len(self._next)))
        happened = Happened(time.monotonic_ns())
        for cpu, head in enumerate(heads):
            if head > self._next[cpu]:
                self._read_cpu(cpu, head, happened, requests)
        return happened, requests

    def _read_cpu(self, cpu: int, head: int, happened: Happened, requests: list[Completed]) -> None:
        at = max(self._next[cpu], head - (self._chunks - 1) * HISTORY_RECORDS)
        gap = _AFTER_A_GAP if at > self._next[cpu] else 0
        self.lost += at - self._next[cpu]
        while at < head:
            words = self._segment(cpu, at, head)
            numbers = words.cast("B").cast("I")[2 * _WORDS - 1 :: 2 * _WORDS].tolist()
            wrong: list[int] = []
            first = at + 1 & _U32
            if numbers != list(range(first, first + len(numbers))):
                wrong = [place for place, number in enumerate(numbers) if number != at + place + 1 & _U32]
            end = next((place for place in wrong if at + place > head - _WRITERS and at + place != self._unwritten[cpu]), len(numbers))
            over = {place for place in wrong if place < end}  # overwritten meanwhile
            self.lost += len(over)
            gap = self._pass_gaps(words, end, over, gap)
            happened.take(words[: end * _WORDS], requests, over)
            at += end
            if end < len(numbers):
                self._unwritten[cpu] = at  # being written: the next time
                break
        if gap:
            self.known_since_ns = time.monotonic_ns()
        self._next[cpu] = at

    def _segment(self, cpu: int, start: int, end: int) -> memoryview:
        """Records from `start` on, up to `end` or the end of the chunk, as words."""
        chunk, low = divmod(start, HISTORY_RECORDS)
        raw = self._maps.raw("history", struct.pack("<I", cpu * self._chunks + chunk % self._chunks), _SIZE)
        return memoryview(raw).cast("Q")[low * _WORDS : min(end - chunk * HISTORY_RECORDS, HISTORY_RECORDS) * _WORDS]

    def _pass_gaps(self, words: memoryview, end: int, over: set[int], gap: int) -> int:
        """Up to where nothing is known behind records that are lost: until the first parts that follow have ended. `gap`: how many of them
        are yet to come; returns how many are then."""
        if not gap and not over:
            return 0
        for place in range(end):
            if place in over:
                gap = _AFTER_A_GAP
            elif gap and words[place * _WORDS + 5] & 3 == HAPPENED_INTERVAL:
                gap -= 1
                self.known_since_ns = max(self.known_since_ns, words[place * _WORDS] + words[place * _WORDS + 1])
        return gap
