"""Go's function table (.gopclntab) and module data: names, files, lines and inlined calls without any symbol table.

Formats: src/runtime/symtab.go (pcHeader, moduledata, _func), src/internal/abi/symtab.go, cmd/link/internal/ld/pcln.go;
magics 0xfffffff0 (Go 1.18, 1.19) and 0xfffffff1 (Go 1.20 and later). Nothing is parsed before it is asked for.
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from gotrace.common.errors import BadBinary
from gotrace.gobin.buildinfo import read_buildinfo
from gotrace.gobin.image import Image

MAGIC_118 = 0xFFFFFFF0
MAGIC_120 = 0xFFFFFFF1

_FUNCDATA_INLINE_TREE = 3
_PCDATA_INLINE_INDEX = 2
_MAX_FUNCTIONS = 1 << 22
_MAX_NAME = 1 << 16
_MAX_INLINE_DEPTH = 64
_MAX_INLINED = 512
"""Entries of an inline tree that are looked through; the runtime's largest has some 150."""
_MAX_COPIES = 256
_MAX_RUNTIME_FUNCTIONS = 1 << 14
# Bounds on searches for bytes, which in a hostile file match everywhere; genuine ones match a handful of times.
_MAX_SAME_NAME = 8
_MAX_TABLE = 1 << 28
_MAX_PCVALUE_STEPS = 1 << 15
_MAX_HEADERS, _MAX_MATCHES, _MAX_MODULES = 64, 1 << 16, 16
# Offsets in runtime.moduledata that are the same from Go 1.18 to 1.27 (src/runtime/symtab.go).
_MD_MINPC, _MD_MAXPC, _MD_TEXT, _MD_ETEXT = 160, 168, 176, 184
# moduledata.gofunc, newest first: 1.27 / 1.20 to 1.26 / 1.18 and 1.19.
_MD_GOFUNC = (344, 320, 304)


@dataclass(frozen=True)
class Function:
    """A function of the table. `entry` and `end` are link-time addresses; pcsp and the like are table offsets."""

    name: str
    entry: int
    end: int
    address: int
    pcsp: int
    pcfile: int
    pcln: int
    npcdata: int
    cu_offset: int
    func_id: int
    nfuncdata: int


@dataclass(frozen=True)
class Call:
    """One level of a program counter: the function, and where in it. `file` is "" and `line` 0 where not known."""

    function: str
    file: str
    line: int
    inlined: bool
    func_id: int


