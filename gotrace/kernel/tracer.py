"""Loads the BPF program for one process, attaches its probes, reads its tables. Nothing here knows of symbols."""

from __future__ import annotations

import contextlib
import ctypes as ct
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from gotrace.errors import Refused, TargetGone
from gotrace.gobin.layout import Layout
from gotrace.histogram import BUCKETS, bucket_of, bucket_range
from gotrace.kernel.bpf import (
    BpfError, ProgramType, attach_raw_tracepoint, delete_element, possible_cpus, read_element, read_table, write_element,
)
from gotrace.kernel.compilation import CompiledPrograms
from gotrace.kernel.loader import LoadedPrograms, load
from gotrace.kernel.perf_event import KPROBE_TYPE, UPROBE_TYPE, ProbeError, open_kprobe
from gotrace.kernel.program import Options, constants, map_entries
from gotrace.kernel.records import (
    NO_STACK, BlockedThread, IntervalRow, KernelEvent, KernelObject, OpenInterval, OpenThread, ProgramRuns, RawStack, RowKey,
    RunningTime, WorldPause,
)
from gotrace.kernel.ringbuf import RingBuffer
from gotrace.kernel.stats import program_stats
from gotrace.kernel.structs import (
    GOROUTINE_BORN, GOROUTINE_ENDED, MAX_FRAMES, MAX_PAUSES, PHASE_OFF, PHASE_TRACE, SCRATCH_SLOTS, STACK_EXACT, STACK_IN_PROLOGUE,
    STACK_IN_TRANSIT, STACK_KERNEL, STACK_TRUNCATED, STACK_UNREADABLE, Arrival, Config, Event, Goroutine, IntervalKey,
    IntervalValue, Knobs, MemberKey, Object, Pause, Stack, Thread, UnixPath, World,
)
from gotrace.kernel.uprobes import attach_uprobe
from gotrace.plan.probes import Plan, ProbeSet
from gotrace.vocabulary import Loss, Stage, StartKind, Stat

_LOSSES = {
    Stat.GOROUTINE_TABLE_FULL: Loss.GOROUTINE_TABLE_FULL,
    Stat.STACK_TABLE_FULL: Loss.STACK_TABLE_FULL,
    Stat.GOROUTINE_SET_FULL: Loss.GOROUTINE_SET_FULL,
    Stat.RING_FULL: Loss.RING_FULL,
    Stat.INTERVAL_LOST: Loss.INTERVAL_LOST,
    Stat.STACK_TRUNCATED: Loss.STACK_TRUNCATED,
    Stat.STACK_UNREADABLE: Loss.STACK_UNREADABLE,
    Stat.START_WHILE_STOPPED: Loss.START_WHILE_STOPPED,
    Stat.END_WHILE_RUNNING: Loss.END_WHILE_RUNNING,
    Stat.WAKER_LOST: Loss.WAKER_LOST,
    Stat.OBJECT_TABLE_FULL: Loss.OBJECT_TABLE_FULL,
    Stat.THREAD_STACK_UNREADABLE: Loss.THREAD_STACK_UNREADABLE,
    Stat.STACK_IN_TRANSIT: Loss.STACK_IN_TRANSIT,
    Stat.KERNEL_STACK_LOST: Loss.KERNEL_STACK_LOST,
    Stat.PAUSE_TABLE_FULL: Loss.PAUSE_TABLE_FULL,
    Stat.START_UNSEEN: Loss.START_UNSEEN,
    Stat.SWITCH_UNSEEN: Loss.SWITCH_UNSEEN,
}
_PATIENCE = 10
_EVENT_BYTES = 1 << 25
"""Events that are held between two calls of `read_events`: 300,000."""
_MARGIN_NS = 3_000_000
"""Time to tell the kernel side of the window's edges before they come."""
POLL_CALLBACK = "ep_poll_callback"
"""What the kernel calls when a file in an epoll set has events (fs/eventpoll.c)."""
ARRIVAL_PROGRAMS = ("on_data_ready", "on_poll_event")
_TRACEPOINTS = {"on_switch": "sched_switch", "on_waking": "sched_waking"}
_STAGE_OF_ROLE = {"ready": Stage.WAKERS, "create": Stage.WAKERS, "exit": Stage.KERNEL, "syscall": Stage.KERNEL}
"""All other probes are of the core."""
_BUSY = ("mark_ready", "start_gopark", "start_schedule", "start_park", "end_execute")
"""Programs whose probes are hit most. They are placed last and removed first: placing takes milliseconds, and a probe costs from
then on."""


