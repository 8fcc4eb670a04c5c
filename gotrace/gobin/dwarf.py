"""Field offsets of runtime structs from DWARF, without walking it: find the name, parse that one DIE."""

from __future__ import annotations

import io
import struct
import zlib

from gotrace.gobin.image import Image, Section

_MAX_SECTION = 1 << 29
_MAX_MEMBERS = 512


class RuntimeTypes:
    """Struct types of package runtime in the DWARF of `image`. `present` is False where there is no DWARF."""

    def __init__(self, image: Image) -> None:
        self._info = _section(image, "debug_info")
        self._abbrev = _section(image, "debug_abbrev")
        self.present = bool(self._info and self._abbrev)
        self._dwarf = None

    def offsets(self, type_name: str) -> dict[str, int]:
        """Field name -> byte offset of struct `type_name` (e.g. ``runtime.g``); {} if DWARF does not have it."""
        from elftools.common.exceptions import DWARFError, ELFError

        if not self.present:
            return {}
        pattern, position = type_name.encode() + b"\0", -1
        while (position := self._info.find(pattern, position + 1)) >= 0:
            try:
                members = self._members_at(position - 1, type_name)
            except (DWARFError, ELFError, ValueError, KeyError, IndexError, AttributeError, OverflowError):
                continue  # the bytes were part of something else
            if members:
                return members
        return {}

    def _members_at(self, offset: int, type_name: str) -> dict[str, int]:
        # A struct DIE is an abbreviation code of one byte, then its name in place (cmd/internal/dwarf: DW_ABRV_STRUCTTYPE).
        from elftools.dwarf.die import DIE

        unit = self._unit_containing(offset)
        if unit is None or self._info[offset] >= 0x80:
            return {}
        die = DIE(unit, io.BytesIO(self._info), offset)
        name = die.attributes.get("DW_AT_name")
        if die.tag != "DW_TAG_structure_type" or name is None or name.value != type_name.encode():
            return {}
        members: dict[str, int] = {}
        position = offset + die.size
        for _ in range(_MAX_MEMBERS):
            child = DIE(unit, io.BytesIO(self._info), position)
            if child.is_null():
                break
            position += child.size
            if child.tag != "DW_TAG_member":
                continue
            location = child.attributes["DW_AT_data_member_location"].value
            if isinstance(location, int):
                members[child.attributes["DW_AT_name"].value.decode("utf-8", "replace")] = location
        return members

    def _unit_containing(self, offset: int):
        dwarf = self._open()
        position = 0
        while position + 12 < len(self._info):
            length, = struct.unpack_from("<I", self._info, position)
            if length >= 0xFFFFFFF0 or length == 0:
                return None
            if position <= offset < position + 4 + length:
                return dwarf.get_CU_at(position)
            position += 4 + length
        return None

    def _open(self):
        from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

        if self._dwarf is None:
            def descriptor(name: str, data: bytes) -> DebugSectionDescriptor:
                return DebugSectionDescriptor(io.BytesIO(data), name, 0, len(data), 0)

            names = DWARFInfo.__init__.__code__.co_varnames[1 : DWARFInfo.__init__.__code__.co_argcount]
            sections = dict.fromkeys(names)
            sections["config"] = DwarfConfig(little_endian=True, default_address_size=8, machine_arch="x64")
            sections["debug_info_sec"] = descriptor(".debug_info", self._info)
            sections["debug_abbrev_sec"] = descriptor(".debug_abbrev", self._abbrev)
            self._dwarf = DWARFInfo(**sections)
        return self._dwarf


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