class Pclntab:
    """Reader of one module's function table.

    Raises:
        BadBinary: there is no table of a known format, or its header contradicts the file.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.base, self.magic, self.moduledata = _locate(image)
        header = struct.unpack("<8Q", image.read(self.base + 8, 64))
        (self.function_count, self.file_count, self._header_text, names, cus, files, pctab, functab) = header
        if not 0 < self.function_count <= _MAX_FUNCTIONS:
            raise BadBinary(f"{image.name}: .gopclntab claims {self.function_count} functions")
        self._names = self.base + names
        self._cus = self.base + cus
        self._files = self.base + files
        self._pctab = self.base + pctab
        self._functab = self.base + functab
        self._func_size = 44 if self.magic == MAGIC_120 else 40
        words = array("I")
        words.frombytes(image.read(self._functab, self.function_count * 8 + 4))
        self._entry_offsets = words[0::2]
        self._func_offsets = words[1::2]
        self._table_offset = image.file_offset(self.base) or 0
        self.text = image.pointer(self.moduledata + _MD_TEXT)
        self.etext = image.pointer(self.moduledata + _MD_ETEXT)
        segment = image.segment_at(self.text)
        if segment is None or not segment.executable or not self.text < self.etext <= segment.address + segment.memory_size:
            raise BadBinary(f"{image.name}: moduledata gives a text range {self.text:#x}-{self.etext:#x} that is not code")
        self._gofunc: int | None = None

    # -- finding functions ---------------------------------------------------------------------------------------------

    def function_at(self, address: int) -> Function | None:
        """The function whose code holds the link-time `address`; None outside of Go code."""
        offset = address - self.text
        if offset < 0 or address >= self.etext:
            return None
        index = bisect_right(self._entry_offsets, offset) - 1
        if index < 0 or index >= self.function_count:
            return None
        return self._function(index)

    @lru_cache(maxsize=1024)  # noqa: B019
    def functions_named(self, name: str) -> list[Function]:
        """All functions called `name`, in address order (an ABI wrapper has the same name as what it wraps)."""
        raw = name.encode()
        data = self.image.data
        names_start = self._table_offset + self._names - self.base
        names_end = self._table_offset + self._cus - self.base
        found: list[Function] = []
        position = names_start - 1
        for _ in range(_MAX_SAME_NAME):
            position = data.find(b"\0" + raw + b"\0", position, names_end)
            if position < 0:
                return sorted(found, key=lambda function: function.entry)
            found += self._functions_with_name_offset(position + 1 - names_start)
            position += 1
        raise BadBinary(f"{self.image.name}: the function table names {name} more than {_MAX_SAME_NAME} times")

    def _functions_with_name_offset(self, name_offset: int) -> list[Function]:
        words = self._indexes_by_name
        first, end = bisect_left(words, name_offset << 32), bisect_left(words, name_offset + 1 << 32)
        if end - first > _MAX_SAME_NAME:
            raise BadBinary(f"{self.image.name}: {end - first} functions of the table share one name")
        found = (self._function(word & 0xFFFFFFFF) for word in words[first:end])
        return [function for function in found if function is not None]

    @cached_property
    def _indexes_by_name(self) -> array[int]:
        # A _func starts {entryoff u32, nameoff i32}. One pass over all of them costs less than a search for each name.
        # Name offset and index share a word and are sorted: a dictionary of as many lists would be ten times as large.
        words = array("I")
        start = self._table_offset + self._functab - self.base
        end = min(start + max(self._func_offsets) + self._func_size, start + _MAX_TABLE, len(self.image.data))
        words.frombytes(self.image.data[start : end - (end - start) % 4])
        return array("Q", sorted(array("Q", (
            words[offset // 4 + 1] << 32 | index
            for index, offset in enumerate(self._func_offsets)
            if offset % 4 == 0 and offset // 4 + 1 < len(words)
        ))))

    @lru_cache(maxsize=65536)  # noqa: B019 - lives as long as the process: one table per traced binary
    def _function(self, index: int) -> Function | None:
        address = self._functab + self._func_offsets[index]
        try:
            raw = self.image.read(address, self._func_size)
        except BadBinary:
            return None
        entry_offset, name_offset, _, _, pcsp, pcfile, pcln, npcdata, cu_offset = struct.unpack_from("<IiiIIIIII", raw)
        if entry_offset != self._entry_offsets[index] or npcdata > 64 or raw[-1] > 64:
            return None
        return Function(
            name=self._string(self._names + name_offset),
            entry=self.text + entry_offset,
            end=self.text + self._entry_offsets[index + 1],
            address=address,
            pcsp=pcsp,
            pcfile=pcfile,
            pcln=pcln,
            npcdata=npcdata,
            cu_offset=cu_offset,
            func_id=raw[-4],
            nfuncdata=raw[-1],
        )

    def inlined_into(self, name: str) -> list[Function]:
        """The functions of package runtime whose code holds an inlined copy of its function `name`, in address order: the inline
        trees name each. No other package can hold one of a function that is not exported, save by a copy within a copy, which the
        runtime's exported functions are too large for."""
        offset = self._name_offset(name)
        if offset is None:
            return []
        pattern, found, candidates = struct.pack("<i", offset), [], 0
        # {funcID, name, parent pc, line} of 16 bytes from Go 1.20 on, before that 20 bytes with the name at 12.
        size, at = (16, 4) if self.magic == MAGIC_120 else (20, 12)
        for function, around in self._runtime_trees:
            if pattern not in around:
                continue
            candidates += 1
            if candidates > _MAX_COPIES:
                raise BadBinary(f"{self.image.name}: more than {_MAX_COPIES} functions seem to have {name} inlined")
            indexes = self._pcdata(function, _PCDATA_INLINE_INDEX)
            count = max(self._pcvalues(function, indexes)[1], default=-1) + 1 if indexes else 0
            entries = around[: size * min(count, _MAX_INLINED)]
            if any(entries[place : place + 4] == pattern for place in range(at, len(entries), size)):
                found.append(function)
        return found

    @cached_property
    def _runtime_trees(self) -> list[tuple[Function, bytes]]:
        """The functions of package runtime that have an inline tree, with the bytes of that and of what follows it."""
        try:
            _ = self.gofunc
        except BadBinary:
            return []  # who attaches has refused it before (GoBinary.check)
        names_start = self._names - self.base + self._table_offset
        names = self.image.data[names_start : names_start + self._cus - self._names]
        found: list[tuple[Function, int]] = []
        for match in re.finditer(rb"\0runtime\.", names):
            first, end = (bisect_left(self._indexes_by_name, match.start() + more << 32) for more in (1, 2))
            if end - first > _MAX_SAME_NAME or len(found) > _MAX_RUNTIME_FUNCTIONS:
                continue
            for word in self._indexes_by_name[first:end]:
                function = self._function(word & 0xFFFFFFFF)
                tree = self._funcdata(function, _FUNCDATA_INLINE_TREE) if function is not None else None
                if function is not None and tree is not None:
                    found.append((function, tree))
        starts = sorted({tree for _, tree in found})
        ends = dict(zip(starts, [*starts[1:], starts[-1] + 20 * _MAX_INLINED], strict=True)) if starts else {}
        around = {tree: self.image.read_up_to(tree, min(end - tree, 20 * _MAX_INLINED)) for tree, end in ends.items()}
        return [(function, around[tree]) for function, tree in sorted(found, key=lambda item: item[0].entry)]

    def _name_offset(self, name: str) -> int | None:
        start = self._table_offset + self._names - self.base
        position = self.image.data.find(b"\0" + name.encode() + b"\0", start - 1, start + self._cus - self._names)
        return None if position < 0 else position + 1 - start

    @cached_property
    def wrapper_id(self) -> int | None:
        """The funcID of compiler-made wrappers in this binary (internal/abi/symtab.go: the last of the list, 21 to 23 by
        version): newstack and goexit1 are assembly's ways into Go and have an ABI wrapper of the same name each."""
        ids = set()
        for name in ("runtime.newstack", "runtime.goexit1"):
            functions = self.functions_named(name)
            if len(functions) == 2:
                ids.add(max(function.func_id for function in functions))
        return ids.pop() if len(ids) == 1 else None

    # -- what a program counter means ------------------------------------------------------------------------------------

    def expand(self, pc: int, is_return_address: bool = True) -> list[Call]:
        """The calls that `pc` stands for, innermost inlined call first, the physical function last; [] outside Go code.

        A return address belongs to the call before it, so it is looked up at pc - 1 (runtime/traceback.go).
        """
        pc = pc - 1 if is_return_address else pc
        function = self.function_at(pc)
        if function is None:
            return []
        calls = []
        tree = self._funcdata(function, _FUNCDATA_INLINE_TREE)
        indexes = self._pcdata(function, _PCDATA_INLINE_INDEX)
        if tree is not None and indexes:
            for _ in range(_MAX_INLINE_DEPTH):
                index = self._pcvalue(function, indexes, pc)
                if index is None or index < 0:
                    break
                try:
                    name_offset, parent_pc, func_id = self._inlined_call(tree, index)
                except BadBinary:
                    break
                file, line = self._file_line(function, pc)
                calls.append(Call(self._string(self._names + name_offset), file, line, True, func_id))
                pc = function.entry + parent_pc
        file, line = self._file_line(function, pc)
        calls.append(Call(function.name, file, line, False, function.func_id))
        return calls

    def stack_delta(self, pc: int) -> int | None:
        """Bytes between the stack pointer at `pc` and the return address (table pcsp); None outside Go code."""
        function = self.function_at(pc)
        return None if function is None or not function.pcsp else self._pcvalue(function, function.pcsp, pc)

    def frame_size(self, function: Function) -> int:
        """The largest `stack_delta` within `function`: its whole frame."""
        return max(self._pcvalues(function, function.pcsp)[1], default=0)

    def stack_deltas(self, function: Function) -> tuple[array[int], array[int]]:
        """Up to which address each run of instructions with the same `stack_delta` goes, and that."""
        return self._pcvalues(function, function.pcsp)

    def _inlined_call(self, tree: int, index: int) -> tuple[int, int, int]:
        if self.magic == MAGIC_120:
            func_id, name_offset, parent_pc, _ = struct.unpack("<B3xiii", self.image.read(tree + 16 * index, 16))
        else:
            _, func_id, _, _, _, name_offset, parent_pc = struct.unpack("<hBBiiii", self.image.read(tree + 20 * index, 20))
        return name_offset, parent_pc, func_id

    def _pcdata(self, function: Function, index: int) -> int:
        if index >= function.npcdata:
            return 0
        try:
            return self.image.u32(function.address + self._func_size + 4 * index)
        except BadBinary:
            return 0

    def _funcdata(self, function: Function, index: int) -> int | None:
        if index >= function.nfuncdata:
            return None
        try:
            offset = self.image.u32(function.address + self._func_size + 4 * (function.npcdata + index))
        except BadBinary:
            return None
        return None if offset == 0xFFFFFFFF else self.gofunc + offset

    @lru_cache(maxsize=65536)  # noqa: B019
    def _pcvalue(self, function: Function, table: int, pc: int) -> int | None:
        ends, values = self._pcvalues(function, table)
        index = bisect_right(ends, pc)
        return values[index] if index < len(ends) else None

    @lru_cache(maxsize=512)  # noqa: B019 - few: a hostile table has 32,768 runs
    def _pcvalues(self, function: Function, table: int) -> tuple[array[int], array[int]]:
        """Up to which address each run of the table within `function` goes, and its value."""
        # Pairs of (zig-zag value delta, pc delta) varints, ended by a value delta of 0 (runtime/symtab.go: step).
        stream = self.image.read_up_to(self._pctab + table, 1 << 16)
        position, address, value = 0, function.entry, -1
        ends, values = array("Q"), array("q")
        for step in range(_MAX_PCVALUE_STEPS):
            # Nearly all are of one byte: no call for those.
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

    def _file_line(self, function: Function, pc: int) -> tuple[str, int]:
        index = self._pcvalue(function, function.pcfile, pc) if function.pcfile else None
        line = self._pcvalue(function, function.pcln, pc) if function.pcln else None
        if index is None or index < 0:
            return "", max(line or 0, 0)
        try:
            offset = self.image.u32(self._cus + (function.cu_offset + index) * 4)
        except BadBinary:
            return "", max(line or 0, 0)
        return ("" if offset == 0xFFFFFFFF else self._string(self._files + offset)), max(line or 0, 0)

    @lru_cache(maxsize=65536)  # noqa: B019
    def _string(self, address: int) -> str:
        offset = self.image.file_offset(address)
        if offset is None:
            return "?"
        end = self.image.data.find(b"\0", offset, offset + _MAX_NAME)
        return self.image.data[offset:end].decode("utf-8", "replace") if end >= 0 else "?"

    # -- module data -----------------------------------------------------------------------------------------------------

    @property
    def gofunc(self) -> int:
        """Base of the function data, moduledata.gofunc: the candidate offset whose value lies in read-only data."""
        if self._gofunc is None:
            self._gofunc = self._find_gofunc()
        return self._gofunc

    def _find_gofunc(self) -> int:
        # The field moved between versions (see _MD_GOFUNC). The inline trees tell which one is right: every tree of the
        # first functions that have one must hold a name that is text and a parent within its function.
        best, best_score = 0, -1
        for offset in _MD_GOFUNC:
            try:
                base = self.image.pointer(self.moduledata + offset)
            except BadBinary:
                continue
            segment = self.image.segment_at(base)
            if segment is None:
                continue
            score = self._gofunc_score(base)
            if score > best_score:
                best, best_score = base, score
        if best_score < 0:
            raise BadBinary(f"{self.image.name}: moduledata.gofunc was not found")
        return best

    def _gofunc_score(self, base: int) -> int:
        score = seen = 0
        for index in range(min(self.function_count, 4096)):
            function = self._function(index)
            if function is None or function.nfuncdata <= _FUNCDATA_INLINE_TREE:
                continue
            offset = self.image.u32(function.address + self._func_size + 4 * (function.npcdata + _FUNCDATA_INLINE_TREE))
            if offset == 0xFFFFFFFF:
                continue
            seen += 1
            try:
                name_offset, parent_pc, _ = self._inlined_call(base + offset, 0)
                name = self.image.read_up_to(self._names + name_offset - 1, 2)
            except BadBinary:
                continue
            plausible = 0 <= parent_pc < function.end - function.entry and name_offset > 0
            score += plausible and len(name) == 2 and name[0] == 0 and name[1] > 32
            if seen >= 64:
                break
        return score


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


