"""How long goroutines and threads waited to run, from a trace: `gotrace sched --latency`."""

from __future__ import annotations

from gotrace.common.histogram import bucket_range
from gotrace.common.vocabulary import LOSS_TEXT, Loss, State
from gotrace.profile.told import governor_lines, told
from gotrace.profile.types import Distribution, Profile
from gotrace.sched.types import Latency, ToRun

_UNSEEN = {State.RUNNABLE: "wakers", State.PREEMPTED: "", State.RUNQUEUE: "kernel"}
"""The stages that show them (`Missing.stage`); all that are preempted are always seen."""
_LOSSES = (
    Loss.GOROUTINE_TABLE_FULL, Loss.STACK_TABLE_FULL, Loss.INTERVAL_LOST, Loss.START_WHILE_STOPPED, Loss.END_WHILE_RUNNING,
    Loss.MISSED_HITS,
)
"""Those that waits to run can be missing through; the others are about stacks."""


def latency_of(profile: Profile) -> Latency:
    """The waits for a P and for a CPU that a trace with the probe set ``ready`` has seen. Those for a P are Go's
    /sched/latencies:seconds, but all of them."""
    states, report = profile.by_state(), profile.governor
    length = profile.window.duration_ns
    missing = {missing.stage for missing in profile.missing}
    runnable, preempted, runqueue = (
        None if unseen in missing else _to_run(states.get(state, Distribution())) for state, unseen in _UNSEEN.items()
    )
    probed = profile.window.attached_ns
    lost = [f"{profile.losses[loss]:,} {LOSS_TEXT[loss]}" for loss in _LOSSES if profile.losses.get(loss)]
    return Latency(
        length, runnable, probed, preempted, runqueue, min(probed, max(0, length - (report.kernel_off_ns if report is not None else 0))),
        [*told(profile), *governor_lines(profile), *lost],
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
