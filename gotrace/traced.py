"""One process under trace: from its pid to stacks with symbols. `gotrace.session` runs one of these per process."""

from __future__ import annotations

import contextlib
import math
import os
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice

from gotrace.errors import Refused, TargetGone
from gotrace.gobin.binary import GoBinary
from gotrace.kernel.bpf import BpfError
from gotrace.kernel.compilation import CompiledPrograms
from gotrace.kernel.program import Options
from gotrace.kernel.host import SyscallSource
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.records import IntervalRow, KernelEvent, RawStack, RowKey
from gotrace.kernel.stats import program_stats
from gotrace.kernel.tracer import ARRIVAL_PROGRAMS, Tracer, member_hash
from gotrace.blocked import blocked_threads, open_files, sees_kernel_numbers, still_blocked
from gotrace.inprogress import CutOff, Parked
from gotrace.live.goroutines import OFF_CPU, Goroutine, GoroutineReader
from gotrace.live.polled import waiting_for
from gotrace.model.stacks import StackModel
from gotrace.plan.probes import Plan, ProbeSet, bytes_differ, make_plan
from gotrace.profile.subwindows import SubWindows
from gotrace.profile.symbolize import Symbolizer
from gotrace.profile.types import Distribution, Pause, SingleInterval, StackStat, Target
from gotrace.proc.descriptors import Descriptors
from gotrace.proc.memory import Memory
from gotrace.proc.process import Process
from gotrace.target import cpu_time_ns, describe, open_target
from gotrace.vocabulary import Loss, Stage, Stat

