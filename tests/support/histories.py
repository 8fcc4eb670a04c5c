"""What goroutines did, as the kernel records it: parts of intervals, made by hand."""

from __future__ import annotations

import struct

from gotrace.common.vocabulary import Part, StartKind
from gotrace.kernel.history import Completed, Happened, PartRecord
from gotrace.kernel.structs import HAPPENED_INTERVAL, HISTORY_RECORDS
from gotrace.watch.requests.path import Step
from gotrace.watch.requests.timelines import Timelines


def part(
    goid: int, start: int, end: int, waker: int = 0, row: int = 0, kind: StartKind = StartKind.PARK, of: Part = Part.MAIN
) -> PartRecord:
    """Goroutine `goid` was off its CPU in [start, end); `waker` ended that. Without a `row` it is one of its own."""
    return PartRecord(start, end - start, goid, waker, row or goid * 1_000_000 + start + 1, HAPPENED_INTERVAL | kind << 2 | of << 18)


def created(goid: int, start: int, end: int, creator: int, row: int = 0) -> PartRecord:
    """The goroutine came into being at `start` and had its first turn at `end`."""
    return part(goid, start, end, creator, row, StartKind.CREATED)


def request(goid: int, start: int, end: int, bucket: int = 0, function: int = 0) -> Completed:
    return Completed(start, end - start, goid, 0, bucket, function)


def timelines(*parts: PartRecord, since: int = 0) -> Timelines:
    made = Timelines(since)
    made.take(happened(*parts))
    return made


def happened(*parts: PartRecord, until: int | None = None) -> Happened:
    """The same as read from a ring, `until` a moment; else until the last one has ended."""
    made = Happened(max((p.start_ns + p.duration_ns for p in parts), default=0) if until is None else until)
    for at in range(0, len(parts), HISTORY_RECORDS):
        chunk = parts[at : at + HISTORY_RECORDS]
        raw = b"".join(struct.pack("<6Q", p.start_ns, p.duration_ns, p.goid, p.waker_goid, p.row, p.what) for p in chunk)
        made.take(memoryview(raw).cast("Q"), [])
    return made


def check_covers(steps: list[Step] | tuple[Step, ...], start: int, end: int) -> None:
    """The steps are [start, end), the latest first."""
    at = end
    for step in steps:
        assert step.duration_ns > 0
        assert step.start_ns + step.duration_ns == at
        at = step.start_ns
    assert at == start
