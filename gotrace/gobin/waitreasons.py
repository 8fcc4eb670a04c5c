"""The running version's own wait reasons, runtime.waitReasonStrings, and its reasons to stop the world, runtime.stwReasonStrings (from Go
1.21), found by their contents.

The numbers change between releases and once within one (1.23.x); the texts of the first entries never did (src/runtime/runtime2.go, Go
1.19 to 1.27): entry 0 is empty, entry 1 is "GC assist marking", entry 2 "IO wait"; the other table begins with "unknown", "GC mark
termination", "GC sweep termination".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from gotrace.common.errors import BadBinary
from gotrace.gobin.image import Image

_FIRST = b"GC assist marking"
_SECOND = b"IO wait"
_STOP_FIRST = (b"unknown", b"GC mark termination", b"GC sweep termination")
_MAX_REASONS = 64
_MAX_LENGTH = 48
_MAX_MATCHES = 64


def read_wait_reasons(image: Image) -> tuple[str, ...]:
    """The table, indexed by g.waitreason; raises BadBinary if it is not found."""
    for header in _string_headers(image, _FIRST):
        table = _read_table(image, header - 16)
        if table:
            return table
    raise BadBinary(f"{image.name}: the table of wait reasons was not found")


def read_stop_reasons(image: Image) -> tuple[str, ...]:
    """The table of reasons to stop the world, indexed by runtime.stwReason; () if the version has none."""
    for header in _string_headers(image, _STOP_FIRST[1]):
        table = _read_texts(image, header - 16)
        if table[: len(_STOP_FIRST)] == tuple(text.decode() for text in _STOP_FIRST):
            return table
    return ()


def _string_headers(image: Image, text: bytes) -> Iterator[int]:
    """Where string variables with that text are. A string header is {pointer, length}; the text is searched for first, because it is rarer
    than its length, and then pointers to it. Variables are in writable segments; variables of another program that the file contains as
    data would point elsewhere."""
    length = len(text).to_bytes(8, "little")
    for address in itertools.islice(image.find_all(text, executable=False), _MAX_MATCHES):
        found = set()
        if image.pie:
            found = {at for at, to in image.relocations.items() if to == address and image.read_up_to(at + 8, 8) == length}
        if not found:
            pointers = image.find_all(address.to_bytes(8, "little") + length, writable=True)
            found = set(itertools.islice(pointers, _MAX_REASONS))
        yield from sorted(at for at in found if at % 8 == 0)


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
