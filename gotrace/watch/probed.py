"""One process under trace: from its pid to stacks with symbols. `gotrace.run.session` runs one of these per process."""

from __future__ import annotations

import contextlib
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from gotrace.common.errors import GotraceError, Refused, TargetGone
from gotrace.common.units import format_duration, format_share
from gotrace.common.vocabulary import ONGOING, Loss, Stage, Stat
from gotrace.gobin.binary import GoBinary
from gotrace.kernel.compilation import CompiledPrograms
from gotrace.kernel.host import SyscallSource
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.program import Options
from gotrace.kernel.records import BlockedThread, IntervalRow, KernelEvent, RunnableThread
from gotrace.kernel.stats import program_stats
from gotrace.kernel.tracer import ARRIVAL_PROGRAMS, Subject, Tracer
from gotrace.live.goroutines import GoroutineReader
from gotrace.live.gstruct import Status
from gotrace.model.stacks import StackModel
from gotrace.plan.probes import Plan, ProbeSet, bytes_differ, make_plan, sanitizer_of
from gotrace.proc.descriptors import Descriptors
from gotrace.proc.memory import Memory
from gotrace.proc.priority import Promptness
from gotrace.proc.process import Process
from gotrace.profile.subwindows import SubWindows
from gotrace.profile.symbolize import Symbolizer
from gotrace.profile.types import Missing, Pause, SingleInterval, StackStat, Target
from gotrace.watch.protocol import Waits
from gotrace.watch.sampled import SampledProcess, SampleOptions
from gotrace.watch.tally import Tally
from gotrace.watch.target import (
    OpenTarget,
    cpu_time_ns,
    describe,
    forked_copy,
    is_possible,
    missing_fields,
    open_target,
    plugins_loaded,
)
from gotrace.watch.unfinished.blocked import (
    blocked_threads,
    is_halted,
    kernel_names,
    sees_kernel_numbers,
    still_blocked,
    threads_cpu_ns,
)
from gotrace.watch.unfinished.collect import Unended
from gotrace.watch.unfinished.cutoff import CutOff, Parked
from gotrace.watch.unfinished.ongoing import Ongoing
from gotrace.watch.unfinished.parked import ParkedReader
from gotrace.watch.witness import Witness

_SPARE_GOROUTINES = 1 << 16
_FIRST_SCAN = 20_000
_ROWS_AT_ONCE = 512
_TICK_S, _BUSY_TICK_S = 0.1, 0.02


_NO_KERNEL_STAGE = (
    "names of system calls, page faults, waits for a CPU (run queue), kernel stacks, files and sockets, long runs and running time;"
    " system calls are those of 20 us or more as Go sees them"
)


_NO_NUMBERS = (
    "threads blocked before the window", "gotrace runs in a PID namespace of its own, where it is not told the kernel's numbers of threads",
    "waits of goroutines that were blocked in the kernel as the window opened, and have not come back in it: such a goroutine may be in no"
    " row, or pass for running",
)


def _no_threads(binary: GoBinary) -> str:
    """Why it can't be told which goroutine a thread runs, "" if it can."""
    if binary.thread_local_g is None:
        return "where threads keep their g was not found in the machine code"
    if None in (binary.layout.g_m, binary.layout.m_curg):
        return f"the layout of runtime.m is not known for {binary.version or 'this Go version'}"
    return ""


@dataclass(frozen=True)
class Account:
    """What became of a goroutine's time since the window began, ns. `partial`: it was born in it, or ended."""

    g: int
    run_ns: int
    off_ns: int
    partial: bool


