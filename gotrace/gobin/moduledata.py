"""Where in an executable Go's function table and module data are (src/runtime/symtab.go: pcHeader, moduledata;
cmd/link/internal/ld/pcln.go)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from gotrace.common.errors import BadBinary
from gotrace.gobin.buildinfo import read_buildinfo
from gotrace.gobin.image import Image

MAGIC_118 = 0xFFFFFFF0
MAGIC_120 = 0xFFFFFFF1

MAX_FUNCTIONS = 1 << 22
# Bounds on searches for bytes, which in a hostile file match everywhere; genuine ones match a handful of times.
_MAX_HEADERS, _MAX_MATCHES, _MAX_MODULES = 64, 1 << 16, 16
# Offsets in runtime.moduledata that are the same from Go 1.18 to 1.27 (src/runtime/symtab.go).
TEXT, ETEXT = 176, 184
GOFUNC = (344, 320, 304)
"""moduledata.gofunc, newest first: 1.27 / 1.20 to 1.26 / 1.18 and 1.19."""
TYPES = {MAGIC_118: 280, MAGIC_120: 296}
"""moduledata.types: 1.20 has put two words before it, and nothing since."""
_TABLE_SECTIONS = (".gopclntab", ".data.rel.ro.gopclntab")
_AFTER_MAGIC = struct.pack("<BBBB", 0, 0, 1, 8)


def locate(image: Image) -> tuple[int, int, int]:
    """(address of the function table, magic, address of the module data that points to it). A file may contain other programs' tables, as
    data: its own is the one to which module data in its own memory points, for code in its own memory."""
    found: dict[int, tuple[int, int, int]] = {}
    obfuscated, plausible = 0, 0
    for address, magic in _headers(image):
        if address in found:
            continue
        plausible += 1
        if plausible > _MAX_HEADERS:
            raise BadBinary(
                f"{image.name}: more than {_MAX_HEADERS} places look like a Go function table; gotrace searches no further"
            )
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


def _headers(image: Image) -> Iterator[tuple[int, int]]:
    """Where something like a function table's header is, and its magic."""
    for name in _TABLE_SECTIONS:
        section = image.sections.get(name)
        if section and (magic := _header_magic(image, section.address)):
            yield section.address, magic
            if magic in (MAGIC_118, MAGIC_120) and _moduledata(image, section.address) is not None:
                return  # no need to search the file
    # External linking of a PIE merges it into .data.rel.ro; sections may also be gone: search for the header itself.
    for magic in (MAGIC_120, MAGIC_118):
        for address in image.find_all(struct.pack("<IBBBB", magic, 0, 0, 1, 8)):
            if _header_magic(image, address):
                yield address, magic
    # Obfuscators change the magic. The rest of the header is searched for at the addresses to which module data points.
    seen = 0
    for address in image.find_all(_AFTER_MAGIC, writable=None):
        seen += 1
        if seen > _MAX_MATCHES:
            return
        magic = _header_magic(image, address - 4)
        if magic not in (0, MAGIC_118, MAGIC_120):
            yield address - 4, magic


def _header_magic(image: Image, address: int) -> int:
    """The magic of the header at `address`, 0 if what follows it is not a table's header."""
    header = image.read_up_to(address, 72)
    if len(header) < 72 or address % 8:
        return 0
    magic: int
    magic, zero1, zero2, quantum, pointer_size = struct.unpack_from("<IBBBB", header)
    if zero1 or zero2 or quantum != 1 or pointer_size != 8:
        return 0
    functions, _, _, names, cus, files, pctab, functab = struct.unpack_from("<8Q", header, 8)
    if not 0 < functions <= MAX_FUNCTIONS or not 64 <= names < cus <= files <= pctab <= functab < 1 << 31:
        return 0
    return magic


def _format(image: Image, address: int) -> int:
    """The magic of the true format of the table at `address`, 0 if it has neither: a function's record has 40 bytes in the older format, 44
    in the newer one, so only with the right size do all records end where the next ones begin."""
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
            good += not places.isdisjoint((following - functab, -(-(following - functab) // 8) * 8))  # aligned to 8 in the older format
        if 2 * good > len(entries) // 2:
            return magic
    return 0


def _moduledata(image: Image, table: int) -> int | None:
    """The module data that points to that table: {pcHeader *pcHeader; funcnametab []byte; ...}, two known pointers side by side, whose text
    range is code of this file. None if there is none.

    Raises:
        BadBinary: there are several, and which one is this file's can't be decided.
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
        text, etext = image.pointer(moduledata + TEXT), image.pointer(moduledata + ETEXT)
    except BadBinary:
        return False
    segment = image.segment_at(text)
    return segment is not None and segment.executable and text < etext <= segment.address + segment.memory_size
