"""Sums in windows of the past."""

from __future__ import annotations

import random

import pytest

from gotrace.common.histogram import bucket_of
from gotrace.profile.gained import copied, difference
from gotrace.profile.types import Distribution
from gotrace.top.history import KEPT_NS, LAST_NS, History, Window

SECOND = 1_000_000_000


def of(*durations: int) -> Distribution:
    histogram: dict[int, int] = {}
    for ns in durations:
        histogram[bucket_of(ns)] = histogram.get(bucket_of(ns), 0) + 1
    return Distribution(len(durations), sum(durations), max(durations, default=0), sum((ns >> 8) ** 2 for ns in durations), histogram)


def test_windows() -> None:
    history: History[str] = History(0)
    for second in range(30):
        history.add("always", of(1000, 3000))
        if second < 5:
            history.add("early", of(5_000_000))
        history.step((second + 1) * SECOND)
    whole, length = history.within(Window.START)
    assert length == 30 * SECOND and whole["always"] == of(*[1000, 3000] * 30) and whole["early"].count == 5
    last, length = history.within(Window.LAST)
    assert length == LAST_NS and last == {"always": of(*[1000, 3000] * 10)}
    fading, length = history.within(Window.FADING)
    assert 12 * SECOND < length < 15 * SECOND  # 10 s / ln 2, as far as it goes back
    assert fading["always"].count == pytest.approx(2 * length / SECOND, abs=1)
    assert 0 < fading["early"].count <= 1 and fading["early"].percentile_ns(0.5) == fading["early"].max_ns == 5_000_000
    assert history.trend("early", 60) == [5_000_000] * 5 + [0] * 25 and history.trend("always", 3) == [4000] * 3


def test_the_past_is_bounded_and_can_be_forgotten() -> None:
    history: History[int] = History(0)
    for second in range(200):
        history.add(second, of(1))
        history.step((second + 1) * SECOND)
    assert len(history.trend(0, 1000)) <= KEPT_NS // SECOND + 1
    history.clear(200 * SECOND)
    history.add(1, of(7))
    history.step(201 * SECOND)
    assert history.within(Window.START) == ({1: of(7)}, SECOND) == history.within(Window.LAST)


def test_what_is_gained_adds_up() -> None:
    numbers = random.Random(7)
    now, before, summed = Distribution(), Distribution(), Distribution()
    for _ in range(50):
        now.add(of(*(numbers.randrange(1, 1 << 30) for _ in range(numbers.randrange(4)))))
        gained = difference(now, before)
        assert gained.max_ns <= now.max_ns and gained.count == now.count - before.count
        summed.add(gained)
        before = copied(now)
    assert summed == now


def test_a_wait_that_went_on_moves_to_another_bucket() -> None:
    before, now = of(1000), of(1_000_000)
    summed = copied(before)
    summed.add(difference(now, before))
    assert summed == now


def test_the_longest_gained_is_known_to_a_bucket() -> None:
    before = of(9_000_000)
    now = copied(before)
    now.add(of(1000))
    assert 1000 <= difference(now, before).max_ns <= 1000 * 9 / 8 + 1
    assert difference(now, now).max_ns == 0
