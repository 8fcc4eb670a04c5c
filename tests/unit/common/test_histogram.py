"""The histogram of durations: how much of a value its bucket keeps."""

from __future__ import annotations

from gotrace.common import histogram


def test_a_bucket_knows_a_value_to_one_sixteenth() -> None:
    for value in [*range(1, 4000), 123_456_789, 10**10 + 3, (1 << 42) - 1]:
        low, high = histogram.bucket_range(histogram.bucket_of(value))
        assert low <= value < high
        assert abs(histogram.bucket_middle(histogram.bucket_of(value)) - value) <= value / 16


def test_percentiles() -> None:
    counts = {}
    values = [1000 * n for n in range(1, 1001)]
    for value in values:
        bucket = histogram.bucket_of(value)
        counts[bucket] = counts.get(bucket, 0) + 1
    for fraction in (0.01, 0.5, 0.9, 0.99):
        true = values[int(fraction * len(values)) - 1]
        assert abs(histogram.percentile(counts, fraction, 10**6) - true) <= true / 16
    assert histogram.percentile(counts, 1.0, 10**6) == 10**6
    assert histogram.percentile({}, 0.5, 0) == 0
