"""The last hour of a process in a few figures a second, for the page."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

from gotrace.profile.types import Distribution
from gotrace.sched.types import Snapshot
from gotrace.serve.slices import wall_ns
from gotrace.serve.steps import Step

_MOST = 4000


@dataclass(frozen=True, slots=True)
class Second:
    """One step. `states` are ns by state of waits that ended, without those that are idle by design (`idle_ns`); `p99_ns` is that of
    requests."""

    end_ns: int
    length_ns: int
    states: dict[str, int]
    idle_ns: int
    requests: int
    p99_ns: int
    goroutines: int | None
    losses: int


class Hour:
    """May be used by several threads."""

    def __init__(self) -> None:
        self._seconds: deque[Second] = deque(maxlen=_MOST)
        self._lock = threading.Lock()

    def add(self, step: Step, sched: Snapshot | None) -> None:
        """Adds a step."""
        states, idle_ns = step.by_state()
        latency = Distribution()
        for calls in step.calls:
            latency.add(calls.latency)
        second = Second(
            step.end_ns, step.end_ns - step.begin_ns, {state.value: ns for state, ns in states.items() if ns > 0}, max(0, idle_ns),
            max(0, latency.count), latency.percentile_ns(0.99), sched.goroutines.total if sched is not None else None,
            sum(step.losses.values()),
        )
        with self._lock:
            self._seconds.append(second)

    def latest(self) -> dict[str, Any] | None:
        """Rates in the last step, None before it."""
        with self._lock:
            one = self._seconds[-1] if self._seconds else None
        if one is None:
            return None
        return {"requests": one.requests * 1e9 / one.length_ns, "p99_ns": one.p99_ns, "losses": one.losses}

    def since(self, unix_s: float) -> list[dict[str, Any]]:
        """The steps that end after that moment (since 1970), in their order."""
        offset_ns = wall_ns(0)
        with self._lock:
            found = [one for one in self._seconds if one.end_ns + offset_ns > unix_s * 1e9]
        return [
            {
                "end": (one.end_ns + offset_ns) / 1e9, "length": one.length_ns / 1e9, "states": one.states, "idle_ns": one.idle_ns,
                "requests": one.requests, "p99_ns": one.p99_ns, "goroutines": one.goroutines, "losses": one.losses,
            }
            for one in found
        ]
