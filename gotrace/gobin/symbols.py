"""ELF symbols by name, without reading the whole table: a 100,000-symbol table is searched as bytes."""

from __future__ import annotations

import struct

from gotrace.gobin.image import Image, Section

_ENTRY = 24
_MAX_NAMES = 8
_MAX_MATCHES = 1 << 12


class Symbols:
    """The .symtab of `image`. `present` is False in a stripped binary."""

    def __init__(self, image: Image) -> None:
        self._image = image
        symtab, strtab = image.sections.get(".symtab"), image.sections.get(".strtab")
        self._tables: tuple[Section, Section] | None = None
        if symtab is not None and strtab is not None and symtab.size >= 2 * _ENTRY:
            self._tables = symtab, strtab
        self.present = self._tables is not None

    def address(self, name: str) -> int | None:
        """Value of the first defined symbol called `name`, None if there is none."""
        if self._tables is None:
            return None
        data, (symtab, strtab) = self._image.data, self._tables
        end = strtab.offset + strtab.size
        position = strtab.offset - 1
        for _ in range(_MAX_NAMES):
            position = data.find(b"\0" + name.encode() + b"\0", max(position, 0), end)
            if position < 0:
                return None
            pattern = struct.pack("<I", position + 1 - strtab.offset)
            position += 1
            at = symtab.offset - 1
            for _ in range(_MAX_MATCHES):
                at = data.find(pattern, at + 1, symtab.offset + symtab.size)
                if at < 0:
                    break
                if (at - symtab.offset) % _ENTRY or at + _ENTRY > len(data):
                    continue
                index: int
                value: int
                _, _, _, index, value, _ = struct.unpack("<IBBHQQ", data[at : at + _ENTRY])
                if index and value:
                    return value
        return None
