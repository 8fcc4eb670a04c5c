"""/metrics, by the official client library. Names and units follow Prometheus' rules; a target is told by name and container."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder

from gotrace import __version__
from gotrace.common.histogram import bucket_range
from gotrace.common.vocabulary import Loss, State
from gotrace.profile.types import Distribution
from gotrace.render.text import sanitize
from gotrace.serve.jobs import kubernetes_of
from gotrace.serve.push.figures import push_metrics
from gotrace.serve.supervisor import Supervisor, resident_bytes
from gotrace.serve.totals import Highest, Labels, Sums, Totals
from gotrace.serve.tracing import Condition, Traced

if TYPE_CHECKING:
    from prometheus_client import Metric

    from gotrace.serve.evidence import Evidence
    from gotrace.serve.push.pusher import Pusher
    from gotrace.serve.suspects import Suspects

_LABELS = ["target", "container"]
_BOUNDS_S = (1e-6, 4e-6, 16e-6, 64e-6, 250e-6, 1e-3, 4e-3, 16e-3, 64e-3, 0.25, 1.0, 4.0, 16.0, 64.0)
"""Upper bounds of buckets. A value within 1/8 of one may be counted on its other side: that is how fine values are kept."""
_GOROUTINES = ("running", "runnable", "waiting", "syscall")


class Metrics:
    """All figures as of now, in the format that a scraper accepts."""

    def __init__(
        self, totals: Totals, supervisor: Supervisor, evidence: Evidence, push: Pusher | None = None, suspects: Suspects | None = None
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(totals, supervisor, evidence, push, suspects))

    def text(self, accept: str) -> tuple[bytes, str]:
        """The text, and its type."""
        encoder, kind = choose_encoder(accept)
        return encoder(self._registry), kind


class _Collector:
    def __init__(
        self, totals: Totals, supervisor: Supervisor, evidence: Evidence, push: Pusher | None, suspects: Suspects | None
    ) -> None:
        self._totals, self._supervisor, self._evidence, self._push, self._suspects = totals, supervisor, evidence, push, suspects
        self._began = time.time()

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known only when there is something."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Everything."""
        sums, targets = self._totals.read(), self._supervisor.targets()
        yield from _waits(sums)
        yield from _requests(sums)
        yield from _counters(sums)
        yield from self._targets(targets)
        yield from push_metrics(self._push.status() if self._push is not None else [])
        yield from self._own()

    def _targets(self, targets: list[Traced]) -> Iterator[Metric]:
        goroutines = GaugeMetricFamily("gotrace_goroutines", "Goroutines, the runtime's own included.", labels=[*_LABELS, "state"])
        ring_s = GaugeMetricFamily("gotrace_ring_seconds", "How much of the past is kept.", labels=_LABELS)
        ring_bytes = GaugeMetricFamily("gotrace_ring_bytes", "About how much memory that takes.", labels=_LABELS)
        rungs = GaugeMetricFamily(
            "gotrace_governor_rung", "Processes by what the governor lets be traced of them.", labels=[*_LABELS, "rung"]
        )
        pods = InfoMetricFamily("gotrace_target", "The Kubernetes pod of a target.", labels=_LABELS)
        told = set[tuple[str, ...]]()
        states = dict.fromkeys(Condition, 0)
        found: dict[tuple[str, str, str], float] = {}
        rings: dict[Labels, tuple[float, int]] = {}
        on_rungs: dict[tuple[str, str, str], int] = {}
        for traced in targets:
            states[traced.condition] += 1
            labels = self._totals.label(traced.labels)
            pod = {name: sanitize(value, 200) for name, value in (kubernetes_of(traced) | {"pod_uid": traced.pod}).items()}
            if len(pod) > 1 and (key_of_pod := (*labels, *pod.values())) not in told:
                told.add(key_of_pod)
                pods.add_metric(list(labels), pod)
            begin_ns, end_ns = traced.ring.span
            seconds, size = rings.get(labels, (0.0, 0))
            rings[labels] = max(seconds, (end_ns - begin_ns) / 1e9), size + traced.ring.size
            if traced.condition is not Condition.TRACING:
                continue
            if traced.rung:
                key = (labels.target, labels.container, traced.rung)
                on_rungs[key] = on_rungs.get(key, 0) + 1
            for state in _GOROUTINES if traced.sched is not None else ():
                number = getattr(traced.sched.goroutines, state)  # type: ignore[union-attr]
                if number is not None:
                    at = (labels.target, labels.container, state)
                    found[at] = found.get(at, 0) + number
        for at, count in sorted(found.items()):
            goroutines.add_metric(at, count)
        for labels, (seconds, size) in sorted(rings.items()):
            ring_s.add_metric(labels, seconds)
            ring_bytes.add_metric(labels, size)
        for key, number in sorted(on_rungs.items()):
            rungs.add_metric(key, number)
        yield from (goroutines, ring_s, ring_bytes, rungs, pods)
        by_state = GaugeMetricFamily("gotrace_targets", "Processes by how they are.", labels=["condition"])
        for condition, number in states.items():
            by_state.add_metric([condition.value], number)
        yield by_state
        yield GaugeMetricFamily("gotrace_targets_left_out", "Processes beyond the number that is traced.", self._supervisor.left_out)
        yield GaugeMetricFamily("gotrace_killed", "1 while the kill file exists, and nothing is traced.", int(self._supervisor.killed))

    def _own(self) -> Iterator[Metric]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        yield CounterMetricFamily("gotrace_cpu_seconds", "CPU time of gotrace itself.", usage.ru_utime + usage.ru_stime)
        yield GaugeMetricFamily("gotrace_resident_memory_bytes", "Memory of gotrace itself.", resident_bytes())
        yield GaugeMetricFamily("gotrace_start_time_seconds", "When gotrace began, since 1970.", self._began)
        captures = CounterMetricFamily("gotrace_captures", "Captures by what became of them.", labels=["outcome"])
        for outcome, count in self._evidence.counts.items():
            captures.add_metric([outcome], count)
        yield captures
        if self._suspects is not None:
            searches = CounterMetricFamily("gotrace_deadlock_searches", "Processes searched for deadlocks.", labels=["outcome"])
            for outcome, count in self._suspects.counts.items():
                searches.add_metric([outcome], count)
            yield searches
            yield CounterMetricFamily("gotrace_deadlock_search_cpu_seconds", "CPU time that took.", self._suspects.cpu_s)
        capped = CounterMetricFamily(
            "gotrace_labels_capped", "Figures put under (other), because there are too many values of a label.", labels=["label"]
        )
        for label, count in self._totals.capped.items():
            capped.add_metric([label], count)
        yield capped
        yield InfoMetricFamily("gotrace_build", "The version.", {"version": __version__})