def _locate(image: Image) -> tuple[int, int, int]:
    """(address of the function table, magic, address of the module data that points to it). A file may hold other programs' tables, as
    data: its own is the one to which module data in its own memory points, for code in its own memory."""
    found: dict[int, tuple[int, int, int]] = {}
    obfuscated, plausible = 0, 0
    for address, magic in _headers(image):
        if address in found:
            continue
        plausible += 1
        if plausible > _MAX_HEADERS:
            raise BadBinary(f"{image.name}: more than {_MAX_HEADERS} places look like a Go function table, of which gotrace looks no further")
        moduledata = _moduledata(image, address)
        if moduledata is None:
            continue
        known = magic if magic in (MAGIC_118, MAGIC_120) else _format(image, address)
        if known:
            found[address] = (address, known, moduledata)
        else:
            obfuscated = magic
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise BadBinary(f"{image.name}: {len(found)} Go function tables in one file, each with module data")
    if obfuscated:
        raise BadBinary(
            f"{image.name} is a Go binary{_by_build_info(image)} whose function table is obfuscated (magic {obfuscated:#x})",
            "build it without the obfuscator that changed the table's format",
        )
    if any(image.data.find(struct.pack("<IBBBB", m, 0, 0, 1, 8)) >= 0 for m in (0xFFFFFFFA, 0xFFFFFFFB)):
        raise BadBinary(f"{image.name} was built with Go 1.17 or older", "gotrace supports Go 1.19 and later")
    if ".go.buildinfo" in image.sections or ".note.go.buildid" in image.sections or _by_build_info(image):
        raise BadBinary(
            f"{image.name} is a Go binary{_by_build_info(image)} without a function table that gotrace can read{_magic_seen(image)}",
            "gotrace supports executables that Go 1.19 and later links, unpacked and not obfuscated",
        )
    raise BadBinary(f"{image.name} is not a Go binary (no Go function table)")


