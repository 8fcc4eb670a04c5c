"""The tables that give each program counter of a function a value: stack depth, file, line, inlined call (src/runtime/symtab.go:
pcvalue)."""

from __future__ import annotations

from array import array
from bisect import bisect_right

from gotrace.common.caches import cached
from gotrace.gobin.functions import Function
from gotrace.gobin.image import Image

_MAX_PCVALUE_STEPS = 1 << 15
_USUAL_BYTES, _MOST_BYTES = 1 << 10, 1 << 16
_MOST_RUNS, _MOST_TABLES = 1 << 18, 1 << 12
"""Of the tables that are kept."""


class PcValues:
    """The tables that begin at `pctab` in the image. A table is named by its offset there."""

    def __init__(self, image: Image, pctab: int) -> None:
        self._image = image
        self._pctab = pctab
        self._tables: dict[tuple[int, int], tuple[array[int], array[int]]] = {}
        self._kept = 0

    @cached(65536)
    def value(self, function: Function, table: int, pc: int) -> int | None:
        """The value for the program counter `pc`; None if the table has none."""
        ends, values = self.values(function, table)
        index = bisect_right(ends, pc)
        return values[index] if index < len(ends) else None

    def values(self, function: Function, table: int) -> tuple[array[int], array[int]]:
        """The end address of each run of the table within `function`, and its value."""
        known = self._tables.get((function.entry, table))
        if known is None:
            known = self._decode(function, table)
            # Most tables are short. A hostile one has 32,768 runs.
            self._kept += len(known[0])
            if self._kept > _MOST_RUNS or len(self._tables) > _MOST_TABLES:
                self._tables.clear()
                self._kept = len(known[0])
            self._tables[function.entry, table] = known
        return known

    def _decode(self, function: Function, table: int) -> tuple[array[int], array[int]]:
        for size in (_USUAL_BYTES, _MOST_BYTES):
            stream = self._image.read_up_to(self._pctab + table, size)
            ends, values, whole = _runs(stream, function.entry, function.end)
            if whole or len(stream) < size:
                break
        return ends, values


def _runs(stream: bytes, address: int, end: int) -> tuple[array[int], array[int], bool]:
    """The runs of the function from `address` to `end`, and whether they end within `stream`."""
    # Pairs of (zig-zag value delta, pc delta) varints, ended by a value delta of 0 (runtime/symtab.go: step).
    position, value, length = 0, -1, len(stream)
    ends, values = array("Q"), array("q")
    for step in range(_MAX_PCVALUE_STEPS):
        # Almost all have one byte: no call for those.
        if position < length and stream[position] < 0x80:
            delta, position = stream[position], position + 1
        else:
            delta, position = _uvarint(stream, position)
        if delta == 0 and step and position <= length:
            return ends, values, True
        if position >= length:
            return ends, values, False
        value += -(delta >> 1) - 1 if delta & 1 else delta >> 1
        if stream[position] < 0x80:
            delta, position = stream[position], position + 1
        else:
            delta, position = _uvarint(stream, position)
            if position > length:
                return ends, values, False
        address += delta
        ends.append(address)
        values.append(value)
        if address >= end:
            break
    return ends, values, True


def _uvarint(stream: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(stream) and shift < 35:
        byte = stream[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    return value, len(stream) + 1
