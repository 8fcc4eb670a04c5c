"""Several fields of a struct, parsed at once."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from operator import itemgetter

_FARTHEST = 4096
"""Layouts may come from the executable: no struct of the runtime that is read so is as large."""


class FieldsStruct:
    """Fields at these offsets, each with its code of module struct; there are at least two. `size`: so many bytes are needed."""

    def __init__(self, places: Sequence[tuple[int | None, str]]) -> None:
        text, end, order = "<", 0, dict[int | None, int]()
        for offset, code in sorted({(offset, code) for offset, code in places if offset is not None and offset < _FARTHEST}):
            if offset >= end:  # if not, the layout makes no sense
                text += f"{offset - end}x{code}"
                order[offset], end = len(order), offset + struct.calcsize("<" + code)
        self.struct = struct.Struct(text)
        self.size = self.struct.size
        self._lacks = (0,) if any(offset not in order for offset, _ in places) else ()
        self._pick = itemgetter(*(order.get(offset, len(order)) for offset, _ in places))

    def parse(self, raw: bytes, offset: int = 0) -> tuple[int, ...]:
        """The fields in the order in which they were given, 0 for what the layout lacks."""
        values = self.struct.unpack_from(raw, offset)
        found: tuple[int, ...] = self._pick((*values, *self._lacks) if self._lacks else values)
        return found
