"""Profiles that have a timeline: each interval by itself."""

from __future__ import annotations

from profiles import GOEXIT, GOPARK, MS, go, profile, runtime, stat

from gotrace.common.vocabulary import READY, State
from gotrace.profile.types import Pause, Profile, StackStat, TimelineInterval


def stack_of(goid: int | None, name: str, values: list[int], state: State = State.WAITING, reason: str = "chan receive",
             in_progress: int = 0) -> StackStat:  # fmt: skip
    made = stat([GOPARK, runtime("chanrecv"), go(f"main.{name}", "/m.go", 7), GOEXIT], values, state, reason)
    made.goid, made.in_progress = goid, in_progress
    return made


def pipeline() -> Profile:
    """Goroutine 5 waits, is woken by 9, waits for a CPU, and waits again until the window ends; 9 sleeps once."""
    waits = stack_of(5, "consume", [3 * MS, 4 * MS], in_progress=1)
    ready = stack_of(5, "consume", [MS], State.RUNNABLE, READY)
    sleeps = stack_of(9, "produce", [2 * MS], reason="sleep")
    made = profile([waits, ready, sleeps], pauses=[Pause("GC mark", 6 * MS, MS, 4242)])
    made.timeline = [
        TimelineInterval(5, 0, 3 * MS, waits, 9),
        TimelineInterval(5, 3 * MS, MS, ready, 9),
        TimelineInterval(9, MS, 2 * MS, sleeps),
    ]
    return made
