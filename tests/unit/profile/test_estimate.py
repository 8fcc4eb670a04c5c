"""Totals from looks: unbiased, and within their stated margin as often as it says, for waits of every kind."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from gotrace.common.vocabulary import State
from gotrace.profile.estimate import Estimator
from gotrace.profile.types import Distribution, Frame, StackStat

MS = 1_000_000
PERIOD = 50 * MS
WINDOW = 6000 * MS

Waits = list[tuple[int, int]]


def waits_of(chance: random.Random, off: Callable[[random.Random], float], on: Callable[[random.Random], float]) -> Waits:
    """One goroutine's (start, end), from before the window to behind it."""
    now, found = -chance.uniform(0, 1000) * MS, []
    while now < WINDOW:
        now += on(chance) * MS
        end = now + off(chance) * MS
        found.append((int(now), int(end)))
        now = end
    return found


def looked_at(chance: random.Random, goroutines: list[Waits]) -> tuple[StackStat, int]:
    """What looks make of it, and the truth."""
    estimator = Estimator()
    place = estimator.place(StackStat((Frame("main.f"),), State.WAITING, "sleep", Distribution()))
    moments = [0]
    while moments[-1] < WINDOW:
        moments.append(min(WINDOW, moments[-1] + int(PERIOD * chance.uniform(0.75, 1.25))))
    at = [0] * len(goroutines)
    for number, moment in enumerate(moments):
        middle = (moments[number - 1] + moment) // 2 if number else 0
        for index, waits in enumerate(goroutines):
            while at[index] < len(waits) and waits[at[index]][1] <= moment:
                at[index] += 1
            here = at[index] < len(waits) and waits[at[index]][0] <= moment
            key, stays = (at[index],), estimator.stays
            if not here:
                estimator.leave(index, middle)
            elif not stays.has_key(index, key):
                estimator.arrive(index, key, index + 1, place, middle)
        if number:
            estimator.count_sample(moment - moments[number - 1])
        else:
            estimator.begin(0)
    estimator.finish(WINDOW)
    truth = sum(max(0, min(end, WINDOW) - max(start, 0)) for waits in goroutines for start, end in waits)
    stacks = estimator.stacks()
    if not stacks:  # not listed, which says: less than the least margin there is
        stacks = [replace(place.stat, margin_ns=round(1.96**2 * PERIOD))]
    return stacks[0], truth


def often(mean: float) -> Callable[[random.Random], float]:
    return lambda chance: chance.expovariate(1 / mean)


def always(length: float) -> Callable[[random.Random], float]:
    return lambda chance: length


def together(chance: random.Random) -> list[Waits]:
    shared = waits_of(chance, often(200), often(200))
    return [shared] * 50


SHAPES: dict[str, Callable[[random.Random], list[Waits]]] = {
    "short": lambda chance: [waits_of(chance, often(2), often(4)) for _ in range(5)],
    "hardly ever elsewhere": lambda chance: [waits_of(chance, always(5), always(0.05))],
    "seldom": lambda chance: [waits_of(chance, always(1), always(60))],
    "about a period": lambda chance: [waits_of(chance, always(50), always(25)) for _ in range(3)],
    "long": lambda chance: [waits_of(chance, often(400), often(100)) for _ in range(20)],
    "together": together,
}


def runs(shape: str) -> Iterator[tuple[StackStat, int]]:
    chance = random.Random(shape)
    for _ in range(200):
        yield looked_at(chance, SHAPES[shape](chance))


@pytest.mark.parametrize("shape", SHAPES)
def test_totals_are_unbiased_and_within_their_margin(shape: str) -> None:
    within, errors, truths = 0, [], []
    for stat, truth in runs(shape):
        error = stat.distribution.total_ns - truth
        within += abs(error) <= stat.margin_ns
        errors.append(error)
        truths.append(truth)
    assert within >= 0.93 * len(errors)
    spread = (sum(error**2 for error in errors) / len(errors)) ** 0.5
    assert abs(sum(errors) / len(errors)) <= max(3.5 * spread / len(errors) ** 0.5, 0.003 * sum(truths) / len(truths))


def test_counts_are_a_lower_bound() -> None:
    chance = random.Random(1)
    waits = waits_of(chance, often(30), often(30))
    stat, _ = looked_at(chance, [waits])
    assert 0 < stat.distribution.count <= sum(end > 0 and start < WINDOW for start, end in waits)


def test_a_wait_that_spans_the_window_is_exact() -> None:
    stat, truth = looked_at(random.Random(2), [[(-MS, WINDOW + MS)]] * 7)
    assert (stat.distribution.total_ns, stat.margin_ns) == (truth, 0)
    assert (stat.distribution.count, stat.in_progress, stat.goroutines) == (7, 7, 7)


def test_the_margin_of_long_waits_is_less_than_that_of_short_ones() -> None:
    chance = random.Random(3)
    long, _ = looked_at(chance, [waits_of(chance, always(1000), always(1000)) for _ in range(10)])
    short, _ = looked_at(chance, [waits_of(chance, often(10), often(10)) for _ in range(10)])
    assert long.margin_ns < short.margin_ns


def test_what_stays_keeps_its_labels() -> None:
    estimator = Estimator()
    labels = (("tenant", "a"),)
    place = estimator.place(StackStat((Frame("main.f"),), State.WAITING, "sleep", Distribution(), labels=labels))
    estimator.arrive(0, (0,), 1, place, 10 * MS)
    found, = estimator.staying(30 * MS)
    assert found.labels == labels and found.distribution.total_ns == 20 * MS and found.in_progress == 1


def test_short_stays_are_left_out_where_that_is_wanted() -> None:
    estimator = Estimator(min_block_ns=100 * MS, stream_ns=300 * MS)
    place = estimator.place(StackStat((Frame("main.f"),), State.WAITING, "sleep", Distribution()))
    estimator.begin(0)
    for start, end in ((0, 50), (100, 250), (300, 700)):
        estimator.arrive(1, (start,), 9, place, start * MS)
        estimator.leave(1, end * MS)
    estimator.finish(1000 * MS)
    changed, single = estimator.take()
    assert (changed[0].distribution.count, changed[0].distribution.total_ns) == (2, 550 * MS)
    assert [(i.goid, i.start_ns, i.duration_ns) for i in single] == [(9, 300 * MS, 400 * MS)]
