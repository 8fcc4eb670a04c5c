"""Timelines of goroutines: in order, bounded, and honest about what they lack."""

from __future__ import annotations

import pytest
from histories import happened, part
from hypothesis import given
from hypothesis import strategies as st

from gotrace.watch.requests import timelines as module
from gotrace.watch.requests.timelines import Timelines


@given(st.lists(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 50), st.integers(1, 9)))))
def test_parts_come_in_any_order_and_go_out_in_that_of_time(batches: list[list[tuple[int, int, int]]]) -> None:
    made, taken = Timelines(0), []
    for batch in batches:
        parts = [part(goid, start, start + length) for goid, start, length in batch]
        made.take(happened(*parts))
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


def test_the_oldest_are_forgotten_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_PARTS", 1000)
    made, taken = Timelines(0), []
    for base in range(0, 50_000, 1000):
        starts = [(goid, base + 50 * number + goid) for goid in range(1, 8) for number in range(20)]
        parts = [part(goid, start, start + 20) for goid, start in starts]
        taken += parts
        made.take(happened(*parts))
        known = [each for goid in range(1, 8) for each in made.of(goid)]
        assert len(known) <= 1000
        # Each that ended later is there.
        assert {each for each in taken if each.start_ns + each.duration_ns > made.since_ns} <= set(known)
    assert 40_000 < made.since_ns < 50_000 and len(known) > 800


def test_a_batch_that_is_too_large_is_still_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_PARTS", 10)
    made = Timelines(0)
    made.take(happened(part(1, 0, 10)))
    made.take(happened(*(part(2, 100 + 10 * number, 105 + 10 * number) for number in range(20))))
    assert (made.of(1), len(made.of(2)), made.since_ns) == ([], 20, 10)
    later = part(1, 500, 510)
    made.take(happened(later))
    assert made.of(1) == [later]


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=60))
def test_what_was_asked_for_before_is_not_what_is_known_for_ever(takes: list[tuple[int, bool]]) -> None:
    """More goroutines than answers are remembered of."""
    made, remembered = Timelines(0), module._REMEMBERED
    module._REMEMBERED = 5
    try:
        expected: dict[int, list] = {goid: [] for goid in range(1, 41)}
        for at, (goid, asks) in enumerate(takes):
            expected[goid].append(part(goid, 10 * at, 10 * at + 5))
            made.take(happened(expected[goid][-1]))
            for each in range(1, 41) if asks else ():
                assert made.of(each) == expected[each]
    finally:
        module._REMEMBERED = remembered