class Tracer:
    """The kernel side of one traced process.

    `load`, `attach`, `begin`, then `read_rows` as often as wanted, `drain`, `detach`, `close`. Whatever happens to
    this process, the kernel removes the probes with its file descriptors. `data_source` says how the kernel tells when data
    comes for those who wait in the netpoller, "" if it does not.
    """

    data_source = ""

    def __init__(
        self, pid: int, exe_path: str, plan: Plan, layout: Layout, bias: int, options: Options, kernel: dict[str, int]
    ) -> None:
        self._pid = pid
        self._exe_path = exe_path
        self._plan = plan
        self._options = options
        self._kernel_stage = bool(kernel)
        self._tracepoints = bool(kernel) and not plan.has("syscall")
        # A kprobe sees all kinds of files, the tracepoint sockets alone.
        self._kprobe = bool(kernel) and bool(kernel["K_EPITEM_FILE"]) and KPROBE_TYPE.exists()
        self._constants = constants(pid, plan, layout, bias, options, kernel, self._kprobe)
        self._loaded = LoadedPrograms()
        self._ring: RingBuffer | None = None
        self._probes: list[tuple[Stage, int]] = []
        self._watch_exec: int | None = None
        self._seen: dict[bytes, int] = {}
        self._stacks: dict[int, RawStack] = {}
        self._objects: dict[int, KernelObject | None] = {}
        self._events: list[bytes] = []

    def load(self, compiled: CompiledPrograms) -> None:
        """Makes the maps and has the programs verified; raises Refused if the kernel does not take them."""
        programs = {probe.program: ProgramType.KPROBE for probe in self._plan.probes}
        programs["target_exec"] = ProgramType.RAW_TRACEPOINT
        if self._tracepoints:
            programs |= dict.fromkeys((*_TRACEPOINTS, "on_data_ready"), ProgramType.RAW_TRACEPOINT)
            programs |= {"on_poll_event": ProgramType.KPROBE} if self._kprobe else {}
        self._loaded = load(compiled, programs, self._constants, map_entries(self._options), self._options.governed)
        self.set_knobs(self._options.sample_period_ns)
        self._possible_cpus = possible_cpus()
        if self._options.stream_ns is not None:
            self._ring = RingBuffer(self._loaded.maps["events"], self._options.ring_bytes)

    def attach(self) -> None:
        """Places the probes; they record nothing before `begin`.

        Raises:
            Refused: the kernel does not take one; those placed before are removed.
        """
        if not UPROBE_TYPE.exists():
            raise Refused("this kernel has no uprobe events (perf PMU 'uprobe')", "gotrace doctor")
        try:
            if self._tracepoints or not self._plan.has("syscall"):
                self._watch_exec = attach_raw_tracepoint("sched_process_exec", self._loaded.programs["target_exec"])
        except BpfError as error:
            raise Refused(f"the kernel refuses {error.strerror}", "gotrace doctor") from None
        self.place(frozenset(Stage))

    def place(self, stages: frozenset[Stage]) -> None:
        """Places the probes of these stages, none of which is placed.

        Raises:
            Refused, TargetGone: the kernel does not take one; those placed before are removed, of all stages.
        """
        probes = sorted(self._plan.probes, key=lambda probe: _BUSY.index(probe.program) if probe.program in _BUSY else -1)
        for probe in probes:
            stage = _STAGE_OF_ROLE.get(probe.role, Stage.CORE)
            if stage not in stages:
                continue
            try:
                fd = attach_uprobe(
                    self._exe_path, probe.file_offset, self._pid, self._loaded.programs[probe.program], self._options.governed
                )
            except ProbeError as error:
                self.detach()
                if error.errno == errno.ESRCH:
                    raise TargetGone(f"process {self._pid} ended while the probes were being placed") from None
                raise Refused(f"no probe at {probe.symbol}+{probe.site.offset}: {error.strerror}", "gotrace doctor") from None
            self._probes.append((stage, fd))
        if not self._tracepoints:
            return
        try:
            for program, tracepoint in _TRACEPOINTS.items():
                if self.thread_stage in stages:
                    self._probes.append((self.thread_stage, attach_raw_tracepoint(tracepoint, self._loaded.programs[program])))
        except BpfError as error:
            self.detach()
            raise Refused(f"the kernel refuses {error.strerror}", "gotrace doctor") from None
        if Stage.WAKERS in stages:
            self._attach_data_ready()

    @property
    def thread_stage(self) -> Stage:
        """The stage of the tracepoints on threads."""
        # Mode lean takes the starts of intervals from them.
        return Stage.CORE if self._plan.probe_set is ProbeSet.LEAN else Stage.KERNEL

    @property
    def stages(self) -> frozenset[Stage]:
        """The stages of which something is placed."""
        return frozenset(stage for stage, _ in self._probes)

    def _attach_data_ready(self) -> None:
        # Without either the time until the kernel had the data is not split from the time until the netpoller did.
        if self._kprobe:
            with contextlib.suppress(ProbeError):
                self._probes.append((Stage.WAKERS, open_kprobe(POLL_CALLBACK, self._loaded.programs["on_poll_event"])))
                self.data_source = f"kprobe {POLL_CALLBACK}"
            return
        with contextlib.suppress(BpfError):  # Linux 6.3
            self._probes.append((Stage.WAKERS, attach_raw_tracepoint("sk_data_ready", self._loaded.programs["on_data_ready"])))
            self.data_source = "raw tracepoint sk_data_ready"

    def begin(self, tgid: int = 0, length_ns: int = 0) -> int:
        """Opens a window and returns its start (CLOCK_MONOTONIC ns). `tgid` is the kernel's own number of the process, 0
        if it is not known: then the first probe that is hit finds it. A window of `length_ns` ends by itself; 0: one that
        `drain` ends."""
        start = time.monotonic_ns() + _MARGIN_NS
        end = start + length_ns if length_ns else 0
        # Ahead of time, so that all programs begin at the same instant. In two steps: one that sees the phase must see the
        # rest.
        self._set(phase=PHASE_OFF, window_start_ns=start, window_end_ns=end, tgid=tgid)
        self._set(phase=PHASE_TRACE, window_start_ns=start, window_end_ns=end, tgid=tgid)
        _sleep_until(start)
        return start

    def set_knobs(self, sample_ns: int, creation_unseen: bool = False) -> None:
        """What the programs do from now on, where they are governed: `sample_ns` as --sample-period, 0 for every interval;
        `creation_unseen`: the probe on the creation of goroutines has been away."""
        write_element(self._loaded.maps["knobs"], bytes(4), bytes(Knobs(sample_ns, creation_unseen)))

    def forget(self, end_ns: int) -> None:
        """Clears what is known of goroutines and threads, and ends at `end_ns` a stop of the world that lasts. Only between two
        windows, when no probe is placed: what happens until the next one opens is not seen."""
        for name, key, value in (
            ("goroutines", ct.c_uint64, Goroutine), ("threads", ct.c_uint32, Thread), ("last_g", ct.c_uint32, ct.c_uint64),
            ("watched", ct.c_uint64, Arrival),
        ):
            for raw in [raw for raw, _ in self._table(name, key, value)]:
                delete_element(self._loaded.maps[name], raw)
        state = World.from_buffer_copy(read_element(self._loaded.maps["world"], bytes(4), ct.sizeof(World)))
        if state.stopped_since and 0 < state.pauses <= MAX_PAUSES:
            index = struct.pack("<I", state.pauses - 1)
            pause = Pause.from_buffer_copy(read_element(self._loaded.maps["pauses"], index, ct.sizeof(Pause)))
            pause.duration_ns = max(1, end_ns - pause.start_ns)
            write_element(self._loaded.maps["pauses"], index, bytes(pause))
        write_element(self._loaded.maps["world"], bytes(4), bytes(World(pauses=state.pauses)))

    def forget_threads(self) -> None:
        """Clears what is known of threads, when no tracepoint is placed."""
        for raw in [raw for raw, _ in self._table("threads", ct.c_uint32, Thread)]:
            delete_element(self._loaded.maps["threads"], raw)

    def add_blocked(self, thread: BlockedThread, since_ns: int) -> None:
        """Makes it known that a thread has been off its CPU; nothing, if the kernel side knows better already."""
        kernel = stack_hash(thread.kernel_stack) if thread.kernel_stack else 0
        object_number = 0
        with contextlib.suppress(BpfError):
            self._put("stacks", stack_hash(thread.stack), _stack_struct(thread.stack))
            if kernel:
                self._put("stacks", kernel, _stack_struct(thread.kernel_stack))
            if thread.object is not None:
                object_number = self.put_object(thread.object)
            self._put("goroutines", thread.g, Goroutine())
        entry = Thread(
            out_ns=since_ns, g=thread.g, goid=thread.goid, stack=stack_hash(thread.stack), kernel_stack=kernel,
            object=object_number, kind=StartKind.SYSCALL, syscall=thread.syscall,
        )
        with contextlib.suppress(BpfError):
            write_element(self._loaded.maps["threads"], struct.pack("<I", thread.tid), bytes(entry), only_new=True)

    def forget_blocked(self, tid: int, since_ns: int) -> None:
        """Takes `add_blocked` back, unless the kernel side has made the entry its own."""
        key = struct.pack("<I", tid)
        with contextlib.suppress(BpfError):
            raw = read_element(self._loaded.maps["threads"], key, ct.sizeof(Thread))
            if Thread.from_buffer_copy(raw).out_ns == since_ns:
                delete_element(self._loaded.maps["threads"], key)

    def put_object(self, thing: KernelObject) -> int:
        """Adds a file or socket to the kernel's table and returns its number there; raises BpfError if that is full."""
        raw = Object(
            fd=thing.fd, mode=thing.mode, ino=thing.ino, dev=thing.dev, family=thing.family, type=thing.type,
            state=thing.state, local_port=thing.local_port,
            peer_port=int.from_bytes(thing.peer_port.to_bytes(2, "big"), "little"),
        )
        raw.local[: len(thing.local)] = thing.local
        raw.peer[: len(thing.peer)] = thing.peer
        number = stack_hash(tuple(word for word, in struct.iter_unpack("<Q", bytes(raw))))
        self._put("objects", number, raw)
        return number

    def put_stack(self, pcs: tuple[int, ...], exact: bool = False) -> int:
        """Adds a stack, leaf first, to the kernel's table and returns its number there; raises BpfError if that is full."""
        number = stack_hash(pcs)
        self._put("stacks", number, _stack_struct(pcs, exact))
        return number

    def _put(self, table: str, number: int, value: ct.Structure) -> None:
        try:
            write_element(self._loaded.maps[table], struct.pack("<Q", number), bytes(value), only_new=True)
        except BpfError as error:
            if error.errno != errno.EEXIST:
                raise

    def drain(self) -> int:
        """Ends the window and returns its end. Intervals that are open are closed at that end when their goroutine
        resumes, so the stacks of those that have not resumed can be read from memory in peace."""
        config = self._config()
        now = time.monotonic_ns()
        if config.phase != PHASE_TRACE or 0 < config.window_end_ns <= now:  # never begun, or over; or the target called exec
            return config.window_end_ns or now
        end = now + _MARGIN_NS
        if 0 < config.window_end_ns <= end:
            _sleep_until(config.window_end_ns)
            return config.window_end_ns
        self._set(phase=PHASE_TRACE, window_start_ns=config.window_start_ns, window_end_ns=end, tgid=config.tgid)
        _sleep_until(end)
        return end

    def stop(self) -> None:
        """Records nothing from here on."""
        config = self._config()
        # Only the phase changes: programs under way still read the rest.
        config.phase = PHASE_OFF
        write_element(self._loaded.maps["config"], bytes(4), bytes(config))
        self._await_programs()

    def _await_programs(self) -> None:
        """Waits for programs that were under way: a thread may have lost its CPU in the midst of one. What they record
        counts, and half of it would be wrong."""
        for attempt in range(_PATIENCE):
            if not any(self._busy(slot) for slot in range(SCRATCH_SLOTS)):
                return
            time.sleep(0.0005 * 2**attempt)

    def _busy(self, slot: int) -> bool:
        shape = self._loaded.shapes["scratch"]
        size = (shape.value_size + 7) // 8 * 8
        raw = read_element(self._loaded.maps["scratch"], struct.pack("<I", slot), size * self._possible_cpus)
        return any(int.from_bytes(raw[size * cpu : size * cpu + 8], "little") for cpu in range(self._possible_cpus))

    def detach(self) -> None:
        """Removes the probes and all else that was attached."""
        if self._watch_exec is not None:
            os.close(self._watch_exec)
            self._watch_exec = None
        self.remove(frozenset(Stage))

    def remove(self, stages: frozenset[Stage]) -> None:
        """Removes the probes of these stages, all at once: each takes the kernel a grace period."""
        fds = [fd for stage, fd in reversed(self._probes) if stage in stages]
        self._probes = [(stage, fd) for stage, fd in self._probes if stage not in stages]
        if fds:
            with ThreadPoolExecutor(len(fds)) as pool:
                list(pool.map(os.close, fds))

    def close(self) -> None:
        """Removes everything from the kernel. May be called at any time, also twice."""
        self.detach()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self._loaded.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def sees_threads(self) -> bool:
        """Whether the kernel's tracepoints are used."""
        return self._tracepoints

    @property
    def knows_files(self) -> bool:
        """Whether files and sockets are told."""
        return self._kernel_stage

    @property
    def execed(self) -> bool:
        """Whether the target replaced itself by exec: the trace ended there."""
        return bool(self._config().execed)

    def read_rows(self) -> list[IntervalRow]:
        """The sums, each as of now, of those rows that changed since the last call."""
        changed = []
        for raw_key, raw in self._table("intervals", IntervalKey, IntervalValue):
            count = int.from_bytes(raw[:8], "little")
            if self._seen.get(raw_key) == count:
                continue
            self._seen[raw_key] = count
            changed.append(_row(raw_key, raw))
        for row in changed:
            self.resolve(row)
        return changed

    def resolve(self, row: IntervalRow) -> None:
        """Fills in what the row's key names in other tables."""
        key = row.key
        if row.stack is NO_STACK:
            row.stack = self.stack(key.stack if key.stack >= 0 else -1 - key.stack) or NO_STACK
        row.kernel_stack = self.stack(key.kernel_stack) if key.kernel_stack else None
        row.waker = self.stack(key.waker) if key.waker else None
        row.object = self.object(key.object) if key.object else None

    def stack(self, number: int) -> RawStack | None:
        """A stack by its number in the kernel's table; None if the table was full."""
        if number not in self._stacks:
            raw = self._element("stacks", number, Stack)
            if raw is None:
                return None
            self._stacks[number] = _raw_stack(raw)
        return self._stacks[number]

    def object(self, number: int) -> KernelObject | None:
        """A file or socket by its number in the kernel's table."""
        if number not in self._objects:
            raw = self._element("objects", number, Object)
            self._objects[number] = self._parse_object(Object.from_buffer_copy(raw)) if raw is not None else None
        return self._objects[number]

    def _parse_object(self, raw: Object) -> KernelObject:
        path, peer = "", bytes(raw.peer)
        if raw.family == socket.AF_UNIX:
            kept = self._element("unix_paths", int.from_bytes(peer[:8], "little"), UnixPath)
            if kept is not None:
                # An abstract name begins with a zero byte and has no end mark; it is shown as ss(8) does.
                text = b"@" + kept[1:].rstrip(b"\0") if kept[:1] == b"\0" else kept.partition(b"\0")[0]
                path = text.decode("utf-8", "replace")
        return KernelObject(
            raw.fd, raw.mode, raw.ino, raw.dev, raw.family, raw.type, raw.state, bytes(raw.local), raw.local_port, peer,
            int.from_bytes(raw.peer_port.to_bytes(2, "little"), "big"), path,
        )

    def read_open(self) -> tuple[dict[int, OpenInterval], set[int]]:
        """The intervals that are open, by g address, and the addresses of all goroutines in the table."""
        opened, known = {}, set()
        for raw_key, raw in self._table("goroutines", ct.c_uint64, Goroutine):
            g, = struct.unpack("<Q", raw_key)
            entry = Goroutine.from_buffer_copy(raw)
            known.add(g)
            if entry.start_ns:
                opened[g] = OpenInterval(
                    g, entry.kind, entry.start_ns, entry.data_ns, entry.ready_ns, entry.waker, entry.object,
                    entry.stopped_at_start, entry.stopped_at_data, entry.stopped_at_ready, entry.long_run_ns,
                    entry.margin_ns if entry.kind == StartKind.SCHEDULE else 0,
                )
        return opened, known

    def read_running(self) -> list[RunningTime]:
        """The accounts of all goroutines in the table."""
        entries = ((key, Goroutine.from_buffer_copy(raw)) for key, raw in self._table("goroutines", ct.c_uint64, Goroutine))
        return [
            RunningTime(int.from_bytes(key, "little"), e.run_ns, e.off_ns, e.run_since, bool(e.flags & (GOROUTINE_BORN | GOROUTINE_ENDED)))
            for key, e in entries
        ]

    def read_open_threads(self) -> list[OpenThread]:
        """The threads that are off their CPU with a goroutine."""
        entries = (Thread.from_buffer_copy(raw) for _, raw in self._table("threads", ct.c_uint32, Thread))
        return [
            OpenThread(
                e.g, e.goid, e.kind, e.out_ns, e.woken_ns, e.stack, e.kernel_stack, e.object, e.syscall, e.stopped_at_out,
                e.stopped_at_woken, e.long_run_ns, bool(e.throttled),
            )
            for e in entries if e.out_ns
        ]

    def read_pauses(self, since: int = 0) -> list[WorldPause]:
        """Stop-the-world pauses from the one with number `since` on; the last one may still last."""
        began = World.from_buffer_copy(read_element(self._loaded.maps["world"], bytes(4), ct.sizeof(World))).pauses
        found = []
        for index in range(since, min(began, MAX_PAUSES)):
            entry = Pause.from_buffer_copy(
                read_element(self._loaded.maps["pauses"], struct.pack("<I", index), ct.sizeof(Pause))
            )
            found.append(WorldPause(entry.start_ns, entry.duration_ns, entry.reason))
        return found

    def stopped_ns(self, until_ns: int) -> int:
        """How long the world had been stopped in all, as bpf/maps.c: stopped_until counts it."""
        world = World.from_buffer_copy(read_element(self._loaded.maps["world"], bytes(4), ct.sizeof(World)))
        return world.stopped_ns + (max(0, until_ns - world.stopped_since) if world.stopped_since else 0)

    def read_members(self) -> set[tuple[int, int]]:
        """(`member_hash`, goid) of every goroutine that was counted for a stack."""
        return {struct.unpack("<QQ", key) for key, _ in self._table("members", MemberKey, ct.c_uint64)}

    def program_fds(self) -> list[int]:
        """The descriptors of the loaded uprobe programs."""
        return [fd for name, fd in self._loaded.programs.items() if name in {p.program for p in self._plan.probes}]

    def runs(self) -> dict[Stage, ProgramRuns]:
        """What the uprobes of each stage have done while the kernel timed programs (gotrace/kernel/stats.py)."""
        found = dict.fromkeys(Stage, ProgramRuns())
        for program, role in {probe.program: probe.role for probe in self._plan.probes}.items():
            found[_STAGE_OF_ROLE.get(role, Stage.CORE)] += self._runs_of(program)
        return found

    def tracepoint_runs(self) -> ProgramRuns:
        """The same of the tracepoints on threads, which are those of all processes."""
        return sum((self._runs_of(name) for name in _TRACEPOINTS if name in self._loaded.programs), ProgramRuns())

    def _runs_of(self, program: str) -> ProgramRuns:
        stats = program_stats(self._loaded.programs[program])
        return ProgramRuns(stats.runs, stats.run_ns)

    def programs(self) -> dict[str, int]:
        """The descriptors of all loaded programs, by name."""
        return dict(self._loaded.programs)

    def take_events(self) -> bool:
        """Makes room for events in the ring buffer; returns whether it was filling fast. Those that were taken wait for
        `read_events`; of more than a bounded number the rest stays where it is, until the kernel counts what finds no room."""
        if self._ring is None or sum(map(len, self._events)) > _EVENT_BYTES:
            return False
        self._events.append(self._ring.take(ct.sizeof(Event)))
        return len(self._events[-1]) > self._options.ring_bytes // 8

    def read_events(self) -> list[KernelEvent]:
        """The single intervals that were streamed since the last call."""
        self.take_events()
        events, self._events = self._events, []
        return [_kernel_event(raw) for raws in events for raw in _EVENT.iter_unpack(raws)]

    def read_stats(self) -> dict[Stat, int]:
        """All counters, summed over the CPUs."""
        stats = {}
        for stat in Stat:
            raw = read_element(self._loaded.maps["stats"], struct.pack("<I", stat), 8 * self._possible_cpus)
            stats[stat] = sum(struct.unpack(f"<{self._possible_cpus}Q", raw))
        return stats

    def losses(self) -> dict[Loss, int]:
        """The kernel side's losses."""
        stats = self.read_stats()
        return {loss: stats[stat] for stat, loss in _LOSSES.items()}

    def _table(self, name: str, key: type, value: type) -> Iterator[tuple[bytes, memoryview]]:
        return read_table(self._loaded.maps[name], ct.sizeof(key), ct.sizeof(value))

    def _element(self, table: str, number: int, value: type) -> bytes | None:
        try:
            return read_element(self._loaded.maps[table], struct.pack("<Q", number), ct.sizeof(value))
        except BpfError:
            return None

    def _config(self) -> Config:
        return Config.from_buffer_copy(read_element(self._loaded.maps["config"], bytes(4), ct.sizeof(Config)))

    def _set(self, **fields: int) -> None:
        write_element(self._loaded.maps["config"], bytes(4), bytes(Config(**fields)))