_SPARE_GOROUTINES = 1 << 16
_FIRST_SCAN = 20_000
_CHUNK = 8192
_READ_TRIES = 5
_RETRY_S = 0.002
_TICK_S, _BUSY_TICK_S = 0.1, 0.02
_PATIENCE = 9
_AFFORDABLE, _AFFORDABLE_PER_S = 2000, 10_000
"""Goroutines that are all looked at where a window ends, at least and per second of its length; of more only those whose intervals
are open. The probes cost meanwhile: about a tenth of a second for 10,000."""
_BUSY_READ = 200
_CONFIDENCE = 1.96


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
    _stats: dict[tuple, StackStat] = field(default_factory=dict)
    _by_kernel_key: dict[RowKey, tuple[IntervalRow, tuple]] = field(default_factory=dict)
    _members: dict[tuple, dict[RowKey, IntervalRow]] = field(default_factory=dict)
    _subwindows: SubWindows = field(default_factory=SubWindows)
    _first_seen: dict[int, Parked] = field(default_factory=dict)
    _ended: set[int] = field(default_factory=set)
    _cpu_start: int = 0
    _cpu_ns: int = 0
    _cpu_frozen: bool = False
    goroutines: int = 0
    accounts: list[Account] = field(default_factory=list)
    running_ns: int | None = None
    pauses: list[Pause] = field(default_factory=list)
    samples: int = 0
    windows: int = 0
    unlooked: int = 0
    """At how many windows' ends only those goroutines were looked at whose intervals were open: the others' waits lack that
    window."""
    _window_ns: int = 0
    _paused_since: int = 0
    _paused_ns: int = 0
    _tgid: int = 0
    _sample_ns: int = 0
    _sampled: bool = False
    _creation_unseen: bool = False
    _threads_unseen: bool = False
    _cut_rows: dict[RowKey, IntervalRow] = field(default_factory=dict)
    _cut_goids: dict[RowKey, set[int]] = field(default_factory=dict)
    _cut_changed: list[StackStat] = field(default_factory=list)
    _finished: bool = False
    _closed: bool = False

    @classmethod
    def prepare(
        cls, pid: int, probe_set: ProbeSet = ProbeSet.COMPLETE, wakers: bool = True,
        syscalls: SyscallSource = SyscallSource.TRACEPOINTS,
    ) -> TracedProcess:
        """Opens the process, reads its binary, plans, and checks plan and layout against the live process."""
        target = open_target(pid, f"sudo gotrace attach {pid}")
        try:
            tracepoints = syscalls is SyscallSource.TRACEPOINTS
            plan = make_plan(target.binary, probe_set, wakers, exits=tracepoints and probe_set is not ProbeSet.LEAN, syscalls=syscalls is SyscallSource.UPROBES)
            traced = cls(target.process, target.binary, target.bias, plan, target.memory, target.reader)
            try:
                traced._verify()
            except ProcessLookupError:
                raise TargetGone(f"process {pid} ended while it was being examined") from None
            return traced
        except BaseException:
            target.close()
            raise

    def _verify(self) -> None:
        ranges = [(probe.site.entry + self.bias, len(probe.site.prologue)) for probe in self.plan.probes]
        for probe, live in zip(self.plan.probes, self.memory.read_many(ranges)):
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
        self.tracer = Tracer(
            self.process.pid, self.process.exe_path, self.plan, self.binary.layout, self.bias, options,
            (kernel or {}) if self.plan.thread_local_g is not None else {},
        )
        self.tracer.load(compiled)
        self._descriptors = Descriptors(self.process.pid)
        self._model = StackModel(self.binary, self.bias)
        self._kernel_symbols = KernelSymbols()
        if kernel:
            self._kernel_symbols.load()  # not when the window is open: then there is other work
        self._symbolizer = Symbolizer(self._model, self._kernel_symbols, self._descriptors)
        self._per_goroutine = options.per_goroutine
        self._sample_ns = options.sample_period_ns
        self._sampled = bool(options.sample_period_ns)
        self._options = options

    def ready(self) -> str:
        """What has been made ready, in words."""
        return f"{len(self.plan.probes)} probes planned, verified and loaded"

    def attach(self) -> None:
        """Places the probes; raises TargetGone if the process ended or called exec since it was examined."""
        self.tracer.attach()
        if not self.process.same_program():
            raise TargetGone(f"process {self.process.pid} ended or called exec while the probes were being placed")

    @property
    def execed(self) -> bool:
        """Whether the process has called exec, or ended."""
        return self.tracer.execed or not self.process.same_program()

    def begin(self) -> None:
        """Opens the window. Also remembers the stacks of those parked now: if the target ends, they can't be read."""
        self._cpu_start = self._cpu_now()
        kernel_numbers = sees_kernel_numbers()
        self._tgid = self.process.pid if kernel_numbers else 0
        self.start_ns = self._window_ns = self.tracer.begin(self._tgid)
        self.windows = 1
        if (self.tracer.sees_threads or self.plan.has("syscall")) and kernel_numbers:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                self._add_blocked()
        with contextlib.suppress(ProcessLookupError):  # it may end at any time: then this is the end of the trace
            if self.reader.count() <= _FIRST_SCAN:
                self._first_seen = self._read_parked(set(self.reader.addresses()))

    def _add_blocked(self) -> None:
        pid = self.process.pid
        for thread in blocked_threads(pid, self.reader, self._kernel_symbols):
            self.tracer.add_blocked(thread, self.start_ns)
            # It may have gone on while we looked; then what was put down is wrong.
            if not still_blocked(pid, thread):
                self.tracer.forget_blocked(thread.tid, self.start_ns)

    def read(self) -> tuple[list[StackStat], list[SingleInterval]]:
        """Stacks whose figures changed since the last call, and the single intervals streamed since then."""
        changed = self._take(self.tracer.read_rows()) + self._cut_changed
        self._cut_changed = []
        intervals = []
        for event in self.tracer.read_events():
            known = self._by_kernel_key.get(event.key)
            if known is None:
                changed += self._take(self.tracer.read_rows())
                known = self._by_kernel_key.get(event.key)
            if known is not None:
                intervals.append(self._interval(event, known[1]))
        self._subwindows.add(changed, (self.end_ns or time.monotonic_ns()) - self.start_ns)
        return changed, intervals

    def _interval(self, event: KernelEvent, key: tuple) -> SingleInterval:
        start = max(0, event.start_ns - self.start_ns)
        return SingleInterval(event.goid, start, event.duration_ns, key, event.waker_goid, event.tid)

    def _take(self, rows: list[IntervalRow]) -> list[StackStat]:
        touched = {}
        for row in rows:
            known = self._by_kernel_key.get(row.key)
            if known is None:
                stat = self._stat(row)
                self._stats.setdefault(stat.key, stat)
                key = stat.key
            else:
                key = known[1]
            self._by_kernel_key[row.key] = (row, key)
            # Several rows can be one stack with symbols: figures are summed over all of them.
            self._members.setdefault(key, {})[row.key] = row
            touched[key] = None
        for key in touched:
            _sum_up(self._stats[key], self._members[key].values(), self.plan.probe_set is ProbeSet.LEAN, self._sampled)
        self.losses[Loss.UNKNOWN_FUNCTION] = self._symbolizer.unknown
        return [self._stats[key] for key in touched]

    def _stat(self, row: IntervalRow) -> StackStat:
        stack = self._model.interpret(row)
        return StackStat(
            self._symbolizer.frames(stack, row), stack.state, stack.reason, Distribution(), goid=row.key.goid or None,
            pid=self.process.pid,
        )

    def tick(self) -> float:
        """Makes room for single intervals; the kernel counts by itself. Returns the seconds until someone should look again."""
        return _BUSY_TICK_S if self.tracer.take_events() else _TICK_S

    def end(self) -> None:
        """The process is gone, or has called exec: this is the end of its window."""
        self.end_ns = time.monotonic_ns() if self.paused else self.tracer.drain()

    def counters(self) -> dict[Stat, int]:
        """The kernel side's counters."""
        return self.tracer.read_stats()

    def current_losses(self) -> dict[Loss, int]:
        """Losses up to now, as far as they are known before the end."""
        return self.losses | self.tracer.losses()

    def program_fds(self) -> list[int]:
        """The BPF programs that run for it."""
        return self.tracer.program_fds()

    def read_pauses(self) -> list[Pause]:
        """The stop-the-world pauses that ended since the last call; after `finish` also one that lasts."""
        found = self.tracer.read_pauses(len(self.pauses))
        if found and not found[-1].duration_ns and not self._finished:
            found.pop()
        reasons = self.binary.stop_reasons
        new = [
            Pause(
                reasons[pause.reason] if 0 < pause.reason < len(reasons) else "stop the world",
                pause.start_ns - self.start_ns, pause.duration_ns or self.end_ns - pause.start_ns, self.process.pid,
            )
            for pause in found
        ]
        self.pauses += new
        return new

    def stacks(self) -> list[StackStat]:
        """All stacks as of the last `read`."""
        return list(self._stats.values())

    # -- what the governor does ----------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether the trace pauses: no probe is placed."""
        return bool(self._paused_since)

    @property
    def paused_ns(self) -> int:
        """How long it has paused in all."""
        now = self.end_ns or time.monotonic_ns()
        return self._paused_ns + (max(0, now - self._paused_since) if self.paused else 0)

    @property
    def can_pause(self) -> bool:
        """Whether intervals can be told from windows: where every way off the CPU is probed, a goroutine that no probe has seen
        in a window has not moved in it."""
        return self.plan.probe_set is ProbeSet.COMPLETE

    def leave_out(self, stages: frozenset[Stage]) -> None:
        """Removes the probes of these stages. What is known of threads that are off their CPU ends there."""
        if Stage.WAKERS in stages:
            self._creation_unseen = True
            self._set_knobs()
        now = time.monotonic_ns()
        self.tracer.remove(stages)
        if Stage.KERNEL in stages:
            self._threads_unseen = True
            cut = self._new_cut(now)
            for thread in self.tracer.read_open_threads():
                if thread.out_ns < now:
                    cut.add_thread(thread if thread.stack else replace(thread, stack=self._stack_in_syscall(thread.g)))
            self._keep(cut)
            self.tracer.forget_threads()

    def take_up(self, stages: frozenset[Stage]) -> None:
        """Places the probes of stages that were left out; raises Refused or TargetGone, then no probe is left."""
        self.tracer.place(stages)

    def sample(self, period_ns: int) -> None:
        """Intervals shorter than that are sampled from now on, as with --sample-period; 0: no longer."""
        self._sample_ns = max(period_ns, self._options.sample_period_ns)
        self._sampled = self._sampled or bool(self._sample_ns)
        self._set_knobs()

    def _set_knobs(self) -> None:
        self.tracer.set_knobs(self._sample_ns, self._creation_unseen)

    def pause(self) -> None:
        """Closes the window, accounts for what is parked, and removes all probes."""
        tracer = self.tracer
        end = tracer.drain()
        self._creation_unseen = self._threads_unseen = True
        self._first_seen = {}
        parked, alive = {}, True
        try:
            heads, busy = self._heads(end - self._window_ns)
            parked = self._stacks(heads, busy)
            tracer.remove(frozenset(Stage))
            tracer.stop()
            opened, known = tracer.read_open()
            parked |= self._stacks(heads, [g for g in heads if g not in parked and (g in opened or g not in known)])
        except (ProcessLookupError, PermissionError):
            alive = False
            tracer.remove(frozenset(Stage))
            tracer.stop()
        self._keep(self._cut_off(parked, alive, [], end))
        tracer.forget(end)
        self._paused_since = end
        self._set_knobs()

    def resume(self, length_ns: int) -> None:
        """Opens a window of `length_ns` (0: until `pause` or `finish`), of the core alone; raises Refused or TargetGone, then no
        probe is left."""
        if not self.execed:
            self.tracer.place(frozenset((Stage.CORE,)))
        if self.execed:  # what is known of its code and memory is another program's
            self.tracer.detach()
            raise TargetGone(f"process {self.process.pid} ended or called exec in a pause")
        since = self._paused_since
        self._window_ns = self.tracer.begin(self._tgid, length_ns)
        self._paused_ns += self._window_ns - since
        self._paused_since = 0
        self.windows += 1

    def _heads(self, length_ns: int) -> tuple[dict[int, Goroutine], list[int]]:
        """The goroutines as they are after the end of a window of that length, while the probes still see who moves; and those
        whose stacks are to be read before those go: whoever moved in the window may move again soon."""
        opened, _known = self.tracer.read_open()
        if self.reader.count() <= max(_AFFORDABLE, _AFFORDABLE_PER_S * length_ns // 1_000_000_000):
            addresses = self.reader.addresses()
        else:
            addresses = list(opened)
            self.unlooked += 1
        heads = {goroutine.address: goroutine for goroutine in self.reader.read(addresses)}
        for _ in range(_READ_TRIES):
            # One that is on its way off its CPU: the start probe comes first.
            moving = [g for g in opened if g in heads and heads[g].status not in OFF_CPU]
            if not moving:
                break
            heads |= {goroutine.address: goroutine for goroutine in self.reader.read(moving)}
        self._ended = {g for g, head in heads.items() if head.ended}
        return heads, [g for g in opened if g in heads][:_BUSY_READ]

    def _stacks(self, heads: dict[int, Goroutine], wanted: list[int]) -> dict[int, Parked]:
        """Those that were off the CPU when their heads were read, with their stacks where they have not moved since."""
        found = {}
        for now in self.reader.read([g for g in wanted if heads[g].status in OFF_CPU]):
            head = heads[now.address]
            if head.waits_for_first_turn:
                found[head.address] = _created(head, self.reader.first_frames(head))
            elif head.has_run:
                found[head.address] = _parked(head, self.reader.stack(now) if _unmoved(head, now) else None)
        return found

    def _keep(self, cut: CutOff) -> None:
        for row in cut.rows.values():
            self.tracer.resolve(row)
        self._cut_changed += self._take(list(cut.rows.values()))

    # -- the end -------------------------------------------------------------------------------------------------------

    def finish(self) -> tuple[list[StackStat], list[SingleInterval]]:
        """Closes the window, accounts for what is still parked, removes the probes; returns what `read` returns, of all stacks."""
        tracer = self.tracer
        alive = not self.execed and not self.paused
        self.end_ns = self.end_ns or (time.monotonic_ns() if self.paused else tracer.drain())
        self.cpu_used_ns()
        self._cpu_frozen = True
        self._ended = set()  # what `begin` saw: those g may have been taken into use again
        parked: dict[int, Parked] = {}
        later = array("Q")
        try:
            if alive:
                addresses = self.reader.addresses()
                if len(addresses) > _FIRST_SCAN:
                    # Reading all takes seconds: first those that a probe saw, the rest when the probes are gone. No sets of all: a
                    # million numbers in one take 67 MB.
                    known = tracer.read_open()[1]
                    addresses, later = [g for g in addresses if g in known], array("Q", (g for g in addresses if g not in known))
                parked = self._read_parked(set(addresses))
                parked |= self._read_elusive(parked)
        except (ProcessLookupError, PermissionError):
            alive = False
        tracer.stop()
        self.losses |= tracer.losses()
        missed = {name: program_stats(fd).missed for name, fd in tracer.programs().items()}
        self.losses[Loss.ARRIVALS_MISSED] = sum(missed.pop(name, 0) for name in ARRIVAL_PROGRAMS)
        self.losses[Loss.MISSED_HITS] = sum(missed.values())
        if later:
            tracer.detach()
        _, intervals = self.read()
        cut = self._cut_off(parked if alive else self._first_seen, alive, later, self.end_ns)
        self._take(list(cut.rows.values()))
        self._count_goroutines(cut)
        self._account()
        self._finished = True
        tracer.detach()
        return self.stacks(), intervals  # how many goroutines there were is known of each only now

    def _account(self) -> None:
        """Running time, by goroutine and in all. Without the kernel's tracepoints it is not known when a thread waits."""
        tracer, end = self.tracer, self.end_ns
        if not tracer.sees_threads or self.plan.probe_set is ProbeSet.LEAN or self._threads_unseen:
            return
        opened, _known = tracer.read_open()
        since = {thread.g: thread.out_ns for thread in tracer.read_open_threads()}
        since |= {g: interval.start_ns for g, interval in opened.items()}
        running_ns = tracer.read_stats()[Stat.RUN_NS]
        self.accounts = []
        for entry in tracer.read_running():
            # One that has ended ran until a moment that nobody saw.
            present = max(0, end - entry.since_ns) if entry.since_ns and entry.g not in self._ended else 0
            off = entry.off_ns + (max(0, end - max(since[entry.g], self.start_ns)) if entry.g in since else 0)
            running_ns += present
            self.accounts.append(Account(entry.g, entry.run_ns + present, off, entry.partial))
        self.running_ns = running_ns

    def _count_goroutines(self, cut: CutOff) -> None:
        """Counts each goroutine once for a stack, however it was recorded, whoever woke it and whatever it waited for."""
        by_member: dict[int, set[tuple]] = {}
        goids: dict[tuple, set[int]] = {}
        for row_key in self._by_kernel_key:
            place = _place(row_key)
            # Not copied where there is but one: there may be a million in it.
            found = cut.goids.get(row_key, set())
            goids[place] = goids[place] | found if goids.get(place) else found
            if row_key.stack >= 0:
                by_member.setdefault(member_hash(row_key), set()).add(place)
        for member, goid in self.tracer.read_members():
            for place in by_member.get(member, ()):
                if place[-1] in (0, goid):
                    goids[place].add(goid)
        counted: dict[tuple, set[int]] = {}
        for row_key, (_, key) in self._by_kernel_key.items():
            members = goids[_place(row_key)]
            counted[key] = counted[key] | members if key in counted and counted[key] is not members else members
        for key, members in counted.items():
            self._stats[key].goroutines = len(members)
        self.goroutines = len(set().union(*counted.values()))

    def _read_parked(self, addresses: set[int]) -> dict[int, Parked]:
        """The goroutines among `addresses` that are off the CPU and have run before."""
        found: dict[int, Parked] = {}
        for attempt in range(_READ_TRIES):
            retry, waiting = set(), []
            for goroutine in self.reader.read(list(addresses)):
                if goroutine.ended:
                    self._ended.add(goroutine.address)
                if goroutine.waits_for_first_turn:
                    found[goroutine.address] = _created(goroutine, self.reader.first_frames(goroutine))
                elif goroutine.status in OFF_CPU and goroutine.has_run:
                    waiting.append(goroutine)
            for goroutine, pcs in zip(waiting, self.reader.stacks(waiting)):
                if pcs is None and attempt + 1 < _READ_TRIES:
                    retry.add(goroutine.address)  # it moved, or its stack was being copied
                else:
                    found[goroutine.address] = _parked(goroutine, pcs)
            addresses = retry
            if not addresses:
                break
        return found

    def _read_elusive(self, parked: dict[int, Parked]) -> dict[int, Parked]:
        """Those whose interval is open but who were missed, and those whose stack made no sense: the collector was moving
        it, or their thread met the start probe and has not had a CPU since to change their state. Both pass; on a busy
        host they take as long as the kernel's scheduler does."""
        found: dict[int, Parked] = {}
        for attempt in range(_PATIENCE):
            opened, known = self.tracer.read_open()
            wanted = opened.keys() | parked.keys() - known  # the rest has resumed: its interval is closed
            missing = {g for g in wanted - self._ended if (record := found.get(g) or parked.get(g)) is None or record.stack.unreadable}
            if not missing:
                break
            time.sleep(_RETRY_S * 2**attempt)
            found |= self._read_parked(missing)
        return found

    def _new_cut(self, end_ns: int) -> CutOff:
        """For the window that ends then; its rows go on with those of the windows before it."""
        options = self._options
        return CutOff(
            self._window_ns, end_ns, self._per_goroutine, options.min_block_ns, options.only_goid, self.tracer.stopped_ns(end_ns),
            self._cut_rows, self._cut_goids,
        )

    def _cut_off(self, parked: dict[int, Parked], alive: bool, later: Iterable[int], end_ns: int) -> CutOff:
        """Intervals without an end inside the window: open ones, and goroutines that no probe ever saw, of which those in
        `later` have yet to be read."""
        cut = self._new_cut(end_ns)
        opened, known = self.tracer.read_open()
        things = self._things(parked) if alive else {}
        for g, interval in opened.items():
            if alive and g in self._ended:
                continue  # a coroutine that ended while stopped (coro.go: coroexit)
            found = parked.get(g)
            if found is None or found.stack.unreadable:
                self.losses[Loss.PARKED_UNREAD] = self.losses.get(Loss.PARKED_UNREAD, 0) + 1
            if found is None:
                cut.add_lost(interval)  # gone with its process, or its stack never made sense
            else:
                cut.add_parked(found, interval, things.get(g, 0))
        if not self.losses.get(Loss.GOROUTINE_TABLE_FULL):
            self._add_unseen(cut, parked, known, things)
            rest = (g for g in later if g not in known)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                while chunk := set(islice(rest, _CHUNK)):
                    found = self._read_parked(chunk)
                    self._add_unseen(cut, found, known, self._things(found))
        for thread in self.tracer.read_open_threads():
            cut.add_thread(thread if thread.stack else replace(thread, stack=self._stack_in_syscall(thread.g)))
        for row in cut.rows.values():
            self.tracer.resolve(row)
        return cut

    def _add_unseen(self, cut: CutOff, parked: dict[int, Parked], known: set[int], things: dict[int, int]) -> None:
        for g, found in parked.items():
            if g not in known and not (found.created and self._creation_unseen):
                if found.stack.unreadable:
                    self.losses[Loss.PARKED_UNREAD] = self.losses.get(Loss.PARKED_UNREAD, 0) + 1
                cut.add_parked(found, None, things.get(g, 0))

    def _stack_in_syscall(self, g: int) -> int:
        """The number of the stack with which the goroutine is in a system call now, 0 if it can't be read."""
        with contextlib.suppress(BpfError, ProcessLookupError):
            for goroutine in self.reader.read([g]):
                pcs = self.reader.stack(goroutine)
                if pcs:
                    return self.tracer.put_stack(pcs)
        return 0

    def _things(self, parked: dict[int, Parked]) -> dict[int, int]:
        """The files that goroutines wait for in the netpoller, by g, as numbers in the kernel's table: for waits that began
        before the window."""
        if not self.tracer.knows_files:
            return {}
        reasons = self.binary.wait_reasons
        waiters = {g for g, found in parked.items() if found.reason < len(reasons) and reasons[found.reason] == "IO wait"}
        if not waiters:
            return {}
        try:
            fds = {g: fd for g, fd in waiting_for(self.process.pid, self.memory, self.binary.layout).items() if g in waiters}
        except (ProcessLookupError, PermissionError):
            return {}
        files = open_files(self.process.pid, set(fds.values()))
        numbers = {}
        for fd, thing in files.items():
            with contextlib.suppress(BpfError):
                numbers[fd] = self.tracer.put_object(thing)
        return {g: numbers[fd] for g, fd in fds.items() if fd in numbers}

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


def _place(key: RowKey) -> tuple:
    return key.stack, key.reason, key.kind, key.goid


def _unmoved(head: Goroutine, now: Goroutine) -> bool:
    return now.status in OFF_CPU and (now.goid, now.pc, now.sp, now.bp) == (head.goid, head.pc, head.sp, head.bp)


def _parked(goroutine: Goroutine, pcs: tuple[int, ...] | None) -> Parked:
    stack = _whole_stack(pcs) if pcs else RawStack((goroutine.pc,), unreadable=True)
    return Parked(goroutine.address, goroutine.goid, goroutine.wait_reason, stack)


@lru_cache(1 << 12)
def _whole_stack(pcs: tuple[int, ...]) -> RawStack:
    return RawStack(pcs)


def _created(goroutine: Goroutine, pcs: tuple[int, ...]) -> Parked:
    return Parked(goroutine.address, goroutine.goid, 0, RawStack(pcs, exact=True), created=True)


def _sum_up(stat: StackStat, records: Iterable[IntervalRow], inferred: bool, sampled: bool) -> None:
    """`inferred`: starts of intervals are, mode lean. `sampled`: short intervals were."""
    stat.distribution = Distribution()
    late = variance = 0
    stat.in_progress = stat.stopped_ns = stat.long_runs = stat.long_run_max_ns = 0
    for record in records:
        stat.distribution.add(
            Distribution(record.count, record.total_ns, record.max_ns, record.squares, record.histogram)
        )
        late += record.margin_ns
        variance += record.variance
        stat.in_progress += record.in_progress
        stat.stopped_ns += record.stopped_ns
        stat.long_runs += record.long_runs
        stat.long_run_max_ns = max(stat.long_run_max_ns, record.long_run_max_ns)
    stat.margin_ns = late + round(_CONFIDENCE * 256 * math.sqrt(variance)) if inferred or sampled else None
