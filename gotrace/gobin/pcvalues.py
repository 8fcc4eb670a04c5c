"""The tables that give each program counter of a function a value: stack depth, file, line, inlined call (src/runtime/symtab.go:
pcvalue)."""

from __future__ import annotations

from array import array
from bisect import bisect_right

from gotrace.common.caches import cached
from gotrace.gobin.functions import Function
from gotrace.gobin.image import Image

_MAX_PCVALUE_STEPS = 1 << 15


class PcValues:
    """The tables that begin at `pctab` in the image. A table is named by its offset there."""

    def __init__(self, image: Image, pctab: int) -> None:
        self._image = image
        self._pctab = pctab

    @cached(65536)
    def value(self, function: Function, table: int, pc: int) -> int | None:
        """The value for the program counter `pc`; None if the table has none."""
        ends, values = self.values(function, table)
        index = bisect_right(ends, pc)
        return values[index] if index < len(ends) else None

    @cached(512)  # few: a hostile table has 32,768 runs
    def values(self, function: Function, table: int) -> tuple[array[int], array[int]]:
        """The end address of each run of the table within `function`, and its value."""
        # Pairs of (zig-zag value delta, pc delta) varints, ended by a value delta of 0 (runtime/symtab.go: step).
        stream = self._image.read_up_to(self._pctab + table, 1 << 16)
        position, address, value = 0, function.entry, -1
        ends, values = array("Q"), array("q")
        for step in range(_MAX_PCVALUE_STEPS):
            # Almost all have one byte: no call for those.
            if position < len(stream) and stream[position] < 0x80:
                delta, position = stream[position], position + 1
            else:
                delta, position = _uvarint(stream, position)
            if position >= len(stream) or (delta == 0 and step):
                break
            value += -(delta >> 1) - 1 if delta & 1 else delta >> 1
            if stream[position] < 0x80:
                delta, position = stream[position], position + 1
            else:
                delta, position = _uvarint(stream, position)
                if position > len(stream):
                    break
            address += delta
            ends.append(address)
            values.append(value)
            if address >= function.end:
                break
        return ends, values


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
