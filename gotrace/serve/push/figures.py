"""What became of what was pushed, for /metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from prometheus_client import Metric

_OUTCOMES = ("pushed", "refused", "dropped", "deleted")


def push_metrics(places: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    """Those of each place that is pushed to; `places` as `Pusher.status` has them."""
    profiles = CounterMetricFamily(
        "gotrace_push_profiles", "Profiles by what became of them: refused and dropped ones are lost.", labels=["push", "outcome"]
    )
    failed = CounterMetricFamily("gotrace_push_failed_attempts", "Attempts to push that failed.", labels=["push"])
    missed = CounterMetricFamily(
        "gotrace_push_missed_seconds", "How much of the past was dropped from memory before it was pushed.", labels=["push"]
    )
    waiting = GaugeMetricFamily("gotrace_push_queue_profiles", "Profiles that wait to be sent.", labels=["push"])
    size = GaugeMetricFamily("gotrace_push_queue_bytes", "How large they are, or the files in a directory.", labels=["push"])
    for place in places:
        what = place["what"]
        for outcome in _OUTCOMES:
            profiles.add_metric([what, outcome], place[outcome])
        failed.add_metric([what], place["failed_attempts"])
        missed.add_metric([what], place["missed_ns"] / 1e9)
        waiting.add_metric([what], place["waiting"])
        size.add_metric([what], place["bytes"])
    yield from (profiles, failed, missed, waiting, size)
