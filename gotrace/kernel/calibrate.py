"""Measures what one probe hit costs on this host: a self-test on a few bytes of our own code, before the target is touched."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from gotrace.kernel.bpf import EXIT_0, ProgramType, load_program
from gotrace.kernel.stats import program_stats
from gotrace.kernel.uprobes import attach_uprobe, probed_code, program_attach_type

_ROUNDS = 4000


def trap_cost_ns() -> int | None:
    """Nanoseconds that one hit of a uprobe costs here, without its program's run time; None if it can't be measured."""
    try:
        return measure_trap_ns()
    except (OSError, ValueError):
        return None


def measure_trap_ns() -> int:
    """Like `trap_cost_ns`, but raises OSError if a probe on our own process does not work."""
    with probed_code() as (path, loop):
        bare = _time(loop)
        program = load_program(ProgramType.KPROBE, EXIT_0, "empty", program_attach_type())
        try:
            probe = attach_uprobe(path, 0, os.getpid(), program)
            try:
                probed = _time(loop)
            finally:
                os.close(probe)
            # While the kernel times programs (gotrace/kernel/stats.py), this one takes time as well.
            stats = program_stats(program)
        finally:
            os.close(program)
    return max(0, probed - bare - (stats.run_ns // stats.runs if stats.runs else 0))


def _time(loop: Callable[[int], None]) -> int:
    loop(_ROUNDS // 10)
    spent = []
    for _ in range(3):
        start = time.perf_counter_ns()
        loop(_ROUNDS)
        spent.append((time.perf_counter_ns() - start) // _ROUNDS)
    return min(spent)
