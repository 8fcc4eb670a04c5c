"""Timelines of goroutines: in order, bounded, and honest about what they lack."""

from __future__ import annotations

import pytest
from histories import part
from hypothesis import given
from hypothesis import strategies as st

from gotrace.watch.requests import timelines as module
from gotrace.watch.requests.timelines import Timelines


@given(st.lists(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 50), st.integers(1, 9)))))
def test_parts_come_in_any_order_and_go_out_in_that_of_time(batches: list[list[tuple[int, int, int]]]) -> None:
    made, taken = Timelines(0), []
    for batch in batches:
        parts = [part(goid, start, start + length) for goid, start, length in batch]
        made.take(parts, 100)
        taken += parts
        for goid in (1, 2, 3):
            assert made.of(goid) == sorted(each for each in taken if each.goid == goid)


def test_of_a_goroutine_that_never_waited_nothing_is_known() -> None:
    assert Timelines(0).of(7) == []


def test_what_is_lost_only_ever_moves_forward() -> None:
    made = Timelines(50)
    for moment, since in ((20, 50), (80, 80), (70, 80)):
        made.lost(moment)
        assert made.since_ns == since


def test_the_older_half_is_forgotten_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_PARTS", 1000)
    made, kept_least = Timelines(0), 1000
    for round_number in range(50):
        base = round_number * 1000
        made.take([part(goid, base + 50 * number + goid, base + 50 * number + goid + 20) for goid in range(1, 8) for number in range(20)],
                  base + 1000)
        parts = [each for goid in range(1, 8) for each in made.of(goid)]
        if round_number > 10:
            kept_least = min(kept_least, len(parts))
        assert len(parts) <= 1000 + 140
        # All that ended since then is there, and what began before it and reached into it.
        expected = sum(
            base + 50 * number + goid + 20 >= made.since_ns
            for base in range(0, base + 1, 1000) for goid in range(1, 8) for number in range(20)
        )
        assert len(parts) == expected or not made.since_ns
    assert kept_least > 300 and made.since_ns > 40_000


def test_a_goroutine_that_is_forgotten_can_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_PARTS", 10)
    made = Timelines(0)
    made.take([part(1, 20, 30), part(1, 0, 10)], 40)  # not in order
    made.take([part(2, 100 + 10 * number, 105 + 10 * number) for number in range(20)], 400)
    assert made.of(1) == []
    later = part(1, 500, 510)
    made.take([later], 600)
    assert made.of(1) == [later]
