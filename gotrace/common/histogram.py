"""Log-linear latency histogram: eight buckets per power of two, so a value is known to within 1/16 of itself.

Bucket edges are those of ``bucket_of`` in ``bpf/record.c``; tests/unit/kernel/test_structs.py compiles the C and compares.
"""

from __future__ import annotations

import math

SUBBITS = 3
SUBBUCKETS = 1 << SUBBITS
MAX_BITS = 42
"""Values of 2**42 ns (73 minutes) and more share the last bucket."""
BUCKETS = (MAX_BITS - SUBBITS + 1) * SUBBUCKETS


def bucket_of(value: int) -> int:
    """Index of the bucket that contains `value` (>= 0)."""
    if value < SUBBUCKETS:
        return max(value, 0)
    exponent = value.bit_length() - 1
    if exponent >= MAX_BITS:
        return BUCKETS - 1
    return (exponent - SUBBITS + 1) * SUBBUCKETS + ((value >> (exponent - SUBBITS)) & (SUBBUCKETS - 1))


def bucket_range(index: int) -> tuple[int, int]:
    """Lowest value of bucket `index` and the lowest value of the next one."""
    if index < SUBBUCKETS:
        return index, index + 1
    shift = index // SUBBUCKETS - 1
    low = (SUBBUCKETS + index % SUBBUCKETS) << shift
    return low, low + (1 << shift)


def bucket_middle(index: int) -> int:
    """The value that stands for the bucket: off by at most 1/16 of the true one."""
    low, high = bucket_range(index)
    return (low + high) // 2


def percentile(counts: dict[int, int], fraction: float, max_value: int) -> int:
    """The value below or at which `fraction` of all counted values lie, never more than `max_value`; 0 if none."""
    total = sum(counts.values())
    if not total:
        return 0
    rank = max(1, math.ceil(fraction * total))
    if rank == total:
        return max_value
    seen = 0
    for index in sorted(counts):
        seen += counts[index]
        if seen >= rank:
            return min(bucket_middle(index), max_value)
    return max_value
