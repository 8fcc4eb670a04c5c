"""Live views that were handed a profile as a run hands it on."""

from __future__ import annotations

from dataclasses import replace

from profiles import S, durations

from gotrace.profile.types import Profile, StackStat
from gotrace.run.sinks import Delta, Moment, Progress
from gotrace.sched.types import Collector, Goroutines, Snapshot, Timers
from gotrace.top.view import LiveView
from gotrace.watch.protocol import Waits

SCHED = Snapshot(
    "2026-11-29T12:34:56.789+00:00", 64, 2.0, 3, 41, 1, 12, 12, [7] * 64, Goroutines(5310, 61, 70, 5169, 10), {"read": 5, "futex": 1},
    Collector(True, 231, 92_400_000, "mark"), 22, 4, Timers(812, 1_400_000, 38_100_000), 41_200_000_000,
)


def hand_on(view: LiveView, made: Profile, waiting: list[StackStat] = []) -> None:  # noqa: B006
    """One batch with all stacks of a profile, and what waits now."""
    running = replace(made, complete=False)
    for pid in {target.pid for target in made.targets}:
        view.take(Delta(pid, [stack for stack in made.stacks if stack.pid == pid], [], [], {}))
    view.show(Progress(10 * S, 21_484, 2148.4, 0, 0.0123))
    view.commit(Moment(lambda: running, lambda: [Waits(waiting)]))


def viewed(made: Profile, waiting: list[StackStat] = []) -> LiveView:  # noqa: B006
    """A view of that profile."""
    view = LiveView()
    view.opened(replace(made, complete=False))
    hand_on(view, made, waiting)
    return view


def now_waiting(stack: StackStat, *ages_ns: int) -> StackStat:
    """Goroutines that wait where that stack does."""
    return replace(stack, distribution=durations(ages_ns), in_progress=len(ages_ns), subwindows=[])