_EVENT = struct.Struct("<8x4Q 5Q4I I4x")
"""A record of the ring buffer: its header, then `struct event`."""


def _kernel_event(words: tuple[int, ...]) -> KernelEvent:
    return KernelEvent(*words[:4], RowKey(*words[4:13]), words[13])


def _key(raw: bytes) -> RowKey:
    return RowKey(*struct.unpack("<5Q4I", raw))


def _stack_struct(pcs: tuple[int, ...], exact: bool = False) -> Stack:
    value = Stack(depth=min(len(pcs), MAX_FRAMES), flags=STACK_EXACT if exact else 0)
    value.pcs[: value.depth] = pcs[: value.depth]
    return value


def _raw_stack(raw: bytes) -> RawStack:
    flags, depth, leaf_caller, async_caller = struct.unpack_from("<IIQQ", raw)
    depth = min(depth, Stack.pcs.size // 8)
    pcs = struct.unpack_from(f"<{depth}Q", raw, Stack.pcs.offset)
    return RawStack(
        pcs, leaf_caller, bool(flags & STACK_IN_PROLOGUE), async_caller, bool(flags & STACK_EXACT),
        bool(flags & STACK_TRUNCATED), bool(flags & STACK_UNREADABLE), bool(flags & STACK_IN_TRANSIT),
        bool(flags & STACK_KERNEL),
    )


def _sleep_until(moment_ns: int) -> None:
    time.sleep(max(0, moment_ns - time.monotonic_ns()) / 1e9)


_MASK = (1 << 64) - 1


def _mix(value: int, word: int) -> int:
    value = ((value ^ word) * 0x9E3779B97F4A7C15) & _MASK
    return value ^ (value >> 29)


def stack_hash(pcs: tuple[int, ...]) -> int:
    """What bpf/stack.c calls a whole stack of these program counters, so one read from memory gets the same number."""
    value = 0
    for pc in pcs:
        value = _mix(value, pc)
    return _mix(value, 0)


def member_hash(key: RowKey) -> int:
    """The first half of `struct member_key` for a row."""
    return _mix(_mix(key.stack, key.reason), key.kind)


_FIGURES = struct.Struct("<11Q")
_HISTOGRAM = struct.Struct(f"<{BUCKETS}I")


def _row(raw_key: bytes, raw: memoryview) -> IntervalRow:
    count, total, maximum, low, high, in_progress, stopped, long_runs, long_run_max, margin, variance = _FIGURES.unpack_from(raw)
    histogram = _HISTOGRAM.unpack_from(raw, IntervalValue.histogram.offset)
    top = next((bucket for bucket in range(BUCKETS - 1, -1, -1) if histogram[bucket]), 0)
    # A program from an older compiler can lose the largest value in a race (compare_and_swap in bpf/record.c).
    if bucket_of(maximum) < top:
        maximum = bucket_range(top)[0]
    return IntervalRow(
        _key(raw_key), NO_STACK, count=count, total_ns=total, max_ns=maximum, squares=low + (high << 32),
        in_progress=in_progress, stopped_ns=stopped, long_runs=long_runs, long_run_max_ns=long_run_max, margin_ns=margin,
        variance=variance,
        histogram={bucket: number for bucket, number in enumerate(histogram) if number},
    )
