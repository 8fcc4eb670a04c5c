"""Which goroutine had which thread when, from single intervals: a goroutine runs from the end of one to the start of its next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from gotrace.profile.types import TimelineInterval


@dataclass
class Run:
    """Goroutine `goid` had the thread from `start_ns` to `end_ns`, from the window's start."""

    goid: int
    start_ns: int
    end_ns: int


def runs_by_thread(timeline: Iterable[TimelineInterval], window_ns: int) -> dict[int, list[Run]]:
    """Runs by thread, in time order, none overlapping the next. The time that a goroutine spends in a system call is also the thread's,
    which is blocked with it. A run whose end was not seen lasts until the thread is seen with another goroutine."""
    by_goroutine: dict[tuple[int, int], list[TimelineInterval]] = {}
    for part in timeline:
        by_goroutine.setdefault((part.stack.pid, part.goid), []).append(part)
    found: dict[int, list[Run]] = {}
    for (_, goid), parts in by_goroutine.items():
        parts.sort(key=lambda part: part.start_ns)
        for part, after in zip(parts, [*parts[1:], None], strict=True):
            start_ns = part.start_ns + part.duration_ns
            end_ns = after.start_ns if after is not None else window_ns
            if part.tid and start_ns < end_ns:
                found.setdefault(part.tid, []).append(Run(goid, start_ns, end_ns))
    for runs in found.values():
        runs.sort(key=lambda run: run.start_ns)
        for run, following in pairwise(runs):
            run.end_ns = min(run.end_ns, following.start_ns)
    return {tid: [run for run in runs if run.end_ns > run.start_ns] for tid, runs in sorted(found.items())}