def _by_build_info(image: Image) -> str:
    info = read_buildinfo(image)
    return f" ({info.version} by build info)" if info is not None else ""


def _magic_seen(image: Image) -> str:
    for name in _TABLE_SECTIONS:
        header = image.read_up_to(section.address, 4) if (section := image.sections.get(name)) else b""
        if len(header) == 4:
            return f" (its magic is {int.from_bytes(header, 'little'):#x})"
    return ""


_TABLE_SECTIONS = (".gopclntab", ".data.rel.ro.gopclntab")


def _headers(image: Image) -> Iterator[tuple[int, int]]:
    """Where something like a function table's header is, and its magic."""
    for name in _TABLE_SECTIONS:
        section = image.sections.get(name)
        if section and (magic := _header_magic(image, section.address)):
            yield section.address, magic
            if magic in (MAGIC_118, MAGIC_120) and _moduledata(image, section.address) is not None:
                return  # no need to search the file
    # External linking of a PIE merges it into .data.rel.ro; sections may also be gone: look for the header itself.
    for magic in (MAGIC_120, MAGIC_118):
        for address in image.find_all(struct.pack("<IBBBB", magic, 0, 0, 1, 8)):
            if _header_magic(image, address):
                yield address, magic
    # Obfuscators change the magic. What is left of the header is looked for where module data points to.
    seen = 0
    for address in image.find_all(_AFTER_MAGIC, writable=None):
        seen += 1
        if seen > _MAX_MATCHES:
            return
        magic = _header_magic(image, address - 4)
        if magic not in (0, MAGIC_118, MAGIC_120):
            yield address - 4, magic


