"""How much of waits lies in a window, where only their lengths and about when they ended are known."""

from __future__ import annotations

from collections.abc import Iterator

from gotrace.common.histogram import bucket_middle, bucket_of, bucket_range
from gotrace.profile.types import Distribution


def clipped(waits: Distribution, end_ns: int, begin_ns: int, until_ns: int) -> tuple[Distribution, int]:
    """The part in [begin_ns, until_ns] of waits that ended at `end_ns`, and how many of them reach out of it. Exact where all of them lie
    inside; of those that do not, lengths are known to a bucket of the histogram, but for the longest."""
    over_ns = max(0, end_ns - until_ns)
    room_ns = max(1, min(end_ns, until_ns) - begin_ns)
    if not over_ns and waits.max_ns <= room_ns:
        return waits, 0
    found = Distribution()
    cut = cut_ns = inside_ns = 0
    for number, length_ns in _lengths(waits):
        inside = min(length_ns - over_ns, room_ns)
        if inside != length_ns:
            cut_ns += number * length_ns
            inside_ns += number * max(0, inside)
        if inside <= 0:
            continue
        cut += number if inside != length_ns else 0
        found.add(Distribution(number, number * inside, inside, number * (inside >> 8) ** 2, {bucket_of(inside): number}))
    for bucket, count in waits.histogram.items():  # those that went on: they are counted elsewhere, as what they became
        if count < 0:
            found.add(Distribution(count, 0, 0, 0, {bucket: count}))
    if not over_ns:  # the sum of all is known exactly
        found.total_ns = max(0, waits.total_ns - cut_ns) + inside_ns
    found.total_ns = min(found.total_ns, max(0, waits.total_ns))
    return found, cut


def _lengths(waits: Distribution) -> Iterator[tuple[int, int]]:
    """How many waits have which length; the length of the longest is known."""
    for bucket, count in waits.histogram.items():
        low, high = bucket_range(bucket)
        if count > 0 and low <= waits.max_ns < high:
            yield 1, waits.max_ns
            count -= 1
        if count > 0:
            yield count, min(bucket_middle(bucket), waits.max_ns)


def sound(waits: Distribution) -> Distribution:
    """The same, without the counts below 0 of waits whose beginning is not in the window."""
    histogram = {bucket: count for bucket, count in waits.histogram.items() if count > 0}
    return Distribution(
        sum(histogram.values()), max(0, waits.total_ns), waits.max_ns, max(0, waits.squares), histogram,
    )
