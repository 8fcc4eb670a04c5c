"""What is kept of the ring of what has happened."""

from __future__ import annotations

import struct
import tracemalloc

from gotrace.kernel.history import Completed, Happened
from gotrace.kernel.structs import HAPPENED_INTERVAL, HAPPENED_REQUEST, HISTORY_RECORDS


def chunk(goid: int) -> memoryview:
    """As many parts as a chunk of the ring has, of one goroutine; every tenth record is a request's."""
    records = [
        struct.pack("<6Q", place, 5, goid, 0, 7, HAPPENED_REQUEST if place % 10 == 0 else HAPPENED_INTERVAL | place << 18)
        for place in range(HISTORY_RECORDS)
    ]
    return memoryview(b"".join(records)).cast("Q")


def test_a_few_records_do_not_keep_the_chunk_that_they_were_read_from() -> None:
    """A chunk is read whole however few of its records are new; that happens some ten times a second."""
    kept = []
    tracemalloc.start()
    try:
        for number in range(200):
            happened, requests = Happened(number), list[Completed]()
            happened.take(chunk(number)[: 6 * 20], requests)
            assert happened.count == 20 and len(requests) == 2
            kept.append(happened)
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < 200 * 20 * 48 + 200 * 1500, now


def test_parts_are_found_by_goroutine_but_for_those_left_out() -> None:
    happened, requests = Happened(9), list[Completed]()
    happened.take(chunk(3)[: 6 * 20], requests, {1, 10, 12})
    happened.take(chunk(4)[: 6 * 5], requests)
    assert sorted(happened.goids()) == [3, 4]
    assert [part.start_ns for part in happened.of(3)] == [2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 14, 15, 16, 17, 18, 19]
    assert [part.start_ns for part in happened.of(4)] == [1, 2, 3, 4] and happened.of(5) == []
    assert [(one.goid, one.start_ns) for one in requests] == [(3, 0), (4, 0)]
