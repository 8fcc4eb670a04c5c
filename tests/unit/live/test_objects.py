"""What goroutines wait for, from memory that was made up: what is right is read, what lies or goes round in circles ends."""

from __future__ import annotations

import struct

import pytest
from fuzz.targets import CORPUS, HEAP, HostileMemory, _genuine

from gotrace.live.channels import Channels
from gotrace.live.conds import Conds
from gotrace.live.pages import Pages
from gotrace.live.semaphores import waiters
from gotrace.live.timers import Timers
from gotrace.live.typenames import TypeNames

G, SUDOG = HEAP, HEAP + 0x200
SEEDS = CORPUS / "objects"
LAYOUT = _genuine().wait_layout


def read(data: bytes) -> tuple[Channels, HostileMemory, Pages]:
    memory = HostileMemory(data, 0)
    pages = Pages(memory)
    types = TypeNames(pages, _genuine(), 0)
    types.base = HEAP
    return Channels(pages, LAYOUT, types, Timers(pages, _genuine(), 0)), memory, pages


def changed(name: str, at: int, word: int) -> bytes:
    data = bytearray((SEEDS / name).read_bytes())
    data[at : at + 8] = struct.pack("<Q", word & (1 << 64) - 1)
    return bytes(data)


def test_a_select_s_cases_are_read() -> None:
    channels, _, _ = read((SEEDS / "select-and-cond").read_bytes())
    first, second = channels.cases({G: SUDOG})[G]
    assert (first.op, second.op, channels.refused) == ("receive", "send", 0)
    assert first.channel == (HEAP + 0x400, 2, 4, False, 24, "main.job", 12345)
    assert (second.channel.address, second.channel.due_ns) == (HEAP + 0x500, None)


@pytest.mark.parametrize("at, word, why", [
    (0x200, G + 8, "the sudog belongs to another goroutine"),
    (0x280 + LAYOUT.sudog_waitlink, SUDOG, "the list is a circle"),
    (0x280 + LAYOUT.sudog_waitlink, 1 << 46, "the list leads nowhere"),
    (0x280 + LAYOUT.sudog_c, HEAP + 3, "a channel is not aligned"),
    (0x280 + LAYOUT.sudog_c, 0xDEAD0000, "a channel can't be read"),
    (0x400, 5, "a channel holds more than it has room for"),
    (0x408, 1 << 60, "a channel is larger than the memory"),
    (0x400 + 24, 1 << 63 | 24, "a channel is closed twice"),
])
def test_what_makes_no_sense_is_refused(at: int, word: int, why: str) -> None:
    channels, _, _ = read(changed("select-and-cond", at, word))
    assert channels.cases({G: SUDOG}) == {} and channels.refused >= 1, why


def test_a_timer_of_another_channel_and_a_type_of_another_size_are_not_believed() -> None:
    channels, _, _ = read(changed("select-and-cond", 0x700 + 56, HEAP + 0x500))
    assert channels.cases({G: SUDOG})[G][0].channel.due_ns is None
    channels, _, _ = read(changed("select-and-cond", 0x600, 25))
    assert {case.channel.elem for case in channels.cases({G: SUDOG})[G]} == {""}


def test_a_queue_in_a_circle_ends() -> None:
    channels, _, _ = read(changed("select-and-cond", 0x208, SUDOG))
    assert [case.op for case in channels.cases({G: SUDOG})[G]] == ["receive", "send"]


def test_the_table_of_semaphores_is_read() -> None:
    _, memory, pages = read((SEEDS / "semaphores").read_bytes())
    address = HEAP + 0x1008
    assert waiters(memory, pages, HEAP, LAYOUT) == {HEAP + 8: address, HEAP + 0x10: address + 8 * 251, HEAP + 0x18: address}


@pytest.mark.parametrize("at, word", [
    (0x4400 + LAYOUT.sudog_waitlink, HEAP + 0x4400), (0x4400 + LAYOUT.sudog_waitlink, HEAP + 0x4200), (0x4300 + 8, HEAP + 0x4200),
])
def test_a_tree_in_a_circle_ends(at: int, word: int) -> None:
    _, memory, pages = read(changed("semaphores", at, word))
    assert len(waiters(memory, pages, HEAP, LAYOUT)) == 3


def test_a_sudog_in_the_wrong_tree_is_not_believed() -> None:
    _, memory, pages = read(changed("semaphores", 0x4300 + LAYOUT.sudog_elem, HEAP + 0x1010))
    assert sorted(waiters(memory, pages, HEAP, LAYOUT)) == [HEAP + 8, HEAP + 0x18]


def test_a_cond_is_confirmed_by_its_list() -> None:
    data = (SEEDS / "select-and-cond").read_bytes()
    _, _, pages = read(data)
    assert Conds(pages).of(G, data[:1024]) == (HEAP + 0x800, HEAP + 0x1000, 1)
    assert Conds(pages).of(G + 8, data[:1024]) is None
    for at, word in ((0x900 + 8, HEAP + 0x900), (0x800 + 40, HEAP + 0x200), (0x100, 1 << 62)):
        lying = changed("select-and-cond", at, word)
        assert Conds(read(lying)[2]).of(G, lying[:1024]) is None
