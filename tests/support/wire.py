"""Protocol Buffers' wire format read without a schema: an independent check of gotrace.export.protobuf."""

from __future__ import annotations

import struct

Value = int | bytes


def fields(data: bytes) -> list[tuple[int, Value]]:
    """Numbers and values of a message's fields, in the file's order."""
    found: list[tuple[int, Value]] = []
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        number, kind = tag >> 3, tag & 7
        assert number
        if kind == 0:
            value, at = varint(data, at)
            found.append((number, value))
        elif kind == 1:
            found.append((number, struct.unpack_from("<Q", data, at)[0]))
            at += 8
        else:
            assert kind == 2
            length, at = varint(data, at)
            assert at + length <= len(data)
            found.append((number, data[at : at + length]))
            at += length
    return found


def each(data: bytes, number: int) -> list[Value]:
    """The values of field `number`."""
    return [value for field, value in fields(data) if field == number]


def packed(data: bytes) -> list[int]:
    """The integers of a packed field."""
    values, at = [], 0
    while at < len(data):
        value, at = varint(data, at)
        values.append(value)
    return values


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        assert shift < 70
