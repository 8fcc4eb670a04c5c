"""The rings of what has happened, read while programs write to them: nothing twice, nothing wrong, and what is lost is told."""

from __future__ import annotations

import struct

import pytest

from gotrace.kernel import history as module
from gotrace.kernel.history import HistoryReader, PartRecord
from gotrace.kernel.structs import HAPPENED_INTERVAL, HAPPENED_REQUEST, HISTORY_RECORDS

CPUS, CHUNKS = 2, 4


class Rings:
    """What the kernel's maps hold, as bytes: a ring for each CPU."""

    def __init__(self) -> None:
        self.heads = [0] * CPUS
        self.rings = [[bytes(48)] * (CHUNKS * HISTORY_RECORDS) for _ in range(CPUS)]

    def write(self, cpu: int, end: int, goid: int = 1, what: int = HAPPENED_INTERVAL, done: bool = True) -> PartRecord:
        """A part of 10 ns that ends there; not `done`: its program has its place, and no more."""
        number = self.heads[cpu] = self.heads[cpu] + 1
        record = struct.pack("<5QII", end - 10, 10, goid, 3, 4, what, number & 0xFFFFFFFF)
        if done:
            self.rings[cpu][(number - 1) % len(self.rings[cpu])] = record
        return PartRecord(end - 10, 10, goid, 3, 4, what)

    def raw(self, name: str, key: bytes, size: int) -> bytes:
        if name == "history_heads":
            return struct.pack(f"<{CPUS}Q", *self.heads)
        cpu, chunk = divmod(struct.unpack("<I", key)[0], CHUNKS)
        raw = b"".join(self.rings[cpu][chunk * HISTORY_RECORDS : (chunk + 1) * HISTORY_RECORDS])
        assert len(raw) == size
        return raw


@pytest.fixture
def rings(monkeypatch: pytest.MonkeyPatch) -> Rings:
    monkeypatch.setattr(module, "possible_cpus", lambda: CPUS)
    return Rings()


def ends(happened: module.Happened) -> list[int]:
    return sorted(part.start_ns + part.duration_ns for goid in happened.goids() for part in happened.of(goid))


def test_each_record_is_read_once(rings: Rings) -> None:
    reader, written, read = HistoryReader(rings, CHUNKS), [], []
    for step in (3, 0, 1500, 1, 2000, HISTORY_RECORDS, 700):
        for _ in range(step):
            end = 100 + len(written)
            written.append(end)
            rings.write(end % CPUS, end, goid=end % 7)
        read += ends(reader.read()[0])
    assert sorted(read) == written and (reader.lost, reader.known_since_ns) == (0, 0)


def test_fields_are_where_they_belong(rings: Rings) -> None:
    part = rings.write(1, 500, goid=9, what=HAPPENED_INTERVAL | 13 << 2 | 7 << 10 | 2 << 18)
    rings.write(1, 600, goid=8, what=HAPPENED_REQUEST | 5 << 2)
    happened, requests = HistoryReader(rings, CHUNKS).read()
    assert happened.of(9) == [part] and (part.kind, part.reason, part.part) == (13, 7, 2)
    (request,) = requests
    assert (request.start_ns, request.duration_ns, request.goid, request.request, request.bucket, request.function) == (590, 10, 8, 3, 4, 5)
    assert list(happened.goids()) == [9]


def test_what_was_overwritten_is_counted_and_ends_what_is_known(rings: Rings) -> None:
    """Of the other CPU nothing is lost, and what it has is older."""
    reader = HistoryReader(rings, CHUNKS)
    rings.write(1, 50)
    number = 2 * CHUNKS * HISTORY_RECORDS
    for end in range(1000, 1000 + number):
        rings.write(0, end)
    read = ends(reader.read()[0])
    kept = (CHUNKS - 1) * HISTORY_RECORDS
    assert reader.lost == number - kept and read == [50, *range(1000 + number - kept, 1000 + number)]
    # All that ended later is there.
    assert 1000 + reader.lost <= reader.known_since_ns < 1000 + reader.lost + 10
    known = reader.known_since_ns
    rings.write(0, 99_999)
    assert ends(reader.read()[0]) == [99_999] and reader.known_since_ns == known


def test_a_record_that_is_being_written_is_read_the_next_time(rings: Rings) -> None:
    reader = HistoryReader(rings, CHUNKS)
    rings.write(0, 100)
    rings.write(0, 200, done=False)
    rings.write(0, 300)
    assert ends(reader.read()[0]) == [100] and reader.lost == 0
    rings.heads[0] = 1
    rings.write(0, 200)
    rings.heads[0] = 3
    assert ends(reader.read()[0]) == [200, 300] and reader.lost == 0


def test_one_that_is_never_written_is_lost_in_the_end(rings: Rings) -> None:
    reader = HistoryReader(rings, CHUNKS)
    rings.write(0, 100)
    rings.write(0, 200, done=False)
    rings.write(0, 300)
    first, second = ends(reader.read()[0]), ends(reader.read()[0])
    assert (first, second, reader.lost) == ([100], [300], 1)
    assert reader.known_since_ns >= 300  # it may have ended at any time before it was looked for


def test_one_that_is_written_anew_meanwhile_is_no_record_of_its_own(rings: Rings) -> None:
    reader = HistoryReader(rings, CHUNKS)
    for end in range(100, 300):
        rings.write(0, end)
    # The program has come round to the third since the number of records was read.
    rings.rings[0][2] = struct.pack("<5QII", 9000, 10, 1, 3, 4, HAPPENED_INTERVAL, CHUNKS * HISTORY_RECORDS + 3)
    read = ends(reader.read()[0])
    assert read == [100, 101, *range(103, 300)] and reader.lost == 1
    assert 103 <= reader.known_since_ns < 110


@pytest.mark.parametrize("before", [(1 << 32) - 5, (1 << 33) + 7])
def test_records_are_numbered_with_32_bits(rings: Rings, before: int) -> None:
    """More than four billion of one CPU are nothing special."""
    reader = HistoryReader(rings, CHUNKS)
    rings.heads[0] = reader._next[0] = before
    for end in range(100, 110):
        rings.write(0, end, what=HAPPENED_REQUEST if end % 2 else HAPPENED_INTERVAL)
    happened, requests = reader.read()
    assert ends(happened) == [100, 102, 104, 106, 108] and reader.lost == 0
    assert [request.start_ns + request.duration_ns for request in requests] == [101, 103, 105, 107, 109]
