"""The checks at the end of a trace by probes: whether the probes were hit and are still there, what was lost, what else was seen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from gotrace.common.units import format_duration, format_share
from gotrace.common.vocabulary import Loss, Stat
from gotrace.kernel.stats import program_stats
from gotrace.kernel.tables import Tables
from gotrace.kernel.tracer import ARRIVAL_PROGRAMS, Tracer
from gotrace.profile.types import Missing, StackStat
from gotrace.watch.target import OpenTarget, plugins_loaded
from gotrace.watch.witness import Witness

_NOTED_SHARE = 0.02


def check_hits(pid: int, witness: Witness | None, counters: Callable[[], dict[Stat, int]]) -> Missing | None:
    """Reports probes that are placed but are never hit. Call it before the window closes: hits are counted up to then."""
    moved = 0
    with contextlib.suppress(ProcessLookupError, PermissionError):
        moved = witness.moved() if witness is not None else 0
    counted = counters()
    if not moved or counted[Stat.HITS_END] or counted[Stat.HITS_START]:
        return None
    what = f"no probe was hit, but {moved:,} goroutines that were parked as the window opened have run since"
    return Missing("probes", what, "waits and running times are wrong", pid)


def check_probes(target: OpenTarget, tracer: Tracer, missing: Sequence[Missing]) -> list[Missing]:
    """Returns what is missing in addition to `missing`: probes that left the process's code during the window, as when the program
    moves it, and plugins opened meanwhile, which have no probes."""
    found = []
    absent = tracer.probes.absent()
    if absent:
        found.append(Missing(
            "probes", f"at the end {len(absent)} probes are no longer in the process's code ({absent[0].symbol}, ...)",
            "waits and running times are wrong from the moment on at which they left", target.process.pid,
        ))
    known = {each.stage for each in missing}
    with contextlib.suppress(ProcessLookupError, PermissionError):
        found += [late for late in plugins_loaded(target, probes=True) if late.stage not in known]
    return found


def count_losses(tracer: Tracer, unread: int, losses: dict[Loss, int]) -> None:
    """Adds what the kernel side has counted. `unread`: threads from before the window whose stacks could not be read."""
    losses |= tracer.tables.losses()
    losses[Loss.THREAD_STACK_UNREADABLE] += unread
    missed = [(name, program_stats(fd).missed) for name, fd in tracer.programs()]
    losses[Loss.ARRIVALS_MISSED] += sum(number for name, number in missed if name in ARRIVAL_PROGRAMS)
    losses[Loss.MISSED_HITS] = sum(number for name, number in missed if name not in ARRIVAL_PROGRAMS)


def what_was_seen(tables: Tables, stacks: Sequence[StackStat], start_ns: int, end_ns: int) -> list[str]:
    """Returns notes, one line each: how long the process was stopped from outside, and how many threads are outside Go."""
    notes = []
    halted_ns = min(tables.halted_ns(end_ns), end_ns - start_ns)
    if halted_ns:
        waits = sum(stack.halted_ns for stack in stacks)
        total = sum(stack.distribution.total_ns for stack in stacks)
        notes.append(
            f"the process was stopped (by a signal, a debugger or a cgroup's freezer) for {format_duration(halted_ns)} of the window: "
            f"{format_share(waits, total)} of the goroutines' waits lay in that"
        )
    return [*notes, *filter(None, [outside_go(tables.threads_outside())])]


def outside_go(threads: int) -> str:
    """A note on threads of C that are outside Go, "" if there are none."""
    if not threads:
        return ""
    return f"threads outside Go: {threads:,} of C's own, which had called into Go before; what they wait for is no goroutine's"


def waited_for_cpu(share: float) -> str:
    """A note on the share of the time in which threads could run but had no CPU, "" if it is small. Goroutines also seem to run meanwhile:
    a sample of memory can't see that."""
    if share < _NOTED_SHARE:
        return ""
    return (
        f"threads waited for a CPU for {share:.0%} of the time in which they could run: that share is subtracted from the time"
        " that goroutines seemed to be on one (estimate)"
    )
