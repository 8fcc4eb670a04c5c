"""Timelines of goroutines: in order, bounded, and honest about what they lack."""

from __future__ import annotations

from histories import happened, part
from hypothesis import given
from hypothesis import strategies as st

from gotrace.watch.requests.timelines import Timelines


@given(st.lists(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 50), st.integers(1, 9)))))
def test_parts_come_in_any_order_and_go_out_in_that_of_time(batches: list[list[tuple[int, int, int]]]) -> None:
    made, taken = Timelines(0), []
    for batch in batches:
        parts = [part(goid, start, start + length) for goid, start, length in batch]
        made.take(happened(*parts, until=100))
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


def test_the_oldest_are_forgotten_and_that_is_told() -> None:
    made, taken = Timelines(0), []
    made.most = 1000
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


def test_a_batch_that_is_too_large_is_still_taken() -> None:
    made = Timelines(0)
    made.most = 10
    made.take(happened(part(1, 0, 10)))
    made.take(happened(*(part(2, 100 + 10 * number, 105 + 10 * number) for number in range(20))))
    assert (made.of(1), len(made.of(2)), made.since_ns) == ([], 20, 10)
    later = part(1, 500, 510)
    made.take(happened(later))
    assert made.of(1) == [later]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 30), st.integers(0, 25), st.integers(0, 100)), max_size=30))
def test_of_the_latest_all_are_there(takes: list[tuple[int, int, int, int]]) -> None:
    """What was asked for before does not matter, nor how long ago it was that anything happened."""
    made, now, taken = Timelines(0), 0, []
    for goid, later, length, back in takes:
        if later:
            now += later
            taken.append(part(goid, max(0, now - length), now))
            made.take(happened(taken[-1], until=now))
        else:
            made.take(happened(until=now))
        for each in range(1, 5):
            found, since = made.of(each, now - back), now - back
            expected = sorted(one for one in taken if one.goid == each)
            assert found == sorted(found)
            assert {one for one in expected if one.start_ns + one.duration_ns > since} <= set(found) <= set(expected)


def test_what_is_in_progress_at_the_end_is_known_from_then_on() -> None:
    made = Timelines(0)
    made.take(happened(part(1, 10, 20)))
    assert made.of(1) == [part(1, 10, 20)]
    made.end([part(1, 30, 50), part(2, 40, 50)])
    assert made.of(1) == [part(1, 10, 20), part(1, 30, 50)] and made.of(1, 25) == [part(1, 30, 50)] and made.of(2) == [part(2, 40, 50)]
