"""The running version's own wait reasons, runtime.waitReasonStrings, and its reasons to stop the world,
runtime.stwReasonStrings (from Go 1.21), found by their contents.

The numbers change between releases and once within one (1.23.x), the texts of the first entries never did
(src/runtime/runtime2.go, Go 1.19 to 1.27): entry 0 is empty, entry 1 is "GC assist marking", entry 2 "IO wait"; the other table begins with
"unknown", "GC mark termination", "GC sweep termination".
"""

from __future__ import annotations

from gotrace.errors import BadBinary
from gotrace.gobin.image import Image

_FIRST = b"GC assist marking"
_SECOND = b"IO wait"
_STOP_FIRST = (b"unknown", b"GC mark termination", b"GC sweep termination")
_MAX_REASONS = 64
_MAX_LENGTH = 48
_MAX_MATCHES = 1 << 19


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


def read_stop_reasons(image: Image) -> tuple[str, ...]:
    """The table of reasons to stop the world, indexed by runtime.stwReason; () where the version has none."""
    found = set()
    for header in _string_headers(image, _STOP_FIRST[1]):
        table = _read_texts(image, header - 16)
        if table[: len(_STOP_FIRST)] == tuple(text.decode() for text in _STOP_FIRST):
            found.add(table)
    return found.pop() if len(found) == 1 else ()


def _string_headers(image: Image, text: bytes) -> list[int]:
    # A string header is {pointer, length}: find the length, then check what the pointer points to.
    pattern = len(text).to_bytes(8, "little")
    found: list[int] = []
    left = _MAX_MATCHES
    for segment in image.segments:
        if segment.executable:
            continue
        position, end = segment.offset - 1, segment.offset + segment.file_size
        while left and len(found) < _MAX_REASONS:
            left -= 1
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
    if image.read_up_to(address + 8, 8) != bytes(8):
        return ()
    table = ("", *_read_texts(image, address + 16))
    return table if len(table) > 16 and table[2] == _SECOND.decode() else ()


def _read_texts(image: Image, address: int) -> tuple[str, ...]:
    """The texts of consecutive string headers, up to one that is implausible."""
    table: list[str] = []
    for index in range(_MAX_REASONS):
        try:
            pointer, length = image.pointer(address + 16 * index), image.pointer(address + 16 * index + 8)
            raw = image.read(pointer, length) if 0 < length <= _MAX_LENGTH else b""
        except BadBinary:
            break
        if not raw or not raw.isascii() or not raw.decode().isprintable():
            break
        table.append(raw.decode())
    return tuple(table)
