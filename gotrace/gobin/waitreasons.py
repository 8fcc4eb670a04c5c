"""The running version's own wait reasons: runtime.waitReasonStrings, found by its contents.

The numbers change between releases and once within one (1.23.x), the texts of the first entries never did
(src/runtime/runtime2.go, Go 1.19 to 1.27): entry 0 is empty, entry 1 is "GC assist marking", entry 2 "IO wait".
"""

from __future__ import annotations

from gotrace.errors import BadBinary
from gotrace.gobin.image import Image

_FIRST = b"GC assist marking"
_SECOND = b"IO wait"
_MAX_REASONS = 64
_MAX_LENGTH = 48
_MAX_MATCHES = 1 << 20


def read_wait_reasons(image: Image) -> tuple[str, ...]:
    """The table, indexed by g.waitreason; raises BadBinary if it is not found exactly once."""
    found = set()
    for header in _string_headers(image, _FIRST):
        table = _read_table(image, header - 16)
        if table:
            found.add(table)
    if len(found) != 1:
        raise BadBinary(f"{image.name}: {len(found)} tables of wait reasons found, not one")
    return found.pop()


def _string_headers(image: Image, text: bytes) -> list[int]:
    # A string header is {pointer, length}: find the length, then check what the pointer points to.
    pattern = len(text).to_bytes(8, "little")
    found = []
    for segment in image.segments:
        if segment.executable:
            continue
        position, end = segment.offset - 1, segment.offset + segment.file_size
        for _ in range(_MAX_MATCHES):
            position = image.data.find(pattern, position + 1, end)
            if position < 0:
                break
            address = segment.address + position - segment.offset - 8
            if address % 8 or address < segment.address:
                continue
            if image.read_up_to(image.pointer(address), len(text)) == text:
                found.append(address)
    return found


def _read_table(image: Image, address: int) -> tuple[str, ...]:
    table: list[str] = []
    for index in range(_MAX_REASONS):
        try:
            pointer, length = image.pointer(address + 16 * index), image.pointer(address + 16 * index + 8)
            if index == 0:
                if length:
                    return ()
                table.append("")
                continue
            raw = image.read(pointer, length) if 0 < length <= _MAX_LENGTH else b""
        except BadBinary:
            break
        if not raw or not raw.isascii() or not raw.decode().isprintable():
            break
        table.append(raw.decode())
    return tuple(table) if len(table) > 16 and table[2] == _SECOND.decode() else ()
