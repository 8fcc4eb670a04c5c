"""What a run costs, and its profile so far."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

from gotrace import __version__
from gotrace.common.vocabulary import Loss, Stat
from gotrace.governor.regulator import Regulator, together
from gotrace.kernel.host import SyscallSource
from gotrace.kernel.stats import program_stats
from gotrace.profile.types import Overhead, Profile, TimelineInterval, Window
from gotrace.run.options import AttachOptions
from gotrace.run.preparing import Prepared
from gotrace.run.sinks import Progress
from gotrace.watch.protocol import Watched


class Accounting:
    """The accounting of one run, from `begin` on. `regulators` are those of its processes, if it is governed."""

    def __init__(self, options: AttachOptions, prepared: Prepared, regulators: dict[int, Regulator]) -> None:
        self._options = options
        self._prepared = prepared
        self._processes: list[Watched] = prepared.processes
        self._regulators = regulators
        self._program_ns = 0.0
        self._begin = 0.0
        self._last = (0.0, 0)
        self._wall_start = datetime.now(timezone.utc)

    def begin(self, begin: float) -> None:
        """Starts it. The windows are open; `begin` is when they began to open (time.monotonic)."""
        self._begin = begin
        # Opening a window may have taken a while.
        since_ns = time.monotonic_ns() - min(process.start_ns for process in self._processes)
        self._wall_start = datetime.now(timezone.utc) - timedelta(microseconds=since_ns // 1000)

    def measure_programs(self) -> None:
        """Reads how long programs ran per hit, if the kernel has timed that."""
        stats = [program_stats(fd) for process in self._processes for fd in process.program_fds()]
        runs = sum(stat.runs for stat in stats)
        self._program_ns = sum(stat.run_ns for stat in stats) / runs if runs else 0.0

    def progress(self, now: float) -> Progress:
        """Where the run stands at `now` (time.monotonic)."""
        counters = self._counters()
        elapsed, intervals = now - self._begin, counters[Stat.INTERVALS]
        before, count = self._last
        rate = (intervals - count) / (elapsed - before) if elapsed > before else 0.0
        self._last = (elapsed, intervals)
        losses = sum(count for process in self._processes for count in process.current_losses().values())
        return Progress(int(elapsed * 1e9), intervals, rate, losses, self._overhead(counters, elapsed).target_cpu_fraction_estimate)

    def _counters(self) -> dict[Stat, int]:
        totals = dict.fromkeys(Stat, 0)
        for process in self._processes:
            for stat, count in process.counters().items():
                totals[stat] += count
        return totals

    def _overhead(self, counters: dict[Stat, int], elapsed_s: float) -> Overhead:
        hits = counters[Stat.HITS_START] + counters[Stat.HITS_END] + counters[Stat.HITS_READY] + counters[Stat.HITS_EXIT]
        hits += counters[Stat.HITS_SYSCALL] + counters[Stat.HITS_SPAN]
        per_hit = (self._prepared.trap_ns or 0) + self._program_ns
        cpu_ns = sum(process.cpu_used_ns() for process in self._processes)
        cost_ns = hits * per_hit
        if self._regulators:
            cost_ns = sum(regulator.whole().cost_ns for regulator in self._regulators.values())
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return Overhead(
            hits=hits,
            hits_per_s=hits / elapsed_s if elapsed_s else 0.0,
            traps_per_interval=hits / counters[Stat.INTERVALS] if counters[Stat.INTERVALS] else 0.0,
            ns_per_hit_estimate=per_hit,
            target_cpu_fraction_estimate=min(1.0, cost_ns / cpu_ns) if cpu_ns else 0.0,
            agent_cpu_s=usage.ru_utime + usage.ru_stime,
            agent_peak_rss_bytes=usage.ru_maxrss * 1024,
        )

    def profile(self, complete: bool, timeline: list[TimelineInterval], dropped: int) -> Profile:
        """All that is known so far. `dropped`: single intervals for which there was no room."""
        processes = self._processes
        stacks = [stack for process in processes for stack in process.stacks()]
        stacks.sort(key=lambda stack: -stack.distribution.total_ns)
        losses = dict.fromkeys(Loss, 0)
        now = time.monotonic_ns()
        for process in processes:
            for loss, count in (process.losses if complete else process.current_losses()).items():
                losses[loss] += count
        losses[Loss.TIMELINE_FULL] = dropped
        duration = max((p.end_ns or now) for p in processes) - min(p.start_ns for p in processes)
        paused = max(process.paused_ns for process in processes)
        goroutines = sum(process.goroutines for process in processes)
        prepared = self._prepared
        return Profile(
            version=__version__,
            targets=[process.describe() for process in processes],
            window=Window(
                self._wall_start.isoformat(timespec="milliseconds"), duration, self._options.mode.value, duration - paused,
                min(process.samples for process in processes),
            ),
            stacks=stacks,
            losses=losses,
            overhead=self._overhead(self._counters(), duration / 1e9),
            goroutines=goroutines or max((stack.goroutines for stack in stacks), default=0),
            running_ns=_sum_of_all(process.running_ns for process in processes) if complete else None,
            cpu_ns=sum(process.cpu_used_ns() for process in processes),
            pauses=sorted((p for process in processes for p in process.pauses), key=lambda pause: pause.start_ns),
            timeline=timeline,
            filters=self._options.filters(SyscallSource.UPROBES if prepared.by_uprobes else prepared.syscalls),
            governor=together(list(self._regulators.values())) if self._regulators else None,
            complete=complete,
            missing=[missing for process in processes for missing in process.missing],
            notes=[note for process in processes for note in process.notes],
            requests=sorted((span for process in processes for span in process.requests()), key=lambda span: -span.latency.total_ns),
            locks=sorted((lock for process in processes for lock in process.holders()), key=lambda lock: -lock.contended_ns),
        )


def _sum_of_all(times: Iterable[int | None]) -> int | None:
    """The sum, None if one of them is not known."""
    total = 0
    for ns in times:
        if ns is None:
            return None
        total += ns
    return total
