"""What tracing one process costs it: traps and programs, by stage, and the CPU time that it uses itself."""

from __future__ import annotations

import time
from dataclasses import replace

from gotrace.common.vocabulary import Stage, Stat
from gotrace.governor.policy import Load
from gotrace.kernel.placing import stage_of
from gotrace.kernel.records import ProgramRuns
from gotrace.watch.probed import ProbedProcess

_ASSUMED_PROGRAM_NS = 1000
"""How long a program runs per hit, if the kernel does not time programs: more than any program's average."""
_PASSING_NS, _ENOUGH = 300.0, 20
"""The most that a tracepoint takes for a thread of another process, and how many make a mean."""
UNTIMED = 1.35
"""The cost of tracing for a target, as a multiple of the traps and programs that can be timed. Each trap leaves caches and predictors
to others, and Go's scheduler spins longer when its steps take longer. ``scripts/bench --only untimed`` prints it: CPU time per unit
of work, traced minus untraced, divided by the time of traps and programs; 1.3 for a channel ping-pong and for goroutines that come
and go (Linux 6.18 in a virtual machine with two CPUs; single pairs from 1.2 to 1.45)."""


class LoadMeter:
    """The meter of one process. `trap_ns`: the cost of a hit without its program, measured on this host. `timed`: the kernel times
    programs."""

    def __init__(self, process: ProbedProcess, trap_ns: int, timed: bool) -> None:
        self._process = process
        self._trap_ns = trap_ns
        self._timed = timed
        self._passed, self._switches = ProgramRuns(), 0
        self._threads_ns = dict.fromkeys(Stage, 0)
        self._passing_ns = _PASSING_NS

    def read(self) -> Load:
        """The load since the process was loaded."""
        process = self._process
        stats = process.counters()
        if self._timed:
            runs = process.tracer.runs()
        else:
            hits = {
                "start": stats[Stat.HITS_START], "end": stats[Stat.HITS_END], "ready": stats[Stat.HITS_READY],
                "exit": stats[Stat.HITS_EXIT], "syscall": stats[Stat.HITS_SYSCALL], "span": stats[Stat.HITS_SPAN],
            }
            runs = {role: ProgramRuns(number, number * _ASSUMED_PROGRAM_NS) for role, number in hits.items()}
        programs, traps = dict.fromkeys(Stage, 0), dict.fromkeys(Stage, 0)
        for role, of_role in runs.items():
            programs[stage_of(role)] += of_role.run_ns
            traps[stage_of(role)] += of_role.hits * self._trap_ns
        starts = runs.get("start", ProgramRuns())
        self._threads_ns[process.tracer.probes.thread_stage] += self._tracepoints_ns(stats[Stat.SWITCHES])
        for stage, spent_ns in self._threads_ns.items():
            programs[stage] += spent_ns
        costs = (
            traps[Stage.CORE], programs[Stage.CORE], traps[Stage.WAKERS] + programs[Stage.WAKERS],
            sum(traps[stage] + programs[stage] for stage in (Stage.KERNEL, Stage.REQUESTS)), starts.hits * self._trap_ns,
        )
        return Load(time.monotonic_ns(), process.cpu_used_ns(), *(round(UNTIMED * cost) for cost in costs))

    def in_pause(self, before: Load) -> Load:
        """The load in a pause after `before`: no probe is hit, so only the target's own time has grown since."""
        return replace(before, elapsed_ns=time.monotonic_ns(), cpu_ns=self._process.cpu_used_ns())

    def _tracepoints_ns(self, switches: int) -> int:
        """How long the tracepoints ran for the target's threads since the last call. It is their total minus what they take for a thread of
        another process, which is what they took in the cheapest span of time."""
        total = self._process.tracer.tracepoint_runs()
        new, before = total - self._passed, self._switches
        self._passed, self._switches = total, switches
        if new.hits >= _ENOUGH:
            self._passing_ns = min(self._passing_ns, new.run_ns / new.hits)
        # Two switches, off a CPU and on it again, come with at most one wake-up.
        others = max(0, new.hits - (switches - before) * 3 // 2)
        return max(0, round(new.run_ns - others * self._passing_ns))
