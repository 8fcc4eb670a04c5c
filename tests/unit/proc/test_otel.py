"""What a process says of itself: published as OTEP 4719 has it, by a real process, and in its environment. All of it may be anything."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gotrace.export.protobuf import chunk, integer
from gotrace.proc.otel import (
    LONGEST_VALUE,
    MOST_ATTRIBUTES,
    attributes_of,
    context_attributes,
    from_environment,
    published,
)

PUBLISH = """
import ctypes, mmap, os, sys
payload = bytes.fromhex(sys.argv[1])
version, size, stamp = map(int, sys.argv[2:5])
fd = os.memfd_create("OTEL_CTX", 0)
os.ftruncate(fd, 8192)
memory = mmap.mmap(fd, 8192, mmap.MAP_PRIVATE)
os.close(fd)
kept = ctypes.create_string_buffer(payload, len(payload) + 1)
address = int(sys.argv[5]) or ctypes.addressof(kept)
header = sys.argv[6].encode() + b"".join(
    number.to_bytes(length, "little") for number, length in ((version, 4), (size, 4), (stamp, 8), (address, 8)))
memory[:len(header)] = header
print("ready", flush=True)
sys.stdin.read()
"""


def message(resource: dict[str, Any], others: dict[str, Any] | None = None) -> bytes:
    """A ProcessContext, whose parts are written by the official library: resource is field 1, attributes field 2."""
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource

    def filled(attributes: dict[str, Any]) -> Any:
        found = Resource()
        for key, value in attributes.items():
            pair = found.attributes.add(key=key)
            if isinstance(value, list):
                for one in value:
                    pair.value.array_value.values.add(string_value=one)
            else:
                kind = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}[type(value)]
                setattr(pair.value, kind, value)
        return found

    extra = b"".join(chunk(2, pair.SerializeToString()) for pair in filled(others or {}).attributes)
    return chunk(1, filled(resource).SerializeToString()) + extra


@contextmanager
def publisher(
    payload: bytes, version: int = 2, size: int | None = None, stamp: int = 1, address: int = 0, signature: str = "OTEL_CTX",
    environment: dict[str, str] | None = None,
) -> Iterator[int]:
    """A process that publishes that; its pid."""
    command = [sys.executable, "-c", PUBLISH, payload.hex(), str(version), str(len(payload) if size is None else size), str(stamp),
               str(address), signature]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"]} | (environment or {})
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        try:
            yield process.pid
        finally:
            process.stdin.close()  # type: ignore[union-attr]


def test_what_an_sdk_has_published() -> None:
    payload = message(
        {"service.name": "checkout", "service.version": "1.2", "process.pid": -3, "is.beta": True, "share": 0.5, "tags": ["a"]},
        {"extra": "x", "service.name": "not this one"},
    )
    with publisher(payload, environment={"OTEL_SERVICE_NAME": "older", "OTEL_RESOURCE_ATTRIBUTES": "team=a%2Cb", "SECRET": "hush"}) as pid:
        found = {"service.name": "checkout", "service.version": "1.2", "process.pid": "-3", "is.beta": "true", "share": "0.5", "extra": "x"}
        assert published(pid) == found
        assert attributes_of(pid) == found | {"team": "a,b"}
    assert attributes_of(pid) == {}


@pytest.mark.parametrize("fault", [
    {"version": 1}, {"version": 3}, {"stamp": 0}, {"size": 0}, {"size": 65537}, {"address": 4096}, {"signature": "OTEL_CTY"},
    {"size": 2**32 - 1}, {"address": 2**64 - 8},
])
def test_what_is_not_well_formed_is_nothing(fault: dict[str, Any]) -> None:
    with publisher(message({"service.name": "x"}), **fault) as pid:
        assert published(pid) == {}


def test_the_environment() -> None:
    block = b"A=1\0OTEL_SERVICE_NAME=api\0PASSWORD=hush\0OTEL_RESOURCE_ATTRIBUTES=service.name=other, deployment.environment.name = prod%20eu\0"
    assert from_environment(block) == {"service.name": "api", "deployment.environment.name": "prod eu"}
    assert from_environment(b"OTEL_RESOURCE_ATTRIBUTES=service.name=other\0") == {"service.name": "other"}
    assert from_environment(b"") == from_environment(b"OTEL_SERVICE_NAME\0OTEL_SERVICE_NAMES=x\0XOTEL_SERVICE_NAME=x") == {}


@pytest.mark.parametrize("text", ["a=1,b", "a=%ff", "a", ",a=1"])
def test_a_list_with_a_fault_counts_as_none(text: str) -> None:
    assert from_environment(b"OTEL_RESOURCE_ATTRIBUTES=" + text.encode()) == {}


def test_everything_is_bounded() -> None:
    many = ",".join(f"k{number}=v" for number in range(1000))
    assert len(from_environment(f"OTEL_RESOURCE_ATTRIBUTES={many}".encode())) == MOST_ATTRIBUTES
    assert from_environment(b"OTEL_RESOURCE_ATTRIBUTES=" + b"a=1," * 10_000 + b"a=1") == {}
    assert len(from_environment(b"OTEL_SERVICE_NAME=" + b"x" * 5000)["service.name"]) == LONGEST_VALUE
    cut = b"\0" * ((1 << 20) - 20) + b"OTEL_SERVICE_NAME=ap"
    assert len(cut) >= 1 << 20 and from_environment(cut) == {}
    assert len(context_attributes(message({f"k{number}": "v" for number in range(1000)}))) == MOST_ATTRIBUTES
    for key in ("", "a b", "1a", "a\n", "k" * 200, "ä"):
        assert context_attributes(message({key: "v", "fine": "v"})) == {"fine": "v"}


@given(st.binary(max_size=300))
def test_any_bytes_are_read(data: bytes) -> None:
    assert isinstance(context_attributes(data), dict) and isinstance(from_environment(b"OTEL_RESOURCE_ATTRIBUTES=" + data), dict)


@given(st.binary(max_size=60), st.integers(0, 80))
def test_a_message_that_was_changed_is_read(junk: bytes, at: int) -> None:
    whole = message({"service.name": "checkout", "n": 7}, {"extra": "x"})
    for data in (whole[:at], whole[:at] + junk + whole[at:], junk + whole):
        for key, value in context_attributes(data).items():
            assert isinstance(key, str) and isinstance(value, str)


def test_numbers_that_never_end_are_refused() -> None:
    assert context_attributes(b"\xff" * 50) == context_attributes(integer(1, 5) + b"\x0f") == context_attributes(struct.pack("<B", 0x0A)) == {}
