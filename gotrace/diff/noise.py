"""When a change is more than chance.

Count and total
    The standard error of each is the larger of two estimates. One assumes that intervals come at random: the count's error is
    its square root, the total's the square root of the sum of the squared durations (a compound Poisson process; it includes
    the number of intervals and their jitter). The other uses the sub-windows of the capture, if there are at least
    `MIN_SUBWINDOWS`: the standard deviation of what ended in each, times the square root of their number (batch means; it
    includes bursts and waves that are longer than an interval). A change exceeds the noise if it is more than
    `STANDARD_ERRORS` times the two errors, added as squares.

p50 and p99
    By rank, whatever the distribution: among n durations the one of rank n·p is off by less than `STANDARD_ERRORS` times
    sqrt(n·p·(1-p)) ranks. The durations at these two ranks, widened to their histogram buckets (1/8 wide), make a range; a
    change exceeds the noise if the ranges of before and after do not meet. Below about 900 intervals the range of a p99 is
    open above: a rise from there, or a fall to there, is never more than noise.

At three standard errors one change in 370 is chance: of hundreds of stacks, expect one or two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gotrace.common.histogram import bucket_range
from gotrace.profile.types import Distribution, SubWindow

STANDARD_ERRORS = 3
MIN_SUBWINDOWS = 5


@dataclass(frozen=True)
class Delta:
    """One figure on both sides, in the unit of `gotrace.diff.compare.Per` for counts and totals (per second), in ns for percentiles."""

    before: float
    after: float
    exceeds: bool

    @property
    def change(self) -> float:
        """`after` minus `before`."""
        return self.after - self.before


def errors(d: Distribution, rows: Sequence[SubWindow], window_ns: int) -> tuple[float, float]:
    """Standard errors of count and of total (ns) of `d`, with its sub-windows (of one length) in a window of that length."""
    count, total = math.sqrt(max(0, d.count)), math.sqrt(max(0, d.squares)) * 256
    if rows:
        length = rows[0].duration_ns
        parts = window_ns // length
        if parts >= MIN_SUBWINDOWS:
            whole = [row for row in rows if row.start_ns + length <= window_ns]
            scale = math.sqrt(window_ns / length)
            count = max(count, scale * _deviation([row.count for row in whole], parts))
            total = max(total, scale * _deviation([row.total_ns for row in whole], parts))
    return count, total


def _deviation(values: Sequence[int], parts: int) -> float:
    """Standard deviation of `parts` values; those not given are 0."""
    mean = sum(values) / parts
    squares = sum((value - mean) ** 2 for value in values) + (parts - len(values)) * mean**2
    return math.sqrt(squares / (parts - 1))


def percentile_range(d: Distribution, fraction: float) -> tuple[int, float]:
    """The range of durations (ns) that contains the true percentile; (0, inf) if nothing is known."""
    total = sum(d.histogram.values())
    if not total:
        return 0, math.inf
    spread = STANDARD_ERRORS * math.sqrt(total * fraction * (1 - fraction))
    low, high = math.floor(total * fraction - spread), math.ceil(total * fraction + spread)
    lowest = 0 if low < 1 else bucket_range(_bucket_at(d, low))[0]
    highest = math.inf if high > total else bucket_range(_bucket_at(d, high))[1]
    return lowest, highest


def _bucket_at(d: Distribution, rank: int) -> int:
    seen, bucket = 0, 0
    for bucket in sorted(d.histogram):
        seen += d.histogram[bucket]
        if seen >= rank:
            break
    return bucket


def exceeds(before: float, before_error: float, after: float, after_error: float) -> bool:
    """Whether the change of a count or total is more than noise; all four in the same unit."""
    return abs(after - before) > STANDARD_ERRORS * math.hypot(before_error, after_error)


def apart(before: tuple[int, float], after: tuple[int, float]) -> bool:
    """Whether two ranges of a percentile do not meet."""
    return before[1] <= after[0] or after[1] <= before[0]
