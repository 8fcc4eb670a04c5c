"""Sums since gotrace serve began, by target's name and container, for /metrics. A process that is started again goes on with the sums of
the one before it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from gotrace.common.vocabulary import State
from gotrace.profile.frames import plain_name
from gotrace.profile.types import Distribution
from gotrace.render.text import sanitize
from gotrace.serve.steps import Step

MOST_TARGETS, MOST_REASONS, MOST_SPANS = 200, 64, 32
OTHER = "(other)"
"""Stands for what is beyond these numbers."""
_SILENT_S = 3600.0
_MOST_GROUPS = 64
_LONGEST = 200
"""Characters of a label's value: names come from processes."""


class Labels(NamedTuple):
    """What tells targets apart: never the pid."""

    target: str
    container: str


class Highest:
    """Sees to it that counters never go down, which Prometheus takes for a new beginning: a wait that went on is moved from one bucket to
    another, and estimates become less. Such a counter stays until it is reached again."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, ...], list[float]] = {}
        self._lock = threading.Lock()

    def of(self, key: tuple[str, ...], values: list[float]) -> list[float]:
        """The most that each of the values has been."""
        with self._lock:
            found = self._found[key] = [max(pair) for pair in zip(values, self._found.get(key, values), strict=True)]
        return found


@dataclass
class Sums:
    """Of the processes with one name in one container. `highest` is what was shown of them; `at` (time.monotonic) when something was
    added."""

    waits: dict[tuple[State, str], tuple[int, int]] = field(default_factory=dict)
    """Count and ns, by state and reason: as they are known now, which may be less than before."""
    latencies: dict[State, Distribution] = field(default_factory=dict)
    requests: dict[str, Distribution] = field(default_factory=dict)
    pauses: dict[str, Distribution] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    """How often the governor went to which rung."""
    traced_ns: int = 0
    cost_ns: int = 0
    cpu_ns: int = 0
    throttled_ns: int = 0
    traces: int = 0
    dropped_ns: int = 0
    dropped_waits: int = 0
    highest: Highest = field(default_factory=Highest)
    at: float = 0.0
    throttled: dict[tuple[int, int], int] = field(default_factory=dict)
    """What control groups had at last, that of the latest process last."""


_LATENCIES = (State.RUNNABLE, State.RUNQUEUE)


class Totals:
    """Of all. `capped` counts what was put under `OTHER`, by kind of label."""

    def __init__(self) -> None:
        self.capped = {"target": 0, "reason": 0, "span": 0}
        self._sums: dict[Labels, Sums] = {}
        self._lock = threading.Lock()

    def add(self, labels: Labels, step: Step) -> None:
        """Adds a step of a process."""
        with self._lock:
            sums = self._of(labels)
            for wait in step.waits:
                self._add_wait(sums, wait.stack.state, wait.stack.reason, wait.gained)
            for calls in step.calls:
                name = sanitize(plain_name(calls.function), _LONGEST)
                if name not in sums.requests and len(sums.requests) >= MOST_SPANS:
                    self.capped["span"] += 1
                    name = OTHER
                _add(sums.requests.setdefault(name, Distribution()), calls.latency)
            for pause in step.pauses:
                reason = self._reason(sums.pauses, pause.reason)
                length_ns = max(0, pause.duration_ns)
                _add(sums.pauses.setdefault(reason, Distribution()), one(length_ns))
            for loss, count in step.losses.items():
                sums.losses[loss.value] = sums.losses.get(loss.value, 0) + count
            sums.traced_ns += step.attached_ns
            sums.cpu_ns += step.cpu_ns
            if step.governor is not None:
                sums.cost_ns += step.governor.cost_ns
                for change in step.governor.steps:
                    sums.steps[change.rung] = sums.steps.get(change.rung, 0) + 1

    def _add_wait(self, sums: Sums, state: State, reason: str, gained: Distribution) -> None:
        key = state, sanitize(reason, _LONGEST)
        if key not in sums.waits and len(sums.waits) >= MOST_REASONS:
            self.capped["reason"] += 1
            key = state, OTHER
        count, total_ns = sums.waits.get(key, (0, 0))
        sums.waits[key] = count + gained.count, total_ns + gained.total_ns
        if state in _LATENCIES:
            _add(sums.latencies.setdefault(state, Distribution()), gained)

    def _reason(self, known: dict[str, Distribution], reason: str) -> str:
        reason = sanitize(reason, _LONGEST)
        if reason in known or len(known) < MOST_REASONS:
            return reason
        self.capped["reason"] += 1
        return OTHER

    def note(self, labels: Labels, traces: int = 0, dropped_ns: int = 0, dropped_waits: int = 0) -> None:
        """Adds what is not in a step."""
        with self._lock:
            sums = self._of(labels)
            sums.traces += traces
            sums.dropped_ns += dropped_ns
            sums.dropped_waits += dropped_waits

    def note_throttled(self, labels: Labels, group: tuple[int, int], throttled_ns: int) -> None:
        """How long a control group was throttled since it was made, as one of its processes sees it: others of them see the same."""
        with self._lock:
            sums = self._of(labels)
            before = sums.throttled.pop(group, throttled_ns)
            sums.throttled[group] = max(before, throttled_ns)
            sums.throttled_ns += sums.throttled[group] - before
            if len(sums.throttled) > _MOST_GROUPS:
                del sums.throttled[next(iter(sums.throttled))]

    def _of(self, labels: Labels) -> Sums:
        labels = _clean(labels)
        if labels not in self._sums and len(self._sums) >= MOST_TARGETS and not self._make_room():
            self.capped["target"] += 1
            labels = Labels(OTHER, "")
        sums = self._sums.setdefault(labels, Sums())
        sums.at = time.monotonic()
        return sums

    def _make_room(self) -> bool:
        """Forgets the one to which nothing was added for longest, if that is long: each new container has a name of its own."""
        oldest = min((labels for labels in self._sums if labels.target != OTHER), key=lambda labels: self._sums[labels].at)
        if self._sums[oldest].at > time.monotonic() - _SILENT_S:
            return False
        del self._sums[oldest]
        return len(self._sums) < MOST_TARGETS

    def label(self, labels: Labels) -> Labels:
        """Under which labels the figures of a target are."""
        labels = _clean(labels)
        return labels if labels in self._sums or len(self._sums) < MOST_TARGETS else Labels(OTHER, "")

    def read(self) -> list[tuple[Labels, Sums]]:
        """Everything, as of now."""
        with self._lock:
            return [(labels, _copied(sums)) for labels, sums in sorted(self._sums.items())]


def _clean(labels: Labels) -> Labels:
    return Labels(sanitize(labels.target, _LONGEST), sanitize(labels.container, _LONGEST))


def one(length_ns: int) -> Distribution:
    """A single one."""
    from gotrace.common.histogram import bucket_of

    return Distribution(1, length_ns, length_ns, (length_ns >> 8) ** 2, {bucket_of(length_ns): 1})


def _add(to: Distribution, gained: Distribution) -> None:
    """Adds what was gained. A wait that went on is moved to the bucket where it is now."""
    to.add(gained)


def _copied(sums: Sums) -> Sums:
    def copies(of: dict) -> dict:  # type: ignore[type-arg]
        return {key: Distribution(d.count, d.total_ns, d.max_ns, d.squares, dict(d.histogram)) for key, d in of.items()}

    return Sums(
        dict(sums.waits), copies(sums.latencies), copies(sums.requests), copies(sums.pauses), dict(sums.losses), dict(sums.steps),
        sums.traced_ns, sums.cost_ns, sums.cpu_ns, sums.throttled_ns, sums.traces, sums.dropped_ns, sums.dropped_waits,
        sums.highest, sums.at,
    )