@dataclass
class TracedProcess:
    """A process that is planned for, loaded, traced and read.

    `prepare` raises Refused, TargetGone or BadBinary (all GotraceError) if it can't be traced; nothing is attached then.
    """

    process: Process
    binary: GoBinary
    bias: int
    plan: Plan
    memory: Memory
    reader: GoroutineReader
    tracer: Tracer | None = None
    start_ns: int = 0
    end_ns: int = 0
    losses: dict[Loss, int] = field(default_factory=dict)
    _subwindows: SubWindows = field(default_factory=SubWindows)
    _first_seen: dict[int, Parked] = field(default_factory=dict)
    _first_unread: bool = True
    _cpu_start: int = 0
    _cpu_ns: int = 0
    _cpu_frozen: bool = False
    goroutines: int = 0
    accounts: list[Account] = field(default_factory=list)
    running_ns: int | None = None
    pauses: list[Pause] = field(default_factory=list)
    samples: int = 0
    missing: list[Missing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    syscalls: SyscallSource = SyscallSource.TRACEPOINTS
    obstacle: str = ""
    """Why system calls are seen by uprobes in this process, where the host would let them be seen by tracepoints."""
    windows: int = 0
    _window_ns: int = 0
    _paused_since: int = 0
    _paused_ns: int = 0
    _tgid: int = 0
    _sample_ns: int = 0
    _lean_plan: Plan | None = None
    _looks: SampledProcess | None = None
    _looked_ns: int = 0
    _looked_incomplete: int = 0
    _stretches: int = 0
    _blocked_unread: int = 0
    _creation_unseen: bool = False
    _threads_unseen: bool = False
    _cut_changed: list[StackStat] = field(default_factory=list)
    _unplaced: list[KernelEvent] = field(default_factory=list)
    _witness: Witness | None = None
    failure: GotraceError | None = None
    """Why the trace is not to be relied on, after `finish`."""
    _finished: bool = False
    _closed: bool = False

    @classmethod
    def prepare(
        cls, pid: int, probe_set: ProbeSet = ProbeSet.COMPLETE, wakers: bool = True,
        syscalls: SyscallSource = SyscallSource.TRACEPOINTS, verb: str = "attach",
    ) -> TracedProcess:
        """Opens the process, reads its binary, plans, and checks plan and layout against the live process. `verb`: what hints name."""
        target = open_target(pid, f"sudo gotrace {verb} {pid}")
        try:
            missing, obstacle = missing_fields(target.binary, pid), _no_threads(target.binary) if syscalls is SyscallSource.TRACEPOINTS else ""
            if obstacle:
                if probe_set is ProbeSet.LEAN:
                    raise Refused(f"--mode lean needs to know which goroutine a thread runs, but {obstacle}", "--mode exact, or --mode sample")
                missing.append(Missing("kernel", obstacle, _NO_KERNEL_STAGE, pid))
                syscalls = SyscallSource.UPROBES
            exits = syscalls is SyscallSource.TRACEPOINTS and probe_set is not ProbeSet.LEAN
            plan = make_plan(target.binary, probe_set, wakers, exits, syscalls is SyscallSource.UPROBES)
            missing += [Missing(left.stage, f"{left.symbol}: {left.reason}", left.lacks, pid) for left in plan.left_out if left.stage]
            traced = cls(
                target.process, target.binary, target.bias, plan, target.memory, target.reader, syscalls=syscalls, obstacle=obstacle,
                missing=missing,
            )
            try:
                traced._verify()
                traced.missing += plugins_loaded(target, probes=True)
            except ProcessLookupError:
                raise TargetGone(f"process {pid} ended while it was being examined") from None
            traced.notes += filter(None, [forked_copy(target)])
            return traced
        except BaseException:
            target.close()
            raise

    def _verify(self) -> None:
        ranges = [(probe.site.entry + self.bias, len(probe.site.prologue)) for probe in self.plan.probes]
        for probe, live in zip(self.plan.probes, self.memory.read_many(ranges), strict=False):
            difference = bytes_differ(probe, live)
            if difference:
                raise Refused(
                    f"the code of process {self.process.pid} is not that of {self.process.exe}: {difference}",
                    "another tool may have patched it; gotrace attaches only where it knows the bytes",
                )

    def describe(self) -> Target:
        """What is known of the process, for the capture and the summary."""
        return describe(self.process, self.binary)

    # -- tracing -------------------------------------------------------------------------------------------------------

    def load(self, options: Options, compiled: CompiledPrograms, kernel: dict[str, int] | None = None) -> None:
        """Has the programs verified for this process. `kernel` are the offsets of the kernel's structs for the stage of
        tracepoints, None or empty without it."""
        try:
            goroutines = self.reader.count()
        except ProcessLookupError:
            raise TargetGone(f"process {self.process.pid} ended while it was being examined") from None
        options = replace(options, max_goroutines=max(options.max_goroutines, 2 * goroutines + _SPARE_GOROUTINES))
        pid = self.process.pid
        offsets = (kernel or {}) if not self.obstacle else {}
        subject = Subject(pid, self.process.exe_path, self.binary.layout, self.bias, offsets)
        self._kernel_symbols = KernelSymbols()
        # Names are read now, and not when the window is open: then there is other work. The verifier runs without our lock.
        self.tracer = Tracer.load(subject, self.plan, options, compiled, self._kernel_symbols.load if kernel else None)
        self.parked = ParkedReader(pid, self.binary, self.memory, self.reader, self.tracer.tables)
        self._unended = Unended(self.tracer.tables, self.parked, options, self.tracer.knows_files)
        self._ongoing = Ongoing(self.tracer.tables, self.parked, options, self.tracer.knows_files)
        model = self._model = StackModel(self.binary, self.bias, self._kernel_symbols)
        self._tally = Tally(
            pid, model, Symbolizer(model, self._kernel_symbols, Descriptors(pid)), self.plan.probe_set is ProbeSet.LEAN,
            bool(options.sample_period_ns),
        )
        self._sample_ns = options.sample_period_ns
        self._options = options

        sanitizer = sanitizer_of(self.binary)
        if sanitizer:
            self.notes.append(f"built with {sanitizer}: where threads wait for a CPU in its checks, the check is the innermost frame")

    def ready(self) -> str:
        """What has been made ready, in words."""
        return f"{len(self.plan.probes)} probes planned, verified and loaded"

    def attach(self) -> None:
        """Places the probes; raises TargetGone if the process ended or called exec since it was examined."""
        self.tracer.probes.attach()
        if not self.process.same_program():
            raise TargetGone(f"process {self.process.pid} ended or called exec while the probes were being placed")

    @property
    def execed(self) -> bool:
        """Whether the process has called exec, or ended."""
        seen = self.tracer.probes.watches_exec  # else we have to ask, which takes longer
        return self.tracer.execed or not (self.process.alive() if seen else self.process.same_program())

    def begin(self) -> None:
        """Opens the window. Also remembers the stacks of those parked now: if the target ends, they can't be read."""
        self._cpu_start = self._cpu_now()
        kernel_numbers = sees_kernel_numbers()
        self._tgid = self.process.pid if kernel_numbers else 0
        if not kernel_numbers and self._notes_threads:
            self.missing.append(Missing(*_NO_NUMBERS, self.process.pid))
        noted = self._note_threads()
        self.start_ns = self._window_ns = self.tracer.begin(self._tgid)
        self.windows = 1
        self._check_noted(*noted)
        with contextlib.suppress(ProcessLookupError):  # it may end at any time: then this is the end of the trace
            self._witness = Witness(self.reader)
            if self.reader.count() <= _FIRST_SCAN:
                self._first_seen = self.parked.read(self.reader.addresses())
                self._first_unread = False

    @property
    def _notes_threads(self) -> bool:
        """Whether what threads do as the window opens is asked."""
        return self.tracer.sees_threads or self.plan.has("syscall")

    def _note_threads(self) -> tuple[int, list[BlockedThread], list[RunnableThread]]:
        """What the process's threads do before the window, or the view of them, opens: no tracepoint saw that begin. Of those that do not
        sleep in the kernel it is noted how much CPU time they have had. Returns what `_check_noted` wants."""
        since_ns, noted = time.monotonic_ns(), []
        runnable: dict[int, RunnableThread] = {}
        if not self._tgid or not self._notes_threads:
            return since_ns, noted, []
        pid, tables = self.process.pid, self.tracer.tables
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            for thread in blocked_threads(pid, self.reader, self._kernel_symbols, running=self.tracer.sees_threads):
                if isinstance(thread, RunnableThread):
                    runnable[thread.tid] = thread
                else:
                    tables.add_blocked(thread, since_ns)
                    noted.append(thread)
            if self.tracer.sees_threads:
                if is_halted(pid, kernel_names(pid, pid)):
                    tables.add_halt(pid, since_ns)
                for tid, cpu_ns in threads_cpu_ns(pid).items():
                    one = runnable.get(tid)
                    tables.add_thread_base(tid, cpu_ns, *((one.g, one.goid) if one is not None else ()))
        return since_ns, noted, list(runnable.values())

    def _check_noted(self, since_ns: int, noted: list[BlockedThread], runnable: list[RunnableThread]) -> None:
        """Takes back what was noted of threads that went on before the window opened, and notes those that went to sleep after they
        were asked. Those that did so in the window the kernel side knows better already."""
        pid, tables = self.process.pid, self.tracer.tables
        asleep = set()
        for thread in noted:
            if still_blocked(pid, thread):
                self._blocked_unread += thread.stack.unreadable
                asleep.add(thread.tid)
            else:
                tables.forget_blocked(thread.tid, since_ns)
        self._note_latecomers(asleep)
        with contextlib.suppress(ProcessLookupError):
            running = {now.address for now in self.reader.read([thread.g for thread in runnable]) if now.status in (Status.RUNNING, Status.SYSCALL)}
            for thread in runnable:
                if thread.g not in running:
                    tables.forget_queued(thread.tid)
        if tables.is_halted_since(since_ns):
            if is_halted(pid, kernel_names(pid, pid)):
                self.notes.append("the process was stopped (by a signal, a debugger or a cgroup's freezer) as the window opened")
            elif tables.is_halted_since(since_ns):
                tables.forget_halt()

    def _note_latecomers(self, known: set[int]) -> None:
        """Notes threads other than `known` that sleep and have not been seen since the window, or the view of threads, opened."""
        if not self._tgid or not self._notes_threads:
            return
        pid, tables = self.process.pid, self.tracer.tables
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            for thread in blocked_threads(pid, self.reader, self._kernel_symbols, self.tracer.sees_threads):
                if isinstance(thread, RunnableThread) or thread.tid in known or not tables.add_blocked_late(thread, self._window_ns):
                    continue
                if still_blocked(pid, thread):
                    self._blocked_unread += thread.stack.unreadable
                else:
                    tables.forget_blocked(thread.tid, self._window_ns)

    def read(self, limit_ns: int = 0) -> tuple[list[StackStat], list[SingleInterval]]:
        """Stacks whose figures changed since they were read last, and the single intervals streamed since the last call. With
        `limit_ns` it takes hardly longer than that: where more changed, the next calls go on with the rest."""
        deadline = time.monotonic_ns() + limit_ns
        found = {id(stack): stack for stack in self._cut_changed}
        self._cut_changed = []
        if self._looks is not None:
            looked = ((estimate, ()) for estimate in self._looks.read()[0])
            found |= {id(stack): stack for stack in self._tally.take_looks(self._stretches, looked)}
        while True:
            rows = self.tracer.tables.read_rows(_ROWS_AT_ONCE if limit_ns else 0)
            found |= {id(stack): stack for stack in self._take(rows)}
            if len(rows) < _ROWS_AT_ONCE or not limit_ns or time.monotonic_ns() > deadline:
                break
        changed = list(found.values())
        intervals, events = [], self._unplaced + self.tracer.read_events()
        self._unplaced = []
        for event in events:
            key = self._tally.key_of(event.key)
            if key is not None:
                intervals.append(self._interval(event, key))
            elif limit_ns:
                self._unplaced.append(event)  # its row is among those that have yet to be read
        self._subwindows.add(changed, (self.end_ns or time.monotonic_ns()) - self.start_ns)
        return changed, intervals

    def _interval(self, event: KernelEvent, key: tuple) -> SingleInterval:
        start = max(0, event.start_ns - self.start_ns)
        return SingleInterval(event.goid, start, event.duration_ns, key, event.waker_goid, event.tid, event.may_go_on, event.goes_on)

    def _take(self, rows: list[IntervalRow]) -> list[StackStat]:
        changed = self._tally.take(rows)
        self.losses[Loss.UNKNOWN_FUNCTION] = self._tally.unknown
        self.losses[Loss.STACK_INCOMPLETE] = self._tally.incomplete() + self._looked_incomplete
        self.tracer.tables.put_frame_sizes(self._model.frame_sizes)
        return changed

    def ongoing(self) -> Waits:
        """Waits that are in progress now. None in a pause: what was in progress as the window ended is among the stacks."""
        if self.paused or self._looks is not None or self.end_ns:
            return Waits()
        whole = not self.tracer.tables.losses().get(Loss.GOROUTINE_TABLE_FULL)
        try:
            found = self._ongoing.collect(self._window_ns, self._first_seen, self._creation_unseen, whole)
        except (ProcessLookupError, PermissionError):
            why, lacks = "the process's memory could not be read", "waits of goroutines that are parked"
            return Waits(lacking=[Missing(ONGOING, why, lacks, self.process.pid)])
        lacking = []
        if not found.looked:
            lacking.append(("there are too many goroutines to look at them at each commit", "waits of goroutines that were parked then"))
        elif found.left_out:
            lacking.append(("not all stacks could be read in time", f"the last waits of {found.left_out:,} of the goroutines"))
        if found.looked and (not whole or (self._first_unread and self.reader.count() > found.known)):
            why = "the table of goroutines is full" if not whole else "not all goroutines were looked at as the window began"
            lacking.append((why, "waits of goroutines that no probe has seen in it"))
        stacks, grown = self._tally.passing(list(found.cut.rows.values()))
        self._cut_changed += [stack for stack, _with_waits in grown]  # the next `read` has them without
        return Waits(stacks, [stack for _without, stack in grown], [Missing(ONGOING, *each, self.process.pid) for each in lacking])

    def tick(self) -> float:
        """Makes room for single intervals; the kernel counts by itself. Returns the seconds until someone should look again."""
        wait = _BUSY_TICK_S if self.tracer.take_events() else _TICK_S
        return wait if self._looks is None else min(wait, self._looks.tick())

    def end(self) -> None:
        """The process is gone, or has called exec: this is the end of its window."""
        if self._looks is not None:
            self._looks.end()
            self.stop_looking()
            self.end_ns = self._paused_since
        else:
            self.end_ns = time.monotonic_ns() if self.paused else self.tracer.drain()

    def counters(self) -> dict[Stat, int]:
        """The kernel side's counters."""
        return self.tracer.tables.read_stats()

    def current_losses(self) -> dict[Loss, int]:
        """Losses up to now, as far as they are known before the end."""
        return self.losses | self.tracer.tables.losses()

    def program_fds(self) -> list[int]:
        """The BPF programs that run for it."""
        return self.tracer.program_fds()

    def read_pauses(self) -> list[Pause]:
        """The stop-the-world pauses that ended since the last call; after `finish` also one that lasts."""
        found = self.tracer.tables.read_pauses(len(self.pauses))
        if found and not found[-1].duration_ns and not self._finished:
            found.pop()
        reasons = self.binary.stop_reasons
        new = [
            Pause(
                reasons[pause.reason] if 0 < pause.reason < len(reasons) else "stop the world",
                pause.start_ns - self.start_ns, pause.duration_ns or max(0, self.end_ns - pause.start_ns), self.process.pid,
            )
            for pause in found
        ]
        self.pauses += new
        return new

    def stacks(self) -> list[StackStat]:
        """All stacks as of the last `read`."""
        return self._tally.stacks()

    # -- what the governor does ----------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether the trace pauses: no probe is placed."""
        return bool(self._paused_since)

    @property
    def paused_ns(self) -> int:
        """How long it has paused in all, without looks."""
        if self._looks is not None:
            return self._paused_ns
        now = self.end_ns or time.monotonic_ns()
        return self._paused_ns + (max(0, now - self._paused_since) if self.paused else 0)

    @property
    def looked_ns(self) -> int:
        """For how long goroutines were looked at from without in its pauses."""
        looks = self._looks
        return self._looked_ns + (max(0, time.monotonic_ns() - looks.start_ns) if looks is not None else 0)

    @property
    def promptness(self) -> Promptness | None:
        """That of those looks; None if there are none now."""
        return None if self._looks is None else self._looks.promptness

    @property
    def can_pause(self) -> bool:
        """Whether intervals can be told from windows: where every way off the CPU is probed, a goroutine that no probe has seen
        in a window has not moved in it."""
        return self.plan.probe_set is ProbeSet.COMPLETE

    @property
    def can_be_lean(self) -> bool:
        """Whether there is a way to trace with one probe instead of two."""
        return self.plan.probe_set is ProbeSet.COMPLETE and self.tracer.sees_threads

    def leave_out(self, stages: frozenset[Stage]) -> None:
        """Removes the probes of these stages. What is known of threads that are off their CPU ends there."""
        if Stage.WAKERS in stages:
            self._creation_unseen = True
            self._set_knobs()
        now = time.monotonic_ns()
        self.tracer.probes.remove(stages)
        if Stage.KERNEL in stages:
            self._threads_unseen = True
            self._keep(self._unended.threads(self._window_ns, now))
            self.tracer.tables.forget_threads()

    def take_up(self, stages: frozenset[Stage]) -> None:
        """Places the probes of stages that were left out; raises Refused or TargetGone, then no probe is left."""
        noted = self._note_threads() if Stage.KERNEL in stages else None
        self.tracer.probes.place(stages)
        if noted is not None:
            self._check_noted(*noted)

    def sample(self, period_ns: int) -> None:
        """Intervals shorter than that are sampled from now on, as with --sample-period; 0: no longer."""
        self._sample_ns = max(period_ns, self._options.sample_period_ns)
        self._tally.sampled = self._tally.sampled or bool(self._sample_ns)
        self._set_knobs()

    def _set_knobs(self) -> None:
        self.tracer.set_knobs(self._sample_ns, self._creation_unseen)

    def pause(self) -> None:
        """Closes the window, accounts for what is parked, and removes all probes."""
        tracer = self.tracer
        end = tracer.drain()
        self._creation_unseen = self._threads_unseen = True
        self._first_seen, self._first_unread = {}, True
        parked, alive = {}, True
        try:
            heads, busy = self.parked.heads(end - self._window_ns)
            parked = self.parked.stacks(heads, busy)
            tracer.probes.remove(frozenset(Stage))
            tracer.stop()
            opened, known = tracer.tables.read_open()
            parked |= self.parked.stacks(heads, [g for g in heads if g not in parked and (g in opened or g not in known)])
        except (ProcessLookupError, PermissionError):
            alive = False
            tracer.probes.remove(frozenset(Stage))
            tracer.stop()
        self._keep(self._cut_off(parked, alive, (), end))
        tracer.tables.forget(end)
        self._paused_since = end
        self._set_knobs()

    def look(self, options: SampleOptions) -> None:
        """In a pause: goroutines are looked at from without, until it is over or `stop_looking`."""
        self._looks = SampledProcess(OpenTarget(self.process, self.binary, self.bias, self.memory, self.reader), options)
        self._stretches += 1
        self._looks.attach()
        self._looks.begin()
        self._paused_ns += self._looks.start_ns - self._paused_since

    def stop_looking(self) -> None:
        """The pause goes on, without looks; nothing if there are none."""
        looks, self._looks = self._looks, None
        if looks is None:
            return
        looks.finish()
        self._cut_changed += self._tally.take_looks(self._stretches, looks.found())
        self.samples += looks.samples
        for loss in (Loss.STACK_TORN, Loss.STACK_INCOMPLETE):
            self.losses[loss] = self.losses.get(loss, 0) + looks.losses[loss]
        self._looked_incomplete += looks.losses[Loss.STACK_INCOMPLETE]
        self._looked_ns += looks.end_ns - looks.start_ns
        self._paused_since = looks.end_ns

    def resume(self, length_ns: int, lean: bool = False) -> None:
        """Opens a window of `length_ns` (0: until `pause` or `finish`), of the core alone, or with the one probe of mode lean;
        raises Refused or TargetGone, then no probe is left."""
        if lean and self._lean_plan is None:
            self._lean_plan = make_plan(self.binary, ProbeSet.LEAN, wakers=False, exits=False)
        self.stop_looking()
        self._tally.inferred = self._tally.inferred or lean
        self.tracer.follow(self._lean_plan if lean else self.plan)
        if not self.execed:
            self.tracer.probes.place(frozenset((Stage.CORE,)))
        if self.execed:  # what is known of its code and memory is another program's
            self.tracer.detach()
            raise TargetGone(f"process {self.process.pid} ended or called exec in a pause")
        since = self._paused_since
        self._window_ns = self.tracer.begin(self._tgid, length_ns)
        self._paused_ns += self._window_ns - since
        self._paused_since = 0
        self.windows += 1

    def _cut_off(self, parked: dict[int, Parked], alive: bool, later: Iterable[int], end_ns: int) -> CutOff:
        whole = not self.losses.get(Loss.GOROUTINE_TABLE_FULL)
        cut = self._unended.everything(self._window_ns, end_ns, parked, alive, later, self._creation_unseen, whole)
        self.losses[Loss.PARKED_UNREAD] = self._unended.unread
        return cut

    def _keep(self, cut: CutOff) -> None:
        self._cut_changed += self._take(list(cut.rows.values()))

    # -- the end -------------------------------------------------------------------------------------------------------

    def finish(self) -> tuple[list[StackStat], list[SingleInterval]]:
        """Closes the window, accounts for what is still parked, removes the probes; returns what `read` returns, of all stacks."""
        tracer = self.tracer
        alive = not self.execed and not self.paused
        if alive:
            self._check_hits()
        if self._looks is not None:
            self.stop_looking()
            self.end_ns = self._paused_since
        self.end_ns = self.end_ns or (time.monotonic_ns() if self.paused else tracer.drain())
        if alive and self._looks is None:
            self._check_probes()
            known = {missing.stage for missing in self.missing}
            with contextlib.suppress(ProcessLookupError, PermissionError):
                opened = OpenTarget(self.process, self.binary, self.bias, self.memory, self.reader)
                self.missing += [late for late in plugins_loaded(opened, probes=True) if late.stage not in known]
        self.cpu_used_ns()
        self._cpu_frozen = True
        self.parked.ended = set()  # what `begin` saw: those g may have been taken into use again
        parked: dict[int, Parked] = {}
        later = array("Q")
        try:
            if alive:
                addresses = self.reader.addresses()
                if len(addresses) > _FIRST_SCAN:
                    # Reading all takes seconds: first those that a probe saw, the rest when the probes are gone. No sets of all: a
                    # million numbers in one take 67 MB.
                    known = tracer.tables.read_open()[1]
                    later = array("Q", (g for g in addresses if g not in known))
                    addresses = [g for g in addresses if g in known]
                parked = self.parked.read(addresses)
                parked |= self.parked.read_elusive(parked)
        except (ProcessLookupError, PermissionError):
            alive = False
        tracer.stop()
        self.losses |= tracer.tables.losses()
        self.losses[Loss.THREAD_STACK_UNREADABLE] += self._blocked_unread
        missed = [(name, program_stats(fd).missed) for name, fd in tracer.programs()]
        self.losses[Loss.ARRIVALS_MISSED] += sum(number for name, number in missed if name in ARRIVAL_PROGRAMS)
        self.losses[Loss.MISSED_HITS] = sum(number for name, number in missed if name not in ARRIVAL_PROGRAMS)
        tracer.detach()  # before all that takes time: the target pays for them as long as they are there
        _, intervals = self.read()
        cut = self._cut_off(parked if alive else self._first_seen, alive, later, self.end_ns)
        self._take(list(cut.rows.values()))
        self.losses[Loss.THREAD_STACK_UNREADABLE] += self._tally.incomplete(threads=True)
        self.goroutines = self._tally.count_goroutines(tracer.tables.read_members(), cut.goids)
        self._account()
        self._note_what_was_seen()
        self._tally.close()
        tracer.tables.close()
        self._finished = True
        return self.stacks(), intervals  # how many goroutines there were is known of each only now

    def _note_what_was_seen(self) -> None:
        tables = self.tracer.tables
        halted_ns = min(tables.halted_ns(self.end_ns), self.end_ns - self.start_ns)
        if halted_ns:
            waits = sum(stack.halted_ns for stack in self._tally.stacks())
            total = sum(stack.distribution.total_ns for stack in self._tally.stacks())
            self.notes.append(
                f"the process was stopped (by a signal, a debugger or a cgroup's freezer) for {format_duration(halted_ns)} of the window: "
                f"{format_share(waits, total)} of the goroutines' waits lay in that"
            )
        outside = tables.threads_outside()
        if outside:
            self.notes.append(f"threads outside Go: {outside:,} of C's own, which had called into Go before; what they wait for is no goroutine's")

    def _check_hits(self) -> None:
        """Probes that are in the code may still not be hit. Asked before the window closes: what ran until then has been counted."""
        moved = 0
        with contextlib.suppress(ProcessLookupError, PermissionError):
            moved = self._witness.moved() if self._witness is not None else 0
        counters = self.counters()
        if not moved or counters[Stat.HITS_END] or counters[Stat.HITS_START]:
            return
        pid = self.process.pid
        what = f"no probe was hit, but {moved:,} goroutines that were parked as the window opened have run since"
        self.missing.append(Missing("probes", what, "waits and running times are wrong", pid))
        self.failure = GotraceError(f"process {pid}: {what}", f"sudo gotrace attach {pid} --mode sample")

    def _check_probes(self) -> None:
        """The last guard: probes that left the process's code in the window, as when the program moves it, saw nothing from then
        on."""
        absent = self.tracer.probes.absent()
        if absent:
            self.missing.append(Missing(
                "probes", f"at the end {len(absent)} probes are no longer in the process's code ({absent[0].symbol}, ...)",
                "waits and running times are wrong from the moment on at which they left", self.process.pid,
            ))

    def _account(self) -> None:
        """Running time, by goroutine and in all. Without the kernel's tracepoints it is not known when a thread waits."""
        tables, end = self.tracer.tables, self.end_ns
        if not self.tracer.sees_threads or self.plan.probe_set is ProbeSet.LEAN or self._threads_unseen:
            return
        opened, _known = tables.read_open()
        since = {thread.g: thread.out_ns for thread in tables.read_open_threads()}
        since |= {g: interval.start_ns for g, interval in opened.items()}
        running_ns = tables.read_stats()[Stat.RUN_NS]
        self.accounts = []
        for entry in tables.read_running():
            # One that has ended ran until a moment that nobody saw.
            present = max(0, end - entry.since_ns) if entry.since_ns and entry.g not in self.parked.ended else 0
            off = entry.off_ns + (max(0, end - max(since[entry.g], self.start_ns)) if entry.g in since else 0)
            running_ns += present
            self.accounts.append(Account(entry.g, entry.run_ns + present, off, entry.partial))
        self.running_ns = running_ns
        if not is_possible(running_ns, self._cpu_ns):
            self.losses[Loss.RUNNING_UNKNOWN] = 1
            self.running_ns = None

    def cpu_used_ns(self) -> int:
        """CPU time of the process since `begin`, as of its last sign of life in the window."""
        if not self._cpu_frozen:
            self._cpu_ns = max(self._cpu_ns, self._cpu_now() - self._cpu_start)
        return self._cpu_ns

    def _cpu_now(self) -> int:
        return cpu_time_ns(self.process.pid)

    def close(self) -> None:
        """Removes what is left of the trace from the kernel. Safe at any point after `prepare`, also after an error."""
        if self.tracer is not None:
            self.tracer.close()
            self.tracer = None
        if not self._closed:
            self._closed = True
            self.process.close()
