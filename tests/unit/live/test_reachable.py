"""Which objects only their waiters can reach, in small heaps that were made up."""

from __future__ import annotations

import struct

import pytest
from fuzz.targets import HEAP, HostileMemory, _genuine

from gotrace.live.heap import Heap, Span
from gotrace.live.pages import Pages
from gotrace.live.reachable import References, Search, Stack

SIZE = 64
STACKS = 0x4000
"""Objects of 64 bytes are before it, stacks of 256 bytes behind it, variables at the end."""
VARIABLES = 0x6000
END = 0x7000
CHANNEL, HOLDER, OUTER, SUDOG = (HEAP + SIZE * number for number in (3, 10, 20, 30))


class MadeUpHeap:
    """As gotrace.live.heap.Heap."""

    def span(self, address: int) -> Span | None:
        if HEAP <= address < HEAP + STACKS:
            return Span(HEAP, HEAP + STACKS, SIZE, False, True, 1 << 16, b"")
        return Span(HEAP + STACKS, HEAP + VARIABLES, 0, True, False, 0, b"") if address < HEAP + VARIABLES else None

    def object(self, address: int) -> tuple[int, int] | None:
        return (HEAP + (address - HEAP) // SIZE * SIZE, SIZE) if HEAP <= address < HEAP + STACKS else None


def search(words: dict[int, int], things: dict[int, set[int]], owned: dict[int, int] | None = None, most: int = 1 << 30) -> Search:
    """`words` by their places; goroutine N's stack is the N-th, of which the upper half is in use."""
    data = bytearray(END)
    for place, word in words.items():
        data[place - HEAP : place - HEAP + 8] = struct.pack("<Q", word)
    stacks = [Stack(at, at + 256, at + 128, number) for number in range(8) for at in [HEAP + STACKS + 256 * number]]
    waiters: dict[int, set[int]] = {}
    for goid, objects in things.items():
        for each in objects:
            waiters.setdefault(each, set()).add(goid)
    references = References(HostileMemory(bytes(data), 0), MadeUpHeap(), stacks, waiters, things, owned or {})  # type: ignore[arg-type]
    return references.search([(HEAP, HEAP + END)], most)


def stack(number: int, offset: int = 128) -> int:
    return HEAP + STACKS + 256 * number + offset


WAITS = {1: {CHANNEL}}


@pytest.mark.parametrize("words, alone, why", [
    ({}, True, "nobody refers to it"),
    ({stack(1): CHANNEL}, True, "its waiter's stack does"),
    ({stack(2): CHANNEL}, False, "another goroutine's stack does"),
    ({stack(2): CHANNEL + 16}, False, "another goroutine has the address of a part of it"),
    ({stack(2, 64): CHANNEL}, True, "what another goroutine's stack has left behind does"),
    ({HEAP + VARIABLES: CHANNEL}, False, "a variable does"),
    ({SUDOG + 8: CHANNEL}, True, "its waiter's sudog does"),
    ({HOLDER + 8: CHANNEL}, True, "an object does that nobody refers to"),
    ({HOLDER + 8: CHANNEL, stack(1): HOLDER}, True, "an object of its waiter does"),
    ({HOLDER + 8: CHANNEL, stack(2): HOLDER}, False, "an object of another goroutine does"),
    ({HOLDER + 8: CHANNEL, OUTER: HOLDER + 32, HEAP + VARIABLES: OUTER}, False, "an object does, behind another one, of a variable"),
    ({HOLDER: OUTER, OUTER: HOLDER, HOLDER + 8: CHANNEL}, True, "objects in a circle do"),
])
def test_who_reaches_a_channel(words: dict[int, int], alone: bool, why: str) -> None:
    assert search(words, WAITS, {SUDOG: 1}).alone == ({CHANNEL} if alone else set()), why


def test_goroutines_that_only_reach_one_another() -> None:
    other = CHANNEL + 5 * SIZE
    things = {1: {CHANNEL}, 2: {other}}
    crossed = {stack(1): other, stack(2): CHANNEL}
    assert search(crossed, things).alone == {CHANNEL, other}
    assert search(crossed | {stack(3): other}, things).alone == set(), "who reaches one wakes its waiter, and that the other"
    assert search({stack(1): other, stack(3): CHANNEL}, things).alone == set()
    assert search({stack(2): CHANNEL, stack(3): CHANNEL}, things).alone == {other}


def test_a_select_goes_on_by_any_of_its_channels() -> None:
    other = CHANNEL + 5 * SIZE
    assert search({stack(3): other}, {1: {CHANNEL, other}}).alone == set()


def test_a_search_that_is_given_up_finds_nothing() -> None:
    found = search({}, WAITS, most=END - 1)
    assert not found.complete and found.alone == set() and found.searched == 0
    deep = {HOLDER + SIZE * number: HOLDER + SIZE * (number - 1) for number in range(1, 20)} | {HOLDER: CHANNEL}
    assert search(deep, WAITS).alone == set(), "what is behind the last round is not known"


def test_memory_without_spans_has_no_heap() -> None:
    for data in (b"", bytes(0x2000), bytes(range(256)) * 64, struct.pack("<Q", HEAP) * 1024):
        heap = Heap(Pages(HostileMemory(data, 0)), _genuine(), 0, [HEAP + 0x100, HEAP + 0x400], 400)
        assert not heap.found and heap.span(1 << 60) is None
