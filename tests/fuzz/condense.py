"""Makes small seeds of genuine Go executables: an ELF file that keeps, at their own addresses, just the pieces that gotrace reads.

    python tests/fuzz/condense.py PROGRAM SEED
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from gotrace.common.errors import BadBinary
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.functions import Function
from gotrace.gobin.image import Image
from gotrace.gobin.pclntab import Pclntab
from gotrace.plan.makeplan import make_plan

_GAP = 64
_EXTRA = ("main.main", "runtime.main", "runtime.goexit", "runtime.schedule", "runtime.findRunnable", "time.Sleep")
_PIECES = 200


class _Recorded(Image):
    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: set[tuple[int, int]] = set()

    def read(self, address: int, size: int) -> bytes:
        raw = super().read(address, size)
        self.reads.add((address, len(raw)))
        return raw

    def read_up_to(self, address: int, size: int) -> bytes:
        raw = super().read_up_to(address, size)
        self.reads.add((address, len(raw)))
        return raw


class _Asked(Pclntab):
    asked: set[str] = set()

    def functions_named(self, name: str) -> list[Function]:  # type: ignore[override]
        self.asked.add(name)
        return super().functions_named(name)


def condense(data: bytes) -> bytes:
    """An ELF file of some 50 kB of which `make_plan` makes the same probes as of the executable `data`."""
    image = _Recorded(data)
    binary = GoBinary(image)
    binary.table = table = _Asked(image)
    make_plan(binary)
    _ = binary.allgs, binary.wait_reasons, binary.stop_reasons
    functions = sorted(
        {f.entry: f for name in (*_Asked.asked, *_EXTRA) for f in Pclntab.functions_named(table, name)}.values(),
        key=lambda f: f.entry,
    )
    new_table, names = _function_table(image, table, functions)
    end_of_old = max(s.address + s.file_size for s in image.segments if s.address <= table.base < s.address + s.file_size)
    pieces = {table.base: new_table}
    for start, size in _merged(image.reads):
        # The old function table goes; what is asked of it is in the new one.
        if size and size < 1 << 16 and not table.base <= start < end_of_old:
            if piece := Image.read_up_to(image, start, size):
                pieces[start] = piece
    start = table.moduledata
    moduledata = bytearray(Image.read(image, start, 400))
    for at in range(0, 400, 8):  # as the loader leaves it: the seed has no relocations
        struct.pack_into("<Q", moduledata, at, image.pointer(start + at))
    pieces = {a: p for a, p in pieces.items() if not start <= a < start + 400}
    pieces[start] = bytes(moduledata)
    for function in functions:
        code = image.read_up_to(function.entry, min(function.end - function.entry, 1024))
        pieces[function.entry] = max(pieces.get(function.entry, b""), code, key=len)
    return _elf(image, table, _fused(pieces), names)


def _function_table(image: Image, table: Pclntab, functions: list[Function]) -> tuple[bytes, dict[str, int]]:
    names, name_bytes = {}, bytearray(b"\0")
    cus, files, pctab = bytearray(), bytearray(b"\0"), bytearray(b"\0")

    def name_at(text: str) -> int:
        if text not in names:
            names[text] = len(name_bytes)
            name_bytes.extend(text.encode() + b"\0")
        return names[text]

    def stream(offset: int) -> int:
        if not offset:
            return 0
        raw, end = image.read_up_to(table.pctab + offset, 1 << 12), 0
        step = 0
        while end < len(raw):
            first = raw[end]
            for _ in range(2):
                while raw[end] & 0x80:
                    end += 1
                end += 1
                if not first and step:
                    break
            step += 1
            if not first and step > 1:
                break
        pctab.extend(raw[:end])
        return len(pctab) - end

    structs, offsets = bytearray(), []
    functab_size = len(functions) * 8 + 4
    for function in functions:
        raw = bytearray(image.read(function.address, table.func_size + 4 * (function.npcdata + function.nfuncdata)))
        struct.pack_into("<i", raw, 4, name_at(function.name))
        for at, offset in ((16, function.pcsp), (20, function.pcfile), (24, function.pcln)):
            struct.pack_into("<I", raw, at, stream(offset))
        for index in range(function.npcdata):
            at = table.func_size + 4 * index
            struct.pack_into("<I", raw, at, stream(struct.unpack_from("<I", raw, at)[0]))
        first = len(cus) // 4
        for index in range(2):
            cus.extend(struct.pack("<I", len(files)))
            files.extend(f"/usr/lib/go/src/file{index}.go".encode() + b"\0")
        struct.pack_into("<I", raw, 32, first)
        offsets.append((function.entry - table.text, functab_size + len(structs)))
        structs.extend(raw + bytes(-len(raw) % 4))
    base, parts, at = table.base, [], 72
    for part in (name_bytes, cus, files, pctab):
        part += bytes(-len(part) % 8)
        parts.append(at)
        at += len(part)
    functab = b"".join(struct.pack("<II", *pair) for pair in offsets)
    functab += struct.pack("<I", functions[-1].end - table.text)
    header = struct.pack("<IBBBB", table.magic, 0, 0, 1, 8)
    header += struct.pack("<8Q", len(functions), len(cus) // 8, table.header_text, *parts, at)
    assert image.file_offset(base) is not None
    return header + bytes(name_bytes + cus + files + pctab) + functab + bytes(structs), {"names": parts[0]}


def _merged(reads: set[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[list[int]] = []
    for start, size in sorted(reads):
        if merged and start <= merged[-1][1] + _GAP:
            merged[-1][1] = max(merged[-1][1], start + size)
        else:
            merged.append([start, start + size])
    return [(start, end - start) for start, end in merged]


def _fused(pieces: dict[int, bytes]) -> dict[int, bytes]:
    fused: dict[int, bytes] = {}
    last = None
    for start in sorted(pieces):
        raw = pieces[start]
        if last is not None and start <= last + len(fused[last]):
            keep = start - last
            fused[last] = fused[last][:keep] + raw + fused[last][keep + len(raw) :]
        else:
            last, fused[start] = start, raw
    return fused


def _elf(image: Image, table: Pclntab, pieces: dict[int, bytes], names: dict[str, int]) -> bytes:
    pieces = dict(pieces)
    for start, raw in list(pieces.items()):
        at = table.moduledata - start
        if 0 <= at < len(raw):
            patched = bytearray(raw)
            struct.pack_into("<QQ", patched, at, table.base, table.base + names["names"])
            pieces[start] = bytes(patched)
    text = image.segment_at(table.text)
    info = image.sections.get(".go.buildinfo")
    buildinfo = image.data[info.offset : info.offset + 64] if info else b""
    headers, body = [], bytearray()
    # Of the program's own segments the extent alone.
    whole = [text, *(segment for segment in image.segments if segment.writable)]
    start_of_body = 64 + 56 * (len(pieces) + len(whole))
    for segment in whole:
        headers.append(struct.pack("<IIQQQQQQ", 1, segment.flags, 0, segment.address, 0, 0, segment.memory_size, 4096))
    for start, raw in sorted(pieces.items()):
        segment = image.segment_at(start)
        offset = start_of_body + len(body)
        headers.append(struct.pack("<IIQQQQQQ", 1, segment.flags, offset, start, 0, len(raw), len(raw), 4096))
        body += raw + bytes(-len(raw) % 8)
    offset = start_of_body + len(body)
    sections = b".gopclntab\0.go.buildinfo\0.shstrtab\0"
    table_at = start_of_body + list(_offsets(pieces))[sorted(pieces).index(table.base)]
    rows = [
        (0, 0, 0, 0, 0), (0, 1, table.base, table_at, len(pieces[table.base])), (11, 1, 0, offset, len(buildinfo)),
        (25, 3, 0, offset + len(buildinfo), len(sections)),
    ]
    body += buildinfo + sections
    body += bytes(-len(body) % 8)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, table.text, 64, start_of_body + len(body), 0, 64, 56, len(headers), 64, len(rows), 3
    )
    tail = b"".join(struct.pack("<IIQQQQIIQQ", n, t, 0, a, o, s, 0, 0, 1, 0) for n, t, a, o, s in rows)
    return header + b"".join(headers) + bytes(body) + tail


def _offsets(pieces: dict[int, bytes]):
    at = 0
    for _, raw in sorted(pieces.items()):
        yield at
        at += len(raw) + -len(raw) % 8


if __name__ == "__main__":
    program, seed = map(Path, sys.argv[1:])
    made = condense(program.read_bytes())
    try:
        plan = make_plan(GoBinary(Image(made, str(seed))))
        print(f"{len(made)} bytes, {len(plan.probes)} probes")
    except BadBinary as error:
        sys.exit(f"the seed is refused: {error}")
    seed.write_bytes(made)
