"""All verdicts, on one dump and on a series of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gotrace.dump.types import Dump, Verdict
from gotrace.verdicts.crowds import convoys, exhausted_pools
from gotrace.verdicts.deadlocks import deadlocks
from gotrace.verdicts.leaks import leaks, never_reached
from gotrace.verdicts.running import held_up_world, late_timers, many_threads, more_procs_than_cpus, starved


def judge(dump: Dump) -> list[Verdict]:
    """The verdicts, certain ones first. On a process that is stopped those that rest on time are left out."""
    lost = dump.unreachable.goroutines if dump.unreachable is not None else frozenset()
    found = [_out_of_reach(verdict) if lost.issuperset(verdict.goroutines) else verdict for verdict in deadlocks(dump)]
    dead = frozenset(goid for verdict in found for goid in verdict.goroutines)
    if not dump.prospects.stopped:
        found += convoys(dump, dead) + exhausted_pools(dump)
    found += never_reached(dump, dead)
    found += held_up_world(dump) + starved(dump) + late_timers(dump) + more_procs_than_cpus(dump) + many_threads(dump)
    return sorted(found, key=lambda verdict: not verdict.certain)


def _out_of_reach(verdict: Verdict) -> Verdict:
    """Of goroutines that nobody else can reach, nobody else can wake one."""
    return replace(verdict, certain=True, evidence=verdict.evidence | {"unreachable": True})


def judge_series(series: Sequence[Dump]) -> list[Verdict]:
    """The verdicts on the last dump, and what grew from the first to the last."""
    return [*series[-1].verdicts, *leaks(series)]
