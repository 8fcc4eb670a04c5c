"""Where the g structs of a process are: in a few spans of the heap (runtime/proc.go: malg), each of which is one range to read."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gotrace.proc.memory import FixedRanges, Memory

_LARGEST_GAP = 1024
_LARGEST_RANGE = 8192
RANGES_PER_CALL = 512
BUFFER = RANGES_PER_CALL * _LARGEST_RANGE


class Span(NamedTuple):
    """Where in a batch's bytes a span is, and which of the batch's g structs are in it."""

    begin: int
    end: int
    first: int
    last: int


@dataclass
class Batch:
    """Spans that are read with one system call. `offsets` are those of the g structs in the bytes, `indexes` their numbers. `whole` is what
    was read last, b"" where that is not kept."""

    ranges: FixedRanges
    spans: list[Span]
    offsets: array[int]
    indexes: array[int]
    whole: bytes = b""

    def places(self, span: Span) -> Iterator[tuple[int, int]]:
        """Offset and number of each g struct of a span."""
        return zip(self.offsets[span.first : span.last], self.indexes[span.first : span.last], strict=True)


def batches(memory: Memory, addresses: array[int], wanted: Iterable[int], size: int, buffer: bytearray) -> Iterator[Batch]:
    """The g structs with these numbers, of `size` bytes each, as ranges that are read into `buffer`, which has `BUFFER` bytes."""
    ranges: list[tuple[int, int]] = []
    spans: list[Span] = []
    offsets, indexes = array("I"), array("I")
    begin = end = position = 0
    first = 0
    for index in sorted(wanted, key=addresses.__getitem__):
        address = addresses[index]
        if len(offsets) > first and 0 <= address - end <= _LARGEST_GAP and address + size - begin <= _LARGEST_RANGE:
            offsets.append(position + address - begin)
            indexes.append(index)
            end = address + size
            continue
        if len(offsets) > first:
            ranges.append((begin, end - begin))
            spans.append(Span(position, position + end - begin, first, len(offsets)))
            position += end - begin
            first = len(offsets)
            if len(spans) == RANGES_PER_CALL:
                yield Batch(memory.fixed(ranges, buffer), spans, offsets, indexes)
                ranges, spans, offsets, indexes, position, first = [], [], array("I"), array("I"), 0, 0
        begin, end = address, address + size
        offsets.append(position)
        indexes.append(index)
    if len(offsets) > first:
        ranges.append((begin, end - begin))
        spans.append(Span(position, position + end - begin, first, len(offsets)))
    if spans:
        yield Batch(memory.fixed(ranges, buffer), spans, offsets, indexes)
