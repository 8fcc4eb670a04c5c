"""What one process did in one second or so: what its figures have gained. All moments are CLOCK_MONOTONIC, in ns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from gotrace.common.vocabulary import Loss, State
from gotrace.profile.requests import SpanBucket
from gotrace.profile.types import Distribution, GovernorReport, Overhead, Pause, SingleInterval, StackStat

_OF_STEP, _OF_WAIT, _OF_BUCKET, _OF_INTERVAL, _OF_SPAN = 1200, 420, 110, 180, 700
"""About how many bytes of memory the parts of a step take."""


class Wait(NamedTuple):
    """What one stack has gained. Of `stack` only what makes it distinct counts, not its figures, which go on growing. `extra`: what
    `StackStat` has in `stopped_ns`, `long_runs`, `halted_ns` and `late_ns`; `margin_ns` is as there. `idle`: by design, it waits for work
    or for a time."""

    stack: StackStat
    gained: Distribution
    extra: tuple[int, int, int, int]
    long_run_max_ns: int
    margin_ns: int | None
    idle: bool = False


@dataclass(slots=True)
class Calls:
    """What one span function has gained; see `Span`."""

    function: str
    latency: Distribution
    buckets: dict[int, SpanBucket]
    begun_before: int = 0
    traced_ns: int = 0


@dataclass(slots=True)
class Step:
    """From `begin_ns` to `end_ns`. `attached_ns`: for how long of it something was watched; `cpu_ns`: how much CPU time the process used.
    `pauses` and `intervals` have moments from `origin_ns` on, the start of the trace that the step is part of."""

    begin_ns: int
    end_ns: int
    origin_ns: int
    waits: list[Wait] = field(default_factory=list)
    calls: list[Calls] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)
    intervals: list[SingleInterval] = field(default_factory=list)
    losses: dict[Loss, int] = field(default_factory=dict)
    attached_ns: int = 0
    cpu_ns: int = 0
    hits: int = 0
    governor: GovernorReport | None = None
    overhead: Overhead = Overhead()
    size: int = 0

    def measure(self) -> None:
        """Sets `size`, about how many bytes of memory it takes."""
        waits = sum(_OF_WAIT + _OF_BUCKET * len(wait.gained.histogram) for wait in self.waits)
        spans = sum(
            _OF_SPAN + sum(_OF_BUCKET * (4 + len(b.waits) + len(b.other) + len(b.causes)) for b in calls.buckets.values())
            for calls in self.calls
        )
        self.size = _OF_STEP + waits + spans + _OF_INTERVAL * (len(self.intervals) + len(self.pauses))

    def by_state(self) -> tuple[dict[State, int], int]:
        """Time of the waits that ended, by state, and that of those that are idle by design, which are in no state."""
        found: dict[State, int] = {}
        idle_ns = 0
        for wait in self.waits:
            if wait.idle:
                idle_ns += wait.gained.total_ns
            else:
                found[wait.stack.state] = found.get(wait.stack.state, 0) + wait.gained.total_ns
        return found, idle_ns
