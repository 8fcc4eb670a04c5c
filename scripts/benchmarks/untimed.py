"""The cost of tracing relative to the traps and programs that can be timed: the factor UNTIMED of gotrace/governor/load.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from gobuild import build
from rich.table import Table
from workload import Workload

from benchmarks.generator import GO_VERSION
from benchmarks.paired import spread
from gotrace.common.errors import GotraceError
from gotrace.kernel.calibrate import trap_cost_ns
from gotrace.kernel.compilation import Compilation
from gotrace.kernel.host import SyscallSource
from gotrace.kernel.program import Options
from gotrace.kernel.records import ProgramRuns
from gotrace.kernel.stats import close, enable_stats
from gotrace.plan.probes import ProbeSet
from gotrace.watch.probed import ProbedProcess
from gotrace.watch.target import cpu_time_ns


@dataclass(frozen=True)
class Step:
    """CPU time of the target per unit of its work, ns: without a tracer before and after, traced, and the part of the latter that
    traps and programs account for."""

    untraced_ns: float
    traced_ns: float
    timed_ns: float

    @property
    def factor(self) -> float:
        """The cost of tracing, over the part that can be timed."""
        return (self.traced_ns - self.untraced_ns) / self.timed_ns


def _churn(workload: Workload, seconds: float) -> int:
    """Goroutines that ended in that time."""
    before = _progress(workload)
    time.sleep(seconds)
    return _progress(workload) - before


def _progress(workload: Workload) -> int:
    workload.send("p")
    return int(workload.read_line(60).split()[1])


def _pingpong(workload: Workload, seconds: float) -> int:
    """Round trips in that time."""
    workload.send(f"run 0s {round(seconds * 1e9)}ns")
    return workload.read_json(60 + seconds)["operations"]


WORKLOADS: dict[str, tuple[tuple[str, ...], Callable[[Workload, float], int]]] = {
    "channel ping-pong": (("load", "work", "pingpong"), _pingpong),
    "goroutines that come and go": (("churn",), _churn),
}


def measure_untimed(pairs: int, window_s: float, say: Callable[[str], None]) -> Table:
    """The factor for each workload, under the two probes of an interval alone, placed and timed as the governor has it: the median of the pairs with the least and the largest."""
    table = Table(title="CPU time that tracing takes, over traps and programs (UNTIMED)", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("", "untraced ns/unit", "traced ns/unit", "timed ns/unit", "factor", "low-high"):
        table.add_column(heading, justify="right" if heading else "left")
    trap_ns, compiled = trap_cost_ns(), Compilation()
    timing = enable_stats()
    if not trap_ns or timing is None:
        raise GotraceError("the cost of a trap can't be measured here, or the kernel does not time BPF programs (Linux 5.8)")
    try:
        for title, ((fixture, *arguments), work) in WORKLOADS.items():
            with Workload(build(fixture, GO_VERSION, "plain"), *arguments) as workload:
                work(workload, 0.3)
                steps = []
                for number in range(pairs):
                    say(f"untimed: {title}, pair {number + 1} of {pairs}")
                    steps.append(_pair(workload, lambda seconds, work=work, workload=workload: work(workload, seconds), window_s, trap_ns, compiled))
            factor = spread([step.factor for step in steps])
            cells = [spread([getattr(step, name) for step in steps]).median for name in ("untraced_ns", "traced_ns", "timed_ns")]
            table.add_row(title, *(f"{cell:,.0f}" for cell in cells), f"{factor.median:.2f}", f"{factor.low:.2f}-{factor.high:.2f}")
    finally:
        close(timing)
        compiled.close()
    return table


def _pair(workload: Workload, work: Callable[[float], int], window_s: float, trap_ns: int, compiled: Compilation) -> Step:
    before = _per_unit(workload.pid, work, window_s)
    traced = ProbedProcess.prepare(workload.pid, ProbeSet.COMPLETE, False, SyscallSource.NONE)
    try:
        traced.load(Options(wakers=False, governed=True), compiled.result())
        traced.attach()
        traced.begin()
        work(0.2)
        runs = _runs(traced)
        start = cpu_time_ns(workload.pid)
        units = work(window_s)
        spent = cpu_time_ns(workload.pid) - start
        runs = _runs(traced) - runs
    finally:
        traced.close()
    after = _per_unit(workload.pid, work, window_s)
    return Step((before + after) / 2, spent / units, (runs.hits * trap_ns + runs.run_ns) / units)


def _runs(traced: ProbedProcess) -> ProgramRuns:
    return sum(traced.tracer.runs().values(), ProgramRuns())  # there are no stages but the core


def _per_unit(pid: int, work: Callable[[float], int], window_s: float) -> float:
    start = cpu_time_ns(pid)
    units = work(window_s)
    return (cpu_time_ns(pid) - start) / units
