"""Profiler labels of goroutines: what is kept of all sets of a process."""

from __future__ import annotations

import struct
from typing import cast

import pytest

from gotrace.gobin.buildinfo import GoVersion
from gotrace.live import labels as module
from gotrace.live.labels import LabelSets
from gotrace.proc.memory import Memory

BASE = 0xC000000000


class Sets:
    """Memory with sets of one label each, as Go 1.24 has them. `reads` counts reads of headers."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.reads = 0

    def add(self, key: bytes, value: bytes) -> int:
        at = BASE + len(self.content)
        text = at + 48
        self.content += struct.pack("<QQ", at + 16, 1) + struct.pack("<QQQQ", text, len(key), text + len(key), len(value)) + key + value
        return at

    def read(self, address: int, size: int) -> bytes:
        self.reads += size == 16
        return bytes(self.content[address - BASE : address - BASE + size])

    def read_many(self, wanted: list[tuple[int, int]]) -> list[bytes]:
        return [self.read(address, size) for address, size in wanted]


def test_sets_beyond_the_room_are_unread_and_equal_ones_take_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 10_000)
    memory = Sets()
    different = [memory.add(b"request", b"%04d" % number + bytes(400)) for number in range(50)]
    equal = [memory.add(b"tenant", b"a") for _ in range(1000)]
    sets = LabelSets(cast(Memory, memory), GoVersion(24))
    assert all(sets.at(pointer) == {"tenant": "a"} for pointer in equal)
    found = [sets.at(pointer) for pointer in different]
    kept = [labels for labels in found if labels is not None]
    assert 8 < len(kept) < 20 and found[: len(kept)] == kept and found[-1] is None
    assert [labels["request"][:4] for labels in kept] == [f"{number:04}" for number in range(len(kept))]
    before = memory.reads
    assert [sets.at(pointer) for pointer in different] == found and memory.reads == before
    assert sets.at(0) == {}
