"""Field offsets of runtime structs from DWARF, without walking it: find the name, parse that one DIE."""

from __future__ import annotations

import io
import struct
import zlib
from array import array
from bisect import bisect_right
from functools import cached_property
from typing import TYPE_CHECKING

from gotrace.gobin.image import Image, Section

if TYPE_CHECKING:
    from elftools.dwarf.compileunit import CompileUnit

_MAX_SECTION = 1 << 28
_MAX_MEMBERS = 512
_MAX_OFFSET = 1 << 14
_MAX_STRUCT = 1 << 16
_MAX_MATCHES = 1 << 10
_MAX_UNITS = 1 << 20
_MAX_ABBREV_TABLE = 1 << 16


class RuntimeTypes:
    """Struct types of package runtime in the DWARF of `image`. `present` is False if there is no DWARF."""

    def __init__(self, image: Image) -> None:
        self._info = _section(image, "debug_info")
        self._abbrev = _section(image, "debug_abbrev")
        self.present = bool(self._info and self._abbrev)

    def offsets(self, type_name: str) -> dict[str, int]:
        """Field name -> byte offset of struct `type_name` (e.g. ``runtime.g``); {} if DWARF does not have it."""
        if not self.present:
            return {}
        pattern, position = type_name.encode() + b"\0", -1
        for _ in range(_MAX_MATCHES):
            position = self._info.find(pattern, position + 1)
            if position < 0:
                break
            try:
                members = self._members_at(position - 1, type_name)
            except Exception:  # noqa: BLE001
                # The bytes were part of something else, or damaged: pyelftools then raises anything, even assertions.
                continue
            if members:
                return members
        return {}

    def _members_at(self, offset: int, type_name: str) -> dict[str, int]:
        # A struct DIE is an abbreviation code of one byte, then its name in place (cmd/internal/dwarf: DW_ABRV_STRUCTTYPE).
        from elftools.dwarf.die import DIE

        if offset < 0 or self._info[offset] >= 0x80:
            return {}
        header = self._header_of_unit(offset)
        if not header:
            return {}
        # pyelftools sees the unit's header and what follows the struct: whatever that says, there is nothing more to read.
        stream = io.BytesIO(header + self._info[offset : offset + _MAX_STRUCT])
        unit = self._unit(header, stream)
        die = DIE(unit, stream, len(header))
        name = die.attributes.get("DW_AT_name")
        if die.tag != "DW_TAG_structure_type" or name is None or name.value != type_name.encode():
            return {}
        members: dict[str, int] = {}
        position = len(header) + die.size
        for _ in range(_MAX_MEMBERS):
            child = DIE(unit, stream, position)
            if child.is_null():
                break
            position += child.size
            if child.tag != "DW_TAG_member":
                continue
            location = child.attributes["DW_AT_data_member_location"].value
            if isinstance(location, int) and 0 <= location < _MAX_OFFSET:
                members[child.attributes["DW_AT_name"].value.decode("utf-8", "replace")] = location
        return members

    def _header_of_unit(self, offset: int) -> bytes:
        """The header of the unit that contains `offset`, b"" if none could be read."""
        units = self._units
        index = bisect_right(units, offset) - 1
        if index < 0:
            return b""
        start = units[index]
        length, version = struct.unpack_from("<IH", self._info, start)
        if not 2 <= version <= 5 or offset >= start + 4 + length:
            return b""
        return self._info[start : start + (12 if version == 5 else 11)]

    @cached_property
    def _units(self) -> array[int]:
        units, position = array("Q"), 0
        while position + 12 < len(self._info) and len(units) < _MAX_UNITS:
            length, = struct.unpack_from("<I", self._info, position)
            if length >= 0xFFFFFFF0 or length == 0:
                break
            units.append(position)
            position += 4 + length
        return units

    def _unit(self, header: bytes, stream: io.BytesIO) -> CompileUnit:
        from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

        place = 8 if header[4] == 5 else 6
        at = struct.unpack_from("<I", header, place)[0]
        abbrev = self._abbrev[at : at + _MAX_ABBREV_TABLE]
        # It sees only this unit's abbreviations, so they begin at 0.
        stream.getbuffer()[place : place + 4] = bytes(4)
        names = DWARFInfo.__init__.__code__.co_varnames[1 : DWARFInfo.__init__.__code__.co_argcount]
        sections: dict[str, DebugSectionDescriptor | None] = {name: None for name in names if name != "config"}
        sections["debug_info_sec"] = DebugSectionDescriptor(stream, ".debug_info", 0, stream.getbuffer().nbytes, 0)
        sections["debug_abbrev_sec"] = DebugSectionDescriptor(io.BytesIO(abbrev), ".debug_abbrev", 0, len(abbrev), 0)
        config = DwarfConfig(little_endian=True, default_address_size=8, machine_arch="x64")
        return DWARFInfo(config, **sections).get_CU_at(0)


def _section(image: Image, name: str) -> bytes:
    plain = image.sections.get("." + name)
    if plain is None:
        packed = image.sections.get(".z" + name)
        return _inflate(image, packed, 12) if packed and _raw(image, packed, 4) == b"ZLIB" else b""
    # SHF_COMPRESSED: an Elf64_Chdr of 24 bytes, type 1 is zlib (Go compresses DWARF by default).
    if _raw(image, plain, 4) == b"\x01\0\0\0" and plain.size > 26 and image.data[plain.offset + 24] == 0x78:
        return _inflate(image, plain, 24)
    return _raw(image, plain, min(plain.size, _MAX_SECTION))


def _raw(image: Image, section: Section, size: int) -> bytes:
    return image.data[section.offset : section.offset + size]


def _inflate(image: Image, section: Section, skip: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(_raw(image, section, section.size)[skip:], _MAX_SECTION)
    except zlib.error:
        return b""
