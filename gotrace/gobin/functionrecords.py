"""The header of Go's function table (.gopclntab) and its records of functions.

Formats: src/runtime/symtab.go (pcHeader, moduledata, _func), src/internal/abi/symtab.go, cmd/link/internal/ld/pcln.go;
magics 0xfffffff0 (Go 1.18, 1.19) and 0xfffffff1 (Go 1.20 and later). Nothing is parsed before it is needed.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator

from gotrace.common.caches import cached
from gotrace.common.errors import BadBinary
from gotrace.gobin.functions import Function
from gotrace.gobin.image import Image
from gotrace.gobin.moduledata import ETEXT, MAGIC_120, MAX_FUNCTIONS, TEXT, locate

_MAX_NAME = 1 << 16
_MAX_TABLE = 1 << 28
_LONGEST_RECORD = 44 + 4 * 128


class FunctionRecords:
    """The records of one module. Addresses are link-time; `names`, `cus`, `files`, `pctab` and `functab` are those of the table's parts.

    Raises:
        BadBinary: there is no table of a known format, or its header contradicts the file.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.base, self.magic, self.moduledata = locate(image)
        header = struct.unpack("<8Q", image.read(self.base + 8, 64))
        (self.function_count, self.file_count, self.header_text, names, cus, files, pctab, functab) = header
        if not 0 < self.function_count <= MAX_FUNCTIONS:
            raise BadBinary(f"{image.name}: .gopclntab claims {self.function_count} functions")
        self.names = self.base + names
        self.cus = self.base + cus
        self.files = self.base + files
        self.pctab = self.base + pctab
        self.functab = self.base + functab
        self.func_size = 44 if self.magic == MAGIC_120 else 40
        words = array("I")
        words.frombytes(image.read(self.functab, self.function_count * 8 + 4))
        self.entry_offsets = words[0::2]
        self.func_offsets = words[1::2]
        self._file_offset = image.file_offset(self.base) or 0
        self.text = image.pointer(self.moduledata + TEXT)
        self.etext = image.pointer(self.moduledata + ETEXT)
        segment = image.segment_at(self.text)
        if segment is None or not segment.executable or not self.text < self.etext <= segment.address + segment.memory_size:
            raise BadBinary(f"{image.name}: moduledata gives a text range {self.text:#x}-{self.etext:#x} that is not code")

    def function_at(self, address: int) -> Function | None:
        """The function whose code contains the link-time `address`; None outside Go code."""
        offset = address - self.text
        if offset < 0 or address >= self.etext:
            return None
        index = bisect_right(self.entry_offsets, offset) - 1
        if index < 0 or index >= self.function_count:
            return None
        return self.function(index)

    @cached(65536)
    def function(self, index: int) -> Function | None:
        """The function with that index in the table; None if its record makes no sense."""
        address = self.functab + self.func_offsets[index]
        try:
            raw = self.image.read(address, self.func_size)
        except BadBinary:
            return None
        entry_offset, name_offset, _, _, pcsp, pcfile, pcln, npcdata, cu_offset = struct.unpack_from("<IiiIIIIII", raw)
        if entry_offset != self.entry_offsets[index] or npcdata > 64 or raw[-1] > 64:
            return None
        return Function(
            name=self.string(self.names + name_offset),
            entry=self.text + entry_offset,
            end=self.text + self.entry_offsets[index + 1],
            address=address,
            pcsp=pcsp,
            pcfile=pcfile,
            pcln=pcln,
            npcdata=npcdata,
            cu_offset=cu_offset,
            func_id=raw[-4],
            nfuncdata=raw[-1],
        )

    def word(self, function: Function, index: int) -> int | None:
        """The word with that index after the function's record: offsets of its tables, then of its data; None if it can't be read."""
        try:
            return self.image.u32(function.address + self.func_size + 4 * index)
        except BadBinary:
            return None

    def all_data(self, kind: int) -> Iterator[tuple[int, int]]:
        """Of every function that has function data of that kind: its place in the table, and what `word` gives for the data's offset."""
        words = array("I")
        end = self.functab + max(self.func_offsets) + _LONGEST_RECORD
        data = self.image.read_up_to(self.functab, min(end - self.functab, _MAX_TABLE))
        words.frombytes(data[: len(data) // 4 * 4])
        size = self.func_size // 4
        for index in range(self.function_count):
            at = self.func_offsets[index] // 4
            try:
                if words[at + 7] <= 64 and words[at + size - 1] >> 24 > kind:
                    offset = words[at + size + words[at + 7] + kind]
                    if offset != 0xFFFFFFFF:
                        yield index, offset
            except IndexError:
                continue

    def in_file(self, address: int) -> int:
        """The file offset of that address of the table."""
        return self._file_offset + address - self.base

    @cached(65536)
    def string(self, address: int) -> str:
        """The text at that address, up to a zero byte; "?" if it can't be read."""
        offset = self.image.file_offset(address)
        if offset is None:
            return "?"
        end = self.image.data.find(b"\0", offset, offset + _MAX_NAME)
        return self.image.data[offset:end].decode("utf-8", "replace") if end >= 0 else "?"
