"""Writes Protocol Buffers' wire format, as far as pprof and Perfetto files need it.

Source: protobuf.dev/programming-guides/encoding. A field is a tag (number << 3 | wire type) and a value; type 0 is a varint, 1 eight
bytes, 2 a length and that many bytes. Decoders accept fields in any order, and the last of several for a scalar.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache


@lru_cache(1 << 16)
def varint(value: int) -> bytes:
    """`value` in base 128, least significant group first; a negative one as its 64-bit two's complement."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def integer(number: int, value: int) -> bytes:
    """Field `number` of an integer, boolean or enum type."""
    return varint(number << 3) + varint(value)


def fixed64(number: int, value: int) -> bytes:
    """Field `number` of type fixed64."""
    return varint(number << 3 | 1) + struct.pack("<Q", value & 0xFFFF_FFFF_FFFF_FFFF)


def chunk(number: int, content: bytes) -> bytes:
    """Field `number` with a message or with bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def text(number: int, value: str) -> bytes:
    """Field `number` of type string; what UTF-8 can't hold becomes ``?``."""
    return chunk(number, value.encode("utf-8", "replace"))


def packed(number: int, values: Iterable[int]) -> bytes:
    """Field `number` of a repeated integer type."""
    return chunk(number, b"".join(map(varint, values)))
