"""How long goroutines and threads waited to run, from a trace: `gotrace sched --latency`."""

from __future__ import annotations

from gotrace.common.histogram import bucket_range
from gotrace.common.vocabulary import State
from gotrace.profile.told import governor_lines, told
from gotrace.profile.types import Distribution, Profile
from gotrace.sched.types import Latency, ToRun

_UNSEEN = {State.RUNNABLE: "wakers", State.PREEMPTED: "", State.RUNQUEUE: "kernel"}
"""The stages that show them (`Missing.stage`); the core has all that are preempted."""


def latency_of(profile: Profile) -> Latency:
    """The waits for a P and for a CPU that a trace has seen. Those for a P are Go's /sched/latencies:seconds, but all of them."""
    states, report = profile.by_state(), profile.governor
    length = profile.window.duration_ns
    missing = {missing.stage for missing in profile.missing}
    runnable, preempted, runqueue = (
        None if unseen in missing else _to_run(states.get(state, Distribution())) for state, unseen in _UNSEEN.items()
    )
    return Latency(
        length, runnable, max(0, length - (report.wakers_off_ns if report is not None else 0)), preempted,
        runqueue, max(0, length - (report.kernel_off_ns if report is not None else 0)), [*told(profile), *governor_lines(profile)],
    )


def _to_run(d: Distribution) -> ToRun:
    histogram: dict[int, int] = {}
    for bucket in sorted(d.histogram):
        low, _ = bucket_range(bucket)  # no bucket crosses a power of two
        power = 1 << low.bit_length() - 1 if low else 0
        histogram[power] = histogram.get(power, 0) + d.histogram[bucket]
    return ToRun(
        d.count, d.total_ns, d.percentile_ns(0.5), d.percentile_ns(0.9), d.percentile_ns(0.99), d.percentile_ns(0.999), d.max_ns, histogram,
    )
