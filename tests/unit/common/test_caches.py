"""Caches of methods end with their object."""

from __future__ import annotations

import gc
import weakref

from gobuild import build

from gotrace.common.caches import cached
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.image import read_file


class Squares:
    def __init__(self) -> None:
        self.computed = 0

    @cached(2)
    def of(self, number: int) -> int:
        """The square."""
        self.computed += 1
        return number * number


def test_answers_are_kept_for_each_object() -> None:
    one, other = Squares(), Squares()
    assert [one.of(3), one.of(3), other.of(3)] == [9, 9, 9] and (one.computed, other.computed) == (1, 1)
    assert [one.of(number) for number in (4, 5, 3)] == [16, 25, 9] and one.computed == 4  # two are kept
    assert Squares.of.__doc__ == "The square."


def test_a_cache_ends_with_its_object() -> None:
    one = Squares()
    one.of(3)
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None


def test_nothing_keeps_a_binary() -> None:
    path = build("parked", "1.27.3", "stripped")
    with open(path, "rb") as file:
        binary = GoBinary(read_file(file.fileno(), str(path)))
    for name in ("main.main", "runtime.gopark"):
        function = binary.table.functions_named(name)[0]
        assert binary.table.function_at(function.entry) is function
    gone = weakref.ref(binary.table)
    del binary
    gc.collect()
    assert gone() is None
