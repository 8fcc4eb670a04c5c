"""Memory is read whole or not at all, and one bad range spoils no other."""

from __future__ import annotations

import ctypes as ct
import os
from array import array
from dataclasses import dataclass

import pytest
from fuzz.targets import CORPUS, HEAP, HostileMemory

from gotrace.gobin.binary import GoBinary
from gotrace.gobin.image import Image
from gotrace.live.goroutines import OFF_CPU, GoroutineReader, Unwinder
from gotrace.live.scan import Scanner
from gotrace.proc.memory import Memory

NOWHERE = 0x10
G_SIZE = 400


@pytest.fixture
def text() -> ct.Array:
    return ct.create_string_buffer(b"abcdefgh" * 1000, 8000)


def test_what_can_t_be_read_is_none(text: ct.Array) -> None:
    address, memory = ct.addressof(text), Memory(os.getpid())
    assert memory.read_many([(address, 3), (NOWHERE, 8), (address + 3, 2), (address, 0)]) == [b"abc", None, b"de", b""]
    assert memory.u64(address) == int.from_bytes(b"abcdefgh", "little")
    assert memory.read(2**64 - 8, 8) is None
    many = [(address + place % 7000, 5) for place in range(3000)]
    assert memory.read_many(many) == [bytes(text[place % 7000 : place % 7000 + 5]) for place in range(3000)]


def test_unreadable_ranges_among_many(text: ct.Array) -> None:
    address, memory = ct.addressof(text), Memory(os.getpid())
    ranges = [(address + place, 4) if place % 3 else (NOWHERE, 4) for place in range(2500)]
    assert memory.read_many(ranges) == [bytes(text[place : place + 4]) if place % 3 else None for place in range(2500)]


def test_nothing_is_written_behind_the_buffer(text: ct.Array) -> None:
    memory, buffer = Memory(os.getpid()), bytearray(8)
    assert memory.read_into(buffer, 8, array("Q", (ct.addressof(text), 4, ct.addressof(text) + 8, 4))) == 8
    assert buffer == b"abcdabcd"
    with pytest.raises(ValueError, match="9 bytes do not fit into 8"):
        memory.read_into(buffer, 9, array("Q", (ct.addressof(text), 9)))
    ranges = memory.fixed([(ct.addressof(text), 4), (NOWHERE, 4)], bytearray(8))
    assert ranges.read() is None and ranges.read_each() == [b"abcd", None]
    with pytest.raises(ProcessLookupError):
        Memory(2**22 + 1).read(0, 8)


@dataclass
class Seen:
    """The goroutines of a process that was stored, and where their g structs are."""

    scanner: Scanner
    reader: GoroutineReader
    memory: HostileMemory


def seen(data: bytes) -> Seen:
    path = CORPUS / "binary" / "go-1.27.3-stripped"
    binary = GoBinary(Image(path.read_bytes(), path.name))
    memory = HostileMemory(data, binary.allgs)
    reader = GoroutineReader(memory, binary, 0)
    return Seen(Scanner(memory, reader, Unwinder(binary, 0), binary.layout), reader, memory)


def test_a_stack_that_can_t_be_read_spoils_no_other() -> None:
    data = (CORPUS / "goroutines" / "parked").read_bytes()
    whole = seen(data)
    off = [index for index in whole.scanner.sample() if whole.scanner.heads[index].status in OFF_CPU]
    before = whole.scanner.snapshots(off)
    assert len(off) > 1 and all(snapshot.pcs for snapshot in before.values())
    assert {index: whole.reader.stack(whole.reader.read([whole.scanner.address(index)])[0]) for index in off} == {
        index: snapshot.pcs for index, snapshot in before.items()
    }

    left: list[int] = []
    crowds = list(whole.scanner.crowds(off, left, G_SIZE, fewest=1))
    together = {index: crowd.pcs for crowd in crowds for index in crowd.indexes}
    assert together and together.keys() | set(left) == set(off)
    assert all(before[index].pcs == pcs for index, pcs in together.items())

    head, start = whole.scanner.heads[off[0]], whole.scanner.address(off[0]) - HEAP
    before_it, its, behind = data[:start], data[start : start + G_SIZE], data[start + G_SIZE :]
    for field in (head.lo, head.hi, head.sp):  # its stack is where there is nothing
        its = its.replace(field.to_bytes(8, "little"), (field + (1 << 40)).to_bytes(8, "little"))
    spoilt = seen(before_it + its + behind)
    assert set(off) <= set(spoilt.scanner.sample())
    after = spoilt.scanner.copies(off)
    assert after[off[0]].stack is None and after[off[0]].head.goid == head.goid
    none: list[int] = []
    crowds = list(spoilt.scanner.crowds(off, none, G_SIZE, fewest=1))
    assert off[0] in none and {index: crowd.pcs for crowd in crowds for index in crowd.indexes} == {
        index: pcs for index, pcs in together.items() if index != off[0]}
    assert {index: spoilt.scanner.snapshot(after[index]).pcs for index in off[1:]} == {index: before[index].pcs for index in off[1:]}
