"""One process under trace: from its pid to stacks with symbols. `gotrace.session` runs one of these per process."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from gotrace.errors import Refused, TargetGone
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.image import read_file
from gotrace.kernel.program import Options
from gotrace.kernel.records import KernelEvent, KernelStack
from gotrace.kernel.stats import program_stats
from gotrace.kernel.tracer import Tracer, member_hash, stack_hash
from gotrace.histogram import bucket_of
from gotrace.live.goroutines import OFF_CPU, Goroutine, GoroutineReader
from gotrace.model.stacks import GoStack, StackModel
from gotrace.plan.probes import Plan, ProbeSet, bytes_differ, make_plan
from gotrace.profile.symbolize import Symbolizer
from gotrace.profile.types import Distribution, StackStat, Target
from gotrace.proc.memory import Memory
from gotrace.proc.process import Process, open_process
from gotrace.vocabulary import Loss, StartKind

_SPARE_GOROUTINES = 1 << 16
_FIRST_SCAN = 20_000
_READ_TRIES = 5
_RETRY_S = 0.002
_PATIENCE = 9


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
    _by_kernel_key: dict[tuple, tuple[KernelStack, tuple]] = field(default_factory=dict)
    _members: dict[tuple, dict[tuple, KernelStack]] = field(default_factory=dict)
    _first_seen: dict[int, KernelStack] = field(default_factory=dict)
    _cut_goids: dict[tuple, set[int]] = field(default_factory=dict)
    _ended: set[int] = field(default_factory=set)
    _cpu_start: int = 0
    _cpu_ns: int = 0
    goroutines: int = 0
    _closed: bool = False

    @classmethod
    def prepare(cls, pid: int, probe_set: ProbeSet = ProbeSet.COMPLETE) -> TracedProcess:
        """Opens the process, reads its binary, plans, and checks plan and layout against the live process."""
        process = open_process(pid)
        try:
            binary = GoBinary(read_file(process.exe_fd, process.exe))
            bias = process.entry_address() - int.from_bytes(binary.image.data[24:32], "little")
            if bias < 0 or bias % 4096:
                raise Refused(f"{process.exe}: loaded at an impossible address (entry {bias:#x} off)")
            plan = make_plan(binary, probe_set)
            memory = Memory(pid)
            traced = cls(process, binary, bias, plan, memory, GoroutineReader(memory, binary, bias))
            try:
                traced._verify()
            except ProcessLookupError:
                raise TargetGone(f"process {pid} ended while it was being examined") from None
            except PermissionError:
                raise Refused(f"the memory of process {pid} may not be read", f"sudo gotrace attach {pid}") from None
            return traced
        except BaseException:
            process.close()
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
        self.binary.wait_reasons  # noqa: B018 - refuse before attaching, not when the first wait is shown
        self.reader.check_layout()

    def describe(self) -> Target:
        """What is known of the process, for the capture and the summary."""
        binary, process = self.binary, self.process
        return Target(
            pid=process.pid, exe=process.exe, comm=process.comm, go_version=str(binary.version or "unknown"),
            go_version_source=binary.version_source, build_id=binary.image.build_id, stripped=binary.stripped,
            pie=binary.pie, cgo=binary.cgo, arch="amd64",
        )

    # -- tracing -------------------------------------------------------------------------------------------------------

    def load(self, options: Options) -> None:
        """Compiles and verifies the programs for this process."""
        goroutines = len(self.reader.addresses())
        options = replace(options, max_goroutines=max(options.max_goroutines, 2 * goroutines + _SPARE_GOROUTINES))
        self.tracer = Tracer(
            self.process.pid, self.process.exe_path, self.plan, self.binary.layout, self.bias, options
        )
        self.tracer.load()
        self._model = StackModel(self.binary, self.bias)
        self._symbolizer = Symbolizer(self._model)
        self._per_goroutine = options.per_goroutine
        self._options = options

    def attach(self) -> None:
        """Places the probes; raises TargetGone if the process ended or called exec since it was examined."""
        self.tracer.attach()
        if not self.process.same_program():
            raise TargetGone(f"process {self.process.pid} ended or called exec while the probes were being placed")

    def begin(self) -> None:
        """Opens the window. Also remembers the stacks of those parked now: if the target ends, they can't be read."""
        self._cpu_start = self._cpu_now()
        self.start_ns = self.tracer.begin()
        addresses = self.reader.addresses()
        if len(addresses) <= _FIRST_SCAN:
            with contextlib.suppress(ProcessLookupError):
                self._first_seen = self._read_parked(set(addresses))

    def read(self) -> tuple[list[StackStat], list[tuple[int, int, int, tuple]]]:
        """Stacks whose figures changed since the last call, and the single intervals streamed since then."""
        changed = self._take(self.tracer.read_stacks())
        intervals = []
        for event in self.tracer.read_events():
            known = self._by_kernel_key.get(event.key)
            if known is None:
                changed += self._take(self.tracer.read_stacks())
                known = self._by_kernel_key.get(event.key)
            if known is not None:
                intervals.append(self._interval(event, known[1]))
        return changed, intervals

    def _interval(self, event: KernelEvent, key: tuple) -> tuple[int, int, int, tuple]:
        return event.goid, max(0, event.start_ns - self.start_ns), event.duration_ns, key

    def _take(self, stacks: list[KernelStack]) -> list[StackStat]:
        touched = {}
        for stack in stacks:
            known = self._by_kernel_key.get(stack.key)
            if known is None:
                go_stack = self._model.interpret(stack)
                stat = self._stat(go_stack, stack)
                self._stats.setdefault(stat.key, stat)
                key = stat.key
            else:
                key = known[1]
            self._by_kernel_key[stack.key] = (stack, key)
            # Several kernel stacks can be one stack with symbols: figures are summed over all of them.
            self._members.setdefault(key, {})[stack.key] = stack
            touched[key] = None
        for key in touched:
            _sum_up(self._stats[key], self._members[key].values())
        self.losses[Loss.UNKNOWN_FUNCTION] = self._symbolizer.unknown
        return [self._stats[key] for key in touched]

    def _stat(self, go_stack: GoStack, stack: KernelStack) -> StackStat:
        return StackStat(
            self._symbolizer.frames(go_stack), go_stack.state, go_stack.reason, Distribution(),
            goid=stack.goid or None, pid=self.process.pid,
        )

    def stacks(self) -> list[StackStat]:
        """All stacks as of the last `read`."""
        return list(self._stats.values())

    # -- the end -------------------------------------------------------------------------------------------------------

    def finish(self) -> tuple[list[StackStat], list[tuple[int, int, int, tuple]]]:
        """Closes the window, accounts for what is still parked, removes the probes; returns what `read` returns."""
        tracer = self.tracer
        alive = not tracer.execed and self.process.same_program()
        self.end_ns = self.end_ns or tracer.drain()
        self.cpu_used_ns()
        self._ended = set()  # what `begin` saw: those g may have been taken into use again
        parked: dict[int, KernelStack] = {}
        try:
            if alive:
                parked = self._read_parked(set(self.reader.addresses()))
                parked |= self._read_elusive(parked)
        except (ProcessLookupError, PermissionError):
            alive = False
        tracer.stop()
        self.losses |= tracer.losses()
        self.losses[Loss.MISSED_HITS] = sum(program_stats(fd).missed for fd in tracer.program_fds())
        changed, intervals = self.read()
        changed += self._take(self._cut_off(parked if alive else self._first_seen, alive))
        self._count_goroutines()
        tracer.detach()
        return list({stat.key: stat for stat in changed}.values()), intervals

    def _count_goroutines(self) -> None:
        """Replaces the kernel's counts per raw stack by exact ones: a goroutine counts once for a stack, however it was
        recorded."""
        by_member: dict[int, list[tuple]] = {}
        goids: dict[tuple, set[int]] = {}
        for kernel_key, (_, key) in self._by_kernel_key.items():
            stack_id, _, reason, kind = kernel_key
            by_member.setdefault(member_hash(stack_id, reason, kind), []).append(key)
            goids.setdefault(key, set()).update(self._cut_goids.get(kernel_key, ()))
        for member, goid in self.tracer.read_members():
            for key in by_member.get(member, ()):
                if key[-1] in (None, goid):
                    goids[key].add(goid)
        for key, members in goids.items():
            self._stats[key].goroutines = len(members)
        self.goroutines = len(set().union(*goids.values()))

    def _read_parked(self, addresses: set[int]) -> dict[int, KernelStack]:
        """The goroutines among `addresses` that are off the CPU and have run before, as records without figures."""
        found: dict[int, KernelStack] = {}
        for attempt in range(_READ_TRIES):
            retry = set()
            for goroutine in self.reader.read(list(addresses)):
                if goroutine.ended:
                    self._ended.add(goroutine.address)
                if goroutine.status not in OFF_CPU or not goroutine.has_run:
                    continue
                pcs = self.reader.stack(goroutine)
                if pcs is None and attempt + 1 < _READ_TRIES:
                    retry.add(goroutine.address)  # it moved, or its stack was being copied
                    continue
                found[goroutine.address] = _parked_record(goroutine, pcs)
            addresses = retry
            if not addresses:
                break
        return found

    def _read_elusive(self, parked: dict[int, KernelStack]) -> dict[int, KernelStack]:
        """Those whose interval is open but who were missed: their stack was being moved (_Gcopystack), or their thread met
        the start probe and has not had a CPU since to change their state. Both pass; on a busy host the second takes as
        long as the kernel's scheduler does."""
        found: dict[int, KernelStack] = {}
        for attempt in range(_PATIENCE):
            opened, _known = self.tracer.read_open()
            missing = opened.keys() - parked.keys() - found.keys() - self._ended
            if not missing:
                break
            time.sleep(_RETRY_S * 2**attempt)
            found |= self._read_parked(missing)
        return found

    def _cut_off(self, parked: dict[int, KernelStack], alive: bool) -> list[KernelStack]:
        """Intervals without an end inside the window: open ones, and goroutines that no probe ever saw."""
        opened, known = self.tracer.read_open()
        table_full = self.losses.get(Loss.GOROUTINE_TABLE_FULL, 0)
        records: dict[tuple, KernelStack] = {}
        for g, interval in opened.items():
            if alive and g in self._ended:
                continue  # a coroutine that ended while stopped (coro.go: coroexit)
            record = parked.get(g)
            if record is None:
                # Gone with its process, or its stack never made sense: the time is known, where it went is not.
                self._lose_parked()
                record = _lost_record(interval.kind)
            elif alive:
                record.kind = interval.kind
            self._cut(records, record, interval.start_ns)
        if not table_full:
            for g, record in parked.items():
                if g not in known:
                    if record.unreadable:
                        self._lose_parked()
                    self._cut(records, record, self.start_ns)
        return list(records.values())

    def _lose_parked(self) -> None:
        self.losses[Loss.PARKED_UNREAD] = self.losses.get(Loss.PARKED_UNREAD, 0) + 1

    def _cut(self, records: dict[tuple, KernelStack], record: KernelStack, start_ns: int) -> None:
        duration = max(0, self.end_ns - max(start_ns, self.start_ns))
        goid = record.goid if self._per_goroutine else 0
        if duration < self._options.min_block_ns or self._options.only_goid not in (0, record.goid):
            return
        # A key of its own (the kernel's goid is never negative): these figures are set once, beside the kernel's.
        identity = stack_hash(record.pcs)
        key = (-1 - identity, goid, record.reason, record.kind)
        total = records.get(key)
        if total is None:
            total = records[key] = KernelStack(
                stack_id=key[0], goid=goid, reason=record.reason, kind=record.kind, pcs=record.pcs,
                unreadable=record.unreadable,
            )
        total.count += 1
        total.total_ns += duration
        total.max_ns = max(total.max_ns, duration)
        total.squares += (duration >> 8) ** 2
        total.in_progress += 1
        self._cut_goids.setdefault(total.key, set()).add(record.goid)
        bucket = bucket_of(duration)
        total.histogram[bucket] = total.histogram.get(bucket, 0) + 1

    def cpu_used_ns(self) -> int:
        """CPU time of the process since `begin`, as of its last sign of life."""
        self._cpu_ns = max(self._cpu_ns, self._cpu_now() - self._cpu_start)
        return self._cpu_ns

    def _cpu_now(self) -> int:
        try:
            fields = open(f"/proc/{self.process.pid}/stat").read().rpartition(")")[2].split()
        except OSError:
            return 0
        return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Removes what is left of the trace from the kernel. Safe at any point after `prepare`, also after an error."""
        if self.tracer is not None:
            self.tracer.close()
            self.tracer = None
        if not self._closed:
            self._closed = True
            self.process.close()


def _parked_record(goroutine: Goroutine, pcs: tuple[int, ...] | None) -> KernelStack:
    return KernelStack(
        stack_id=0, goid=goroutine.goid, reason=goroutine.wait_reason, kind=StartKind.BEFORE,
        pcs=pcs or (goroutine.pc,), unreadable=pcs is None,
    )


def _lost_record(kind: int) -> KernelStack:
    return KernelStack(stack_id=0, goid=0, reason=0, kind=kind, pcs=(), unreadable=True)


def _sum_up(stat: StackStat, records: Iterable[KernelStack]) -> None:
    stat.distribution = Distribution()
    stat.goroutines = stat.in_progress = 0
    for record in records:
        stat.distribution.add(
            Distribution(record.count, record.total_ns, record.max_ns, record.squares, record.histogram)
        )
        stat.goroutines += record.goroutines
        stat.in_progress += record.in_progress
