"""The pipeline from left to right: processes, plans, probes, records, stacks, capture, outputs."""

from __future__ import annotations

import os
import re
import resource
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from gotrace import __version__
from gotrace.capture.writer import CaptureLocked, CaptureWriter
from gotrace.common.errors import GotraceError, Interrupted, Refused, UsageError
from gotrace.common.files import check_output, write
from gotrace.common.vocabulary import CONTINUED, Loss, Mode, Stat
from gotrace.export import format_of, render
from gotrace.governor.niceness import LATE_S as POLITE_LATE_S
from gotrace.governor.niceness import Politeness
from gotrace.governor.policy import SAMPLE_NS
from gotrace.governor.regulator import Regulator, together
from gotrace.kernel.calibrate import trap_cost_ns
from gotrace.kernel.compilation import Compilation
from gotrace.kernel.host import SyscallSource, choose_syscall_source
from gotrace.kernel.stats import close as close_stats
from gotrace.kernel.stats import enable_stats, program_stats
from gotrace.model.stacks import OTHER_REASONS
from gotrace.model.syscalls import syscall_names
from gotrace.plan.probes import ProbeSet
from gotrace.proc.priority import LATE_S
from gotrace.profile.filters import filter_profile
from gotrace.profile.hotspots import find_hotspots
from gotrace.profile.singles import GrowingWaits
from gotrace.profile.told import told
from gotrace.profile.types import Overhead, Profile, SingleInterval, StackStat, TimelineInterval, Window
from gotrace.run.options import AttachOptions
from gotrace.watch.probed import ProbedProcess
from gotrace.watch.protocol import Watched
from gotrace.watch.sampled import SampledProcess

_COMMIT_EVERY_S = 0.9
_READ_FOR_NS = 250_000_000
"""What reading before a commit may take: with tens of thousands of stacks that move all the time it would take seconds, of a CPU
that the target may want, and keep Ctrl-C waiting. The rest is read before the next ones, and at the end."""
_MANY_STACKS = 10_000
"""Reading the last of so many and writing them takes seconds."""
_STATS_FOR_S = 1.0
_SHOW_EVERY_S = 0.19
_EXEC_EVERY_S = 0.05
"""How often it is asked whether a process has called exec. What comes between that and the answer is not recorded (bpf/exec.c)."""
_ASSUMED_TRAP_NS = 1000
"""Where it can't be measured: twice what it takes in a virtual machine."""
_TIMELINE_LIMIT = 500_000
"""Single intervals that are kept in memory for an output with a time axis: up to 200 MB."""

@dataclass(frozen=True)
class Progress:
    """Where a running trace stands. The overhead is an estimate, as a share of the CPU time that the target uses."""

    elapsed_ns: int
    intervals: int
    intervals_per_s: float
    losses: int
    overhead_estimate: float | None


