"""What a process says of itself for OpenTelemetry: the resource attributes that its SDK has published in memory, and those that its
environment had when it was started. All of it is untrusted.

Source of the published form: OTEP 4719 (process context), opentelemetry/proto/processcontext/v1development. A mapping named OTEL_CTX begins
with a signature, a version, the size of a message, when it was published (0: it is just being changed) and where the message lies.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import unquote

from gotrace.proc.memory import Memory, mappings
from gotrace.proc.process import read_short

MOST_ATTRIBUTES = 64
LONGEST_VALUE = 1024
"""Characters; a longer value is cut."""
_MOST_ENVIRONMENT = 1 << 20
_LONGEST_VARIABLE = 16 << 10
_NAMES = ("[anon_shmem:OTEL_CTX]", "[anon:OTEL_CTX]", "/memfd:OTEL_CTX")
_HEADER = struct.Struct("<8sIIQQ")
_SIGNATURE, _VERSION = b"OTEL_CTX", 2
_MOST_PAYLOAD = 64 << 10
_TRIES, _MOST_MAPPINGS = 3, 4
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-/]{0,127}")
_SERVICE = "service.name"


def attributes_of(pid: int) -> dict[str, str]:
    """The resource attributes that a process has declared, those of its SDK before those of its environment; {} if there are none, or it
    has ended."""
    return _bounded([*published(pid).items(), *from_environment(read_short(f"/proc/{pid}/environ", _MOST_ENVIRONMENT)).items()])


def from_environment(block: bytes) -> dict[str, str]:
    """Those of OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES in a block of variables as /proc/PID/environ has it. Nothing else of it is
    kept. A list that is not well-formed counts as none, as in OpenTelemetry's own libraries."""
    found: dict[bytes, str] = {}
    entries = block.split(b"\0")
    if len(block) >= _MOST_ENVIRONMENT:
        entries.pop()  # it may be cut
    for entry in entries:
        name, equals, value = entry.partition(b"=")
        if equals and name in (b"OTEL_SERVICE_NAME", b"OTEL_RESOURCE_ATTRIBUTES") and len(value) <= _LONGEST_VARIABLE:
            found.setdefault(name, value.decode("utf-8", "replace"))
    name_of_service = found.get(b"OTEL_SERVICE_NAME", "").strip()
    listed = _listed(found.get(b"OTEL_RESOURCE_ATTRIBUTES", ""))
    return _bounded([*([(_SERVICE, name_of_service)] if name_of_service else []), *listed])


def _listed(text: str) -> list[tuple[str, str]]:
    """The pairs in ``key=value,key=value``, in which both are percent-encoded."""
    pairs = []
    for part in text.split(",") if text.strip() else ():
        key, equals, value = part.partition("=")
        if not equals:
            return []
        try:
            pairs.append((unquote(key.strip(), errors="strict"), unquote(value.strip(), errors="strict")))
        except UnicodeDecodeError:
            return []
    return pairs


def published(pid: int) -> dict[str, str]:
    """Those that its SDK has published (OTEL_CTX); {} if there are none, or they can't be read."""
    with suppress(OSError):
        places = (mapping.start for mapping in mappings(pid) if mapping.path.startswith(_NAMES))
        memory = Memory(pid)
        for _, start in zip(range(_MOST_MAPPINGS), places, strict=False):
            payload = _payload(memory, start)
            if payload is not None:
                return context_attributes(payload)
    return {}


def _payload(memory: Memory, start: int) -> bytes | None:
    """The message, if it was not changed while it was read."""
    for _ in range(_TRIES):
        header = memory.read(start, _HEADER.size)
        if header is None:
            return None
        signature, version, size, published_ns, address = _HEADER.unpack(header)
        if signature != _SIGNATURE or version != _VERSION or not 0 < size <= _MOST_PAYLOAD:
            return None
        if published_ns:
            payload = memory.read(address, size)
            if payload is not None and memory.read(start, _HEADER.size) == header:
                return payload
    return None


def context_attributes(payload: bytes) -> dict[str, str]:
    """The attributes in a message ProcessContext: those of its resource, then its others. {} if it is not well-formed."""
    try:
        resources = [content for number, content in _messages(payload) if number == 1]
        pairs = [content for resource in resources for number, content in _messages(resource) if number == 1]
        pairs += [content for number, content in _messages(payload) if number == 2]
        return _bounded([_pair(pair) for pair in pairs[: 4 * MOST_ATTRIBUTES]])
    except (ValueError, struct.error):
        return {}


def _pair(message: bytes) -> tuple[str, str]:
    """Key and value of a KeyValue; the value of a kind that is neither text nor a number is ""."""
    key = value = ""
    for number, content in _messages(message):
        if number == 1:
            key = content.decode("utf-8", "replace")
        elif number == 2:
            value = _value(content)
    return key, value


def _value(message: bytes) -> str:
    for number, content in _fields(message):
        if number == 1 and isinstance(content, bytes):
            return content.decode("utf-8", "replace")
        if number == 2 and isinstance(content, int):
            return "true" if content else "false"
        if number == 3 and isinstance(content, int):
            return str(content - (1 << 64) if content >> 63 else content)
        if number == 4 and isinstance(content, bytes) and len(content) == 8:
            return repr(struct.unpack("<d", content)[0])
    return ""


def _messages(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Its fields that have a length: texts and messages."""
    for number, kind, content in _raw(message):
        if kind == 2 and isinstance(content, bytes):
            yield number, content


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    for number, _, content in _raw(message):
        yield number, content


def _raw(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Number, wire type and content of each field (protobuf.dev/programming-guides/encoding).

    Raises:
        ValueError: it is not well-formed.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, kind, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("an unknown wire type")
        if length > len(message) - at:
            raise ValueError("a field is cut")
        yield number, kind, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("a number is cut")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise ValueError("a number is too long")


def _bounded(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The first value of each key; without keys that are none, and without what is beyond the limits."""
    found: dict[str, str] = {}
    for key, value in pairs:
        if value and key not in found and _KEY.fullmatch(key) and len(found) < MOST_ATTRIBUTES:
            found[key] = value[:LONGEST_VALUE]
    return found