_AFTER_MAGIC = struct.pack("<BBBB", 0, 0, 1, 8)


def _header_magic(image: Image, address: int) -> int:
    """The magic of the header at `address`, 0 if what follows it is not that of a table."""
    header = image.read_up_to(address, 72)
    if len(header) < 72 or address % 8:
        return 0
    magic: int
    magic, zero1, zero2, quantum, pointer_size = struct.unpack_from("<IBBBB", header)
    if zero1 or zero2 or quantum != 1 or pointer_size != 8:
        return 0
    functions, _, _, names, cus, files, pctab, functab = struct.unpack_from("<8Q", header, 8)
    if not 0 < functions <= _MAX_FUNCTIONS or not 64 <= names < cus <= files <= pctab <= functab < 1 << 31:
        return 0
    return magic


def _format(image: Image, address: int) -> int:
    """The magic of the format that the table at `address` has in truth, 0 if it is neither: a function's record has 40 bytes in the older
    one, 44 in the newer one, so only with the right size are the ends of all records where the next begin."""
    count, = struct.unpack("<Q", image.read(address + 8, 8))
    functab = address + struct.unpack("<Q", image.read(address + 64, 8))[0]
    entries = struct.unpack(f"<{2 * min(count, 256)}I", image.read_up_to(functab, 8 * min(count, 256)))
    places = set(entries[1::2])
    for magic, size in ((MAGIC_120, 44), (MAGIC_118, 40)):
        good = 0
        for entry, place in zip(entries[::2], entries[1::2], strict=True):
            raw = image.read_up_to(functab + place, size)
            if len(raw) < size or struct.unpack_from("<I", raw)[0] != entry:
                break
            npcdata, nfuncdata = struct.unpack_from("<I", raw, 28)[0], raw[-1]
            following = functab + place + size + 4 * (npcdata + nfuncdata) if npcdata <= 64 and nfuncdata <= 64 else 0
            good += not places.isdisjoint((following - functab, -(-(following - functab) // 8) * 8))  # aligned to 8 in the older one
        if 2 * good > len(entries) // 2:
            return magic
    return 0


def _moduledata(image: Image, table: int) -> int | None:
    """The module data that points to that table: {pcHeader *pcHeader; funcnametab []byte; ...}, two pointers that are known, side by side,
    whose text range is code of this file. None if there is none.

    Raises:
        BadBinary: there are several, and it can't be told which is this file's.
    """
    names, = struct.unpack("<Q", image.read(table + 32, 8))
    first, second, found = table, table + names, set()
    if image.pie:
        found = {at for at, to in image.relocations.items() if to == first and image.relocations.get(at + 8) == second}
    # It is data, so in a writable segment, though the loader may protect it later.
    for address in image.find_all(struct.pack("<QQ", first, second), writable=True):
        found.add(address)
        if len(found) > _MAX_MODULES:
            break
    fit = [address for address in sorted(found) if address % 8 == 0 and _has_text(image, address)]
    if len(fit) > 1:
        raise BadBinary(f"{image.name}: {len(fit)} places look like the Go module data, not one")
    return fit[0] if fit else None


def _has_text(image: Image, moduledata: int) -> bool:
    try:
        text, etext = image.pointer(moduledata + _MD_TEXT), image.pointer(moduledata + _MD_ETEXT)
    except BadBinary:
        return False
    segment = image.segment_at(text)
    return segment is not None and segment.executable and text < etext <= segment.address + segment.memory_size