def _waits(sums: list[tuple[Labels, Sums]]) -> Iterator[Metric]:
    labels = [*_LABELS, "state", "reason"]
    seconds = CounterMetricFamily("gotrace_offcpu_seconds", "Time of goroutines off the CPU, in waits that ended.", labels=labels)
    count = CounterMetricFamily("gotrace_waits", "Waits of goroutines that ended, by part.", labels=labels)
    for target, one in sums:
        for (state, reason), (number, total_ns) in sorted(one.waits.items()):
            key = (*target, state.value, reason)
            shown, shown_s = one.highest.of(("gotrace_waits", *key), [max(0.0, number), max(0.0, total_ns / 1e9)])
            seconds.add_metric(key, shown_s)
            count.add_metric(key, shown)
    yield from (seconds, count)
    for state, name, what in (
        (State.RUNNABLE, "gotrace_runnable_latency_seconds", "How long goroutines that were ready waited for a P."),
        (State.RUNQUEUE, "gotrace_runqueue_latency_seconds", "How long threads with a goroutine waited for a CPU."),
    ):
        family = HistogramMetricFamily(name, what, labels=_LABELS)
        for target, one in sums:
            if state in one.latencies:
                _add(family, target, one.latencies[state], one.highest)
        yield family


def _requests(sums: list[tuple[Labels, Sums]]) -> Iterator[Metric]:
    requests = HistogramMetricFamily(
        "gotrace_request_duration_seconds", "Durations of requests, by the function that serves them.", labels=[*_LABELS, "span"]
    )
    pauses = HistogramMetricFamily("gotrace_stop_the_world_seconds", "Stops of the world.", labels=[*_LABELS, "reason"])
    for target, one in sums:
        for span, latency in sorted(one.requests.items()):
            _add(requests, (*target, span), latency, one.highest)
        for reason, lengths in sorted(one.pauses.items()):
            _add(pauses, (*target, reason), lengths, one.highest)
    yield from (requests, pauses)


def _counters(sums: list[tuple[Labels, Sums]]) -> Iterator[Metric]:
    losses = CounterMetricFamily("gotrace_losses", "What was not recorded, by kind.", labels=[*_LABELS, "loss"])
    steps = CounterMetricFamily("gotrace_governor_steps", "Changes of what is traced, by what to.", labels=[*_LABELS, "rung"])
    for target, one in sums:
        for loss in Loss:
            losses.add_metric((*target, loss.value), one.losses.get(loss.value, 0))
        for rung, count in sorted(one.steps.items()):
            steps.add_metric((*target, rung), count)
    yield from (losses, steps)
    for name, what, attribute, unit in (
        ("gotrace_traced_seconds", "For how long the processes were watched.", "traced_ns", 1e9),
        ("gotrace_cost_seconds", "An estimate of the CPU time that tracing cost the processes.", "cost_ns", 1e9),
        ("gotrace_target_cpu_seconds", "CPU time of the processes while they were traced.", "cpu_ns", 1e9),
        ("gotrace_throttled_seconds", "For how long the control group had no CPU quota left.", "throttled_ns", 1e9),
        ("gotrace_traces", "How often a trace began.", "traces", 1),
        ("gotrace_ring_dropped_seconds", "How much of the past was dropped before its time: there was no room.", "dropped_ns", 1e9),
        ("gotrace_ring_dropped_stacks", "Stacks of single seconds that were dropped: there was no room.", "dropped_waits", 1),
    ):
        family = CounterMetricFamily(name, what, labels=_LABELS)
        for target, one in sums:
            family.add_metric(target, getattr(one, attribute) / unit)
        yield family


def _add(family: HistogramMetricFamily, labels: Iterable[str], found: Distribution, highest: Highest) -> None:
    """Adds a histogram, with cumulative buckets."""
    counts = [0] * (len(_BOUNDS_S) + 1)
    for bucket, count in found.histogram.items():
        middle_s = sum(bucket_range(bucket)) / 2e9
        counts[next((number for number, bound in enumerate(_BOUNDS_S) if middle_s <= bound), len(_BOUNDS_S))] += count
    totals = [float(total) for total in accumulate(max(0, count) for count in counts)]
    *totals, sum_s = highest.of((family.name, *labels), [*totals, found.total_ns / 1e9])
    family.add_metric(list(labels), list(zip((*map(_shown, _BOUNDS_S), "+Inf"), totals, strict=True)), sum_s)


def _shown(bound: float) -> str:
    return repr(bound)