@dataclass
class Session:
    """One trace from `prepare` to the written outputs. Use as a context manager: leaving it removes every probe."""

    options: AttachOptions
    processes: list[Watched] = field(default_factory=list)
    capture: CaptureWriter | None = None
    written: list[Path] = field(default_factory=list)
    failure: GotraceError | None = None
    """The first output that could not be written, after `run`: all others were."""
    remarks: list[str] = field(default_factory=list)
    """What else is to be said of the outputs, a line each."""
    syscalls: SyscallSource = SyscallSource.NONE
    obstacle: str = ""
    _by_uprobes: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)
    _running: bool = False
    _cost_ns: int | None = None
    _timing: int | None = None
    _regulators: dict[int, Regulator] = field(default_factory=dict)
    _program_ns: float = 0.0
    _last: tuple[float, int] = (0.0, 0)
    _politeness: Politeness = field(default_factory=Politeness)
    _wake: tuple[int, int] = (-1, -1)
    _intervals: list[SingleInterval] = field(default_factory=list)
    _growing: GrowingWaits = field(default_factory=GrowingWaits)
    _intervals_dropped: int = 0
    _uncommitted: str = ""
    _ending: bool = False

    def __enter__(self) -> Session:
        self._cleanup = ExitStack()
        self._wake = os.pipe()
        for fd in self._wake:
            self._cleanup.callback(os.close, fd)
        return self

    def __exit__(self, *error: object) -> None:
        self._cleanup.close()

    def stop(self) -> None:
        """Ends the trace normally: outputs are written. May be called from a signal handler."""
        self._stop.set()
        os.write(self._wake[1], b"x")

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    @property
    def ending(self) -> bool:
        """Whether the windows are closed, or being closed, and the outputs written."""
        return self._ending

    @property
    def running(self) -> bool:
        """Whether probes have been placed."""
        return self._running

    def use_outputs(self, outputs: tuple[str, ...]) -> None:
        """Sets the outputs of a session that was prepared without any."""
        for output in outputs:
            check_output(Path(output), self.options.force)
        self.options = replace(self.options, outputs=outputs)

    # -- before --------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Opens, plans, checks and loads; nothing is attached yet.

        Raises:
            GotraceError: whatever speaks against the trace: options, outputs, host or a process.
        """
        options = self.options
        if len(set(options.pids)) != len(options.pids):
            raise UsageError("a pid was given twice")
        for output in options.outputs:
            if output != "-":
                format_of(output)
                check_output(Path(output), options.force)
        if options.mode is Mode.SAMPLE:
            for pid in options.pids:
                self._add(SampledProcess.prepare(pid, options.for_looks()))
            self._check_reasons()
        else:
            self._prepare_probes()

    def _add(self, process: Watched) -> None:
        self._cleanup.callback(process.close)
        self.processes.append(process)

    def _prepare_probes(self) -> None:
        options, traced = self.options, []
        compilation = Compilation()  # goes on beside what follows
        self._cleanup.callback(compilation.close)
        self.syscalls, offsets, self.obstacle = choose_syscall_source(options.syscalls)
        lean = options.mode is Mode.LEAN
        if lean and self.syscalls is not SyscallSource.TRACEPOINTS:
            raise Refused(f"--mode lean needs the kernel's tracepoints: {self.obstacle}", "--mode exact, or --mode sample")
        for pid in options.pids:
            probe_set = ProbeSet.LEAN if lean else options.probe_set
            traced.append(ProbedProcess.prepare(pid, probe_set, options.wakers and not lean, self.syscalls))
            self._add(traced[-1])
            self.obstacle = self.obstacle or traced[-1].obstacle
            if traced[-1].obstacle:
                self._by_uprobes = True
        self._check_reasons()
        if self.options.governed:
            # All the time: it is how the cost is known. Before a hit is measured, whose cost it raises.
            self._timing = enable_stats()
            self._cleanup.callback(close_stats, self._timing)
        with ThreadPoolExecutor(1) as pool:
            cost = pool.submit(trap_cost_ns)
            for process in traced:
                process.load(options.for_kernel(process.binary.wait_reasons), compilation.result(), offsets)
            self._cost_ns = cost.result()

    def _check_reasons(self) -> None:
        for reason in self.options.reasons:
            known = {text for process in self.processes for text in process.binary.wait_reasons if text}
            known |= OTHER_REASONS | CONTINUED
            if reason not in known | syscall_names():
                raise UsageError(f"no wait reason is called {reason!r}", "one of: " + ", ".join(sorted(known)))

    # -- the trace -----------------------------------------------------------------------------------------------------

    def run(
        self, started: Callable[[list[str]], None] | None = None, progress: Callable[[Progress], None] | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> Profile:
        """Attaches, traces until the duration is over, `stop` is called or every process has ended, writes the outputs.

        `started` is called once the window is open, with a line of text for each stage that is known to be missing and each note: what
        happens from then on is in the profile. `notice` is told, in a line of
        text, of each change that the governor makes.

        Raises:
            GotraceError: a process can't be attached to, or the capture can't be made. What can't be written later is in `failure`.
            Interrupted: stopped before anything was recorded.
            KeyboardInterrupt: a signal handler raised it as the trace ended; the capture has what was committed.
        """
        if self._stop.is_set():
            raise Interrupted("interrupted before anything was recorded")
        self._running = True
        captures = [Path(output) for output in self.options.outputs if output.endswith(".gotrace")]
        for process in self.processes:
            process.attach()
        if captures:
            self.capture = CaptureWriter(captures[0], self.options.force)
            for process in self.processes:
                self.capture.put_target(process.describe())
        self._wall_start = datetime.now(timezone.utc)
        self._begin = time.monotonic()
        for process in self.processes:
            process.begin()
            if self.options.governed and isinstance(process, ProbedProcess):
                self._govern(process, notice)
        # To open a window may have taken a while.
        since_ns = time.monotonic_ns() - min(process.start_ns for process in self.processes)
        self._wall_start = datetime.now(timezone.utc) - timedelta(microseconds=since_ns // 1000)
        opened = self._profile(complete=False)
        if self.capture is not None:  # killed from here on, it leaves a valid one
            self.capture.commit(opened)
        if started is not None:
            started(told(opened))
        try:
            self._follow(progress, notice)
            self._ending = True
            return self._end(notice)
        except KeyboardInterrupt:
            if self.capture is not None:
                self.capture.leave()
            raise

    def _end(self, notice: Callable[[str], None] | None) -> Profile:
        """Closes the windows, writes the outputs. That takes long where there are many stacks, and may be interrupted anywhere."""
        stacks = sum(len(process.stacks()) for process in self.processes)
        if notice is not None and stacks > _MANY_STACKS:
            notice(f"writing {stacks:,} stacks; Ctrl-C ends at once" + (", with the capture as it was committed last" if self.capture else ""))
        for regulator in self._regulators.values():
            regulator.finish()
        for process in self.processes:
            self._put(process, *process.finish())
            self.failure = self.failure or process.failure
        profile = self._profile(complete=True)
        if self.capture is not None:
            self._end_capture(self.capture, profile)
        profile.hotspots = find_hotspots(profile, self.options.hot)
        profile = filter_profile(profile, self.options.states, self.options.reasons, self.options.match)
        self._write_outputs(profile)
        return profile

    def _govern(self, process: ProbedProcess, notice: Callable[[str], None] | None) -> None:
        options = self.options
        regulator = Regulator(
            process, options.max_overhead / 100, self._cost_ns or _ASSUMED_TRAP_NS, self._timing is not None,
            notice or (lambda text: None), options.for_looks(), options.sample_period_ns >= SAMPLE_NS,
        )
        regulator.begin()
        self._regulators[process.process.pid] = regulator

    def _end_capture(self, capture: CaptureWriter, profile: Profile) -> None:
        try:
            capture.put_ongoing([])
            capture.commit(profile)
        except GotraceError as error:
            self.failure = error
        else:
            self.written.append(capture.path)
        try:
            if not capture.close():
                self.remarks.append(f"{capture.path}-wal stays until its readers close; what copies the capture needs both until then")
        except GotraceError as error:
            self.failure = self.failure or error

    def _commit(self, notice: Callable[[str], None] | None) -> None:
        """Where another holds the capture's lock the trace goes on, and what can't be written now is for the next commit. Where it can't be
        written for another reason, as on a disk that is full, the trace ends normally."""
        ongoing: list[StackStat] = []
        try:
            if self.capture is not None:
                profile = self._profile(complete=False)
                for process in self.processes:
                    waits = process.ongoing()
                    ongoing += waits.stacks
                    self.capture.put_stacks(waits.grown)
                    profile.missing += waits.lacking
                self.capture.put_ongoing(ongoing)
                self.capture.commit(profile)
            self._uncommitted = ""
        except CaptureLocked as error:
            if notice is not None and str(error) != self._uncommitted:
                notice(f"{error}; it is tried again")
            self._uncommitted = str(error)
        except GotraceError:  # told at the end, where it is tried once more
            self._stop.set()

    def _follow(self, progress: Callable[[Progress], None] | None, notice: Callable[[str], None] | None) -> None:
        stats_fd = enable_stats() if any(process.program_fds() for process in self.processes) else None
        last_commit = last_shown = last_asked = self._begin
        opened = max(process.start_ns for process in self.processes) / 1e9
        deadline = opened + self.options.duration_ns / 1e9 if self.options.duration_ns else None
        waiting = {process.process.pidfd: process for process in self.processes}
        try:
            while not self._stop.is_set() and waiting:
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    return
                wait = min(process.tick() for process in waiting.values())
                due = time.monotonic() + wait
                self._give_back()
                self._politeness.stand_back()
                now = time.monotonic()
                regulators = [self._regulators[process.process.pid] for process in waiting.values() if process.process.pid in self._regulators]
                due = min([due, *(now + regulator.tick() for regulator in regulators)])
                if stats_fd is not None and now - self._begin > _STATS_FOR_S:
                    self._measure_programs()
                    close_stats(stats_fd)
                    stats_fd = None
                # Not while a short window is open: that is to be closed in time.
                if now - last_commit > _COMMIT_EVERY_S and not any(r.in_window for r in self._regulators.values()):
                    last_commit = now
                    for process in self.processes:
                        self._put(process, *process.read(_READ_FOR_NS // len(self.processes)))
                    self._commit(notice)
                if progress is not None and now - last_shown > _SHOW_EVERY_S:
                    last_shown = now
                    progress(self._progress(now))
                self._wait(waiting, due if deadline is None else min(due, deadline))
                if time.monotonic() - last_asked > _EXEC_EVERY_S:
                    last_asked = time.monotonic()
                    for fd, process in list(waiting.items()):
                        if process.execed:
                            waiting.pop(fd).end()
        finally:
            self._give_back()
            self._politeness.end()
            if stats_fd is not None:
                self._measure_programs()
            close_stats(stats_fd)

    def _wait(self, waiting: dict[int, Watched], due: float) -> None:
        """Until that moment, the end of one of the processes or `stop`."""
        looked_at = [process for process in waiting.values() if process.promptness is not None]
        for process in looked_at:
            process.promptness.take()
        due = max(due, time.monotonic())
        ended = select.select([*waiting, self._wake[0]], [], [], max(0.0, due - time.monotonic()))[0]
        late_s = 0.0 if ended else time.monotonic() - due
        if late_s > POLITE_LATE_S:
            self._politeness.came_late()
        if late_s > LATE_S:
            for process in looked_at:
                process.losses[Loss.LOOK_LATE] = process.losses.get(Loss.LOOK_LATE, 0) + 1
        for fd in ended:
            if fd in waiting:
                waiting.pop(fd).end()

    def _give_back(self) -> None:
        for process in self.processes:
            if process.promptness is not None:
                process.promptness.give_back()

    def _put(self, process: Watched, stacks: list[StackStat], intervals: list) -> None:
        if self.capture is not None:
            self.capture.put_stacks(stacks)
            if intervals:
                self.capture.put_intervals(process.process.pid, intervals)
        if self.options.wants_timeline:
            self._put_on_timeline(process.process.pid, intervals)
        pauses = process.read_pauses()
        if self.capture is not None and pauses:
            self.capture.put_pauses(pauses)

    def _measure_programs(self) -> None:
        stats = [program_stats(fd) for process in self.processes for fd in process.program_fds()]
        runs = sum(stat.runs for stat in stats)
        self._program_ns = sum(stat.run_ns for stat in stats) / runs if runs else 0.0

    def _counters(self) -> dict[Stat, int]:
        totals = dict.fromkeys(Stat, 0)
        for process in self.processes:
            for stat, count in process.counters().items():
                totals[stat] += count
        return totals

    def _progress(self, now: float) -> Progress:
        counters = self._counters()
        elapsed, intervals = now - self._begin, counters[Stat.INTERVALS]
        before, count = self._last
        rate = (intervals - count) / (now - self._begin - before) if now - self._begin > before else 0.0
        self._last = (elapsed, intervals)
        losses = sum(count for process in self.processes for count in process.current_losses().values())
        return Progress(int(elapsed * 1e9), intervals, rate, losses, self._overhead(counters, elapsed).target_cpu_fraction_estimate)

    # -- results -------------------------------------------------------------------------------------------------------

    def _overhead(self, counters: dict[Stat, int], elapsed_s: float) -> Overhead:
        hits = counters[Stat.HITS_START] + counters[Stat.HITS_END] + counters[Stat.HITS_READY] + counters[Stat.HITS_EXIT]
        hits += counters[Stat.HITS_SYSCALL]
        per_hit = (self._cost_ns or 0) + self._program_ns
        cpu_ns = sum(process.cpu_used_ns() for process in self.processes)
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

    def _profile(self, complete: bool) -> Profile:
        stacks = [stack for process in self.processes for stack in process.stacks()]
        stacks.sort(key=lambda stack: -stack.distribution.total_ns)
        losses = dict.fromkeys(Loss, 0)
        now = time.monotonic_ns()
        for process in self.processes:
            for loss, count in (process.losses if complete else process.current_losses()).items():
                losses[loss] += count
        losses[Loss.TIMELINE_FULL] = self._intervals_dropped + (self.capture.dropped if self.capture is not None else 0)
        duration = max((p.end_ns or now) for p in self.processes) - min(p.start_ns for p in self.processes)
        paused = max(process.paused_ns for process in self.processes)
        goroutines = sum(process.goroutines for process in self.processes)
        return Profile(
            version=__version__,
            targets=[process.describe() for process in self.processes],
            window=Window(
                self._wall_start.isoformat(timespec="milliseconds"), duration, self.options.mode.value, duration - paused,
                self._samples(),
            ),
            stacks=stacks,
            losses=losses,
            overhead=self._overhead(self._counters(), duration / 1e9),
            goroutines=goroutines or max((stack.goroutines for stack in stacks), default=0),
            running_ns=self._running_ns() if complete else None,
            cpu_ns=sum(process.cpu_used_ns() for process in self.processes),
            pauses=sorted((p for process in self.processes for p in process.pauses), key=lambda pause: pause.start_ns),
            timeline=self._timeline(stacks) if complete else [],
            filters=self.options.filters(SyscallSource.UPROBES if self._by_uprobes else self.syscalls),
            governor=together(list(self._regulators.values())) if self._regulators else None,
            complete=complete,
            missing=[missing for process in self.processes for missing in process.missing],
            notes=[note for process in self.processes for note in process.notes],
        )

    def _put_on_timeline(self, pid: int, intervals: list[SingleInterval]) -> None:
        for interval in intervals:
            end = len(self._intervals)
            at = self._growing.place(pid, interval, end)
            if at < end:
                self._intervals[at] = interval
            elif end < _TIMELINE_LIMIT:
                self._intervals.append(interval)
            else:
                self._intervals_dropped += 1

    def _samples(self) -> int:
        return min(process.samples for process in self.processes)

    def _timeline(self, stacks: list[StackStat]) -> list[TimelineInterval]:
        by_key = {stack.key: stack for stack in stacks} if self._intervals else {}
        # A key holds a whole stack: it is hashed once for all intervals that share the object.
        known: dict[int, StackStat] = {}
        for interval in self._intervals:
            if id(interval.stack_key) not in known:
                known[id(interval.stack_key)] = by_key[interval.stack_key]
        return [
            TimelineInterval(i.goid, i.start_ns, i.duration_ns, known[id(i.stack_key)], i.waker_goid, i.tid) for i in self._intervals
        ]

    def _running_ns(self) -> int | None:
        times = [process.running_ns for process in self.processes]
        return None if None in times else sum(times)

    def _write_outputs(self, profile: Profile) -> None:
        for output in self.options.outputs:
            if output == "-" or output.endswith(".gotrace"):
                continue
            path = Path(output)
            try:
                write(path, render(profile, format_of(output), self.options.runtime), self.options.force)
                self.written.append(path)
            except GotraceError as error:
                self.failure = self.failure or error


def default_outputs(process: Watched, now: datetime) -> tuple[str, str]:
    """The capture and the flame graph that a trace without -o writes to the current folder."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", process.process.comm)[:32] or "go"
    stem = f"gotrace-{safe}-{process.process.pid}-{now:%Y%m%dT%H%M%S}"
    return f"{stem}.gotrace", f"{stem}.html"
