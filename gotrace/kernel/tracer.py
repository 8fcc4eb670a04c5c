"""Loads the BPF programs for one process, opens and closes windows. `Tracer.tables` reads what they record."""

from __future__ import annotations

import ctypes as ct
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from gotrace.gobin.layout import Layout
from gotrace.kernel.bpf import ProgramType, possible_cpus, read_element, write_element
from gotrace.kernel.compilation import CompiledPrograms
from gotrace.kernel.constants import constants
from gotrace.kernel.host.features import maps_may_grow
from gotrace.kernel.loader import LoadedPrograms, load, load_programs
from gotrace.kernel.perf_event import KPROBE_TYPE
from gotrace.kernel.placing import TRACEPOINTS, PlacedProbes
from gotrace.kernel.program import Options, history_chunks, map_entries
from gotrace.kernel.records import KernelEvent, ProgramRuns
from gotrace.kernel.ringbuf import RingBuffer
from gotrace.kernel.rows import parse_events
from gotrace.kernel.stats import program_stats
from gotrace.kernel.structs import PHASE_OFF, PHASE_TRACE, SCRATCH_SLOTS, Config, Event, Knobs
from gotrace.kernel.tables import Tables
from gotrace.plan.probes import Plan, ProbeSet

_PATIENCE = 10
_EVENT_BYTES = 1 << 25
"""How many bytes of events are held between two calls of `read_events`: 300,000 events."""
_MARGIN_NS = 3_000_000
"""How early the kernel side is told of a window's start and end."""
_PARK_PROGRAMS = frozenset(("start_park", "start_gopark"))
"""The programs that note what a goroutine waits for (bpf/objects.c: watch_parking)."""
ARRIVAL_PROGRAMS = ("on_data_ready", "on_poll_event")


@dataclass(frozen=True)
class Subject:
    """What is traced. `pid` and `exe_path` are as we see them; `kernel` are the offsets in the kernel's structs, empty to do without what
    needs them."""

    pid: int
    exe_path: str
    layout: Layout
    bias: int
    kernel: dict[str, int]


@dataclass(frozen=True)
class _Loaded:
    """The programs of one plan, and where they are placed."""

    plan: Plan
    programs: dict[str, int]
    probes: PlacedProbes


class Tracer:
    """The kernel side of one traced process: `load`, `probes.attach`, `begin`, then `tables.read_rows` as often as needed, `drain`,
    `detach`, `close`. Between two windows it can switch to another plan (`follow`), with the same tables.
    `sees_threads`: the kernel's tracepoints are used; `knows_files`: files and sockets are told.
    """

    def __init__(self, subject: Subject, options: Options, compiled: CompiledPrograms, loaded: LoadedPrograms, plan: Plan) -> None:
        self._subject = subject
        self._options = options
        self._compiled = compiled
        self._loaded = loaded
        self._sets = [self._set_of(plan, loaded.programs)]
        self.probes = self._sets[0].probes
        self.tables = Tables(loaded.maps, history_chunks(options.processes))
        self.sees_threads = self.probes.tracepoints
        self.knows_files = bool(subject.kernel)
        self._possible_cpus = possible_cpus()
        self._ring = RingBuffer(loaded.maps["events"], options.ring_bytes) if options.stream_ns is not None else None
        self._events: list[bytes] = []

    @classmethod
    def load(
        cls, subject: Subject, plan: Plan, options: Options, compiled: CompiledPrograms, beside: Callable[[], None] | None = None,
    ) -> Tracer:
        """Creates the maps and has the programs verified, calling `beside` in parallel. Raises Refused if the kernel refuses a map or a
        program."""
        kprobe, may_grow = _has_kprobes(subject), maps_may_grow()
        programs = {probe.program: ProgramType.KPROBE for probe in plan.probes}
        programs["target_exec"] = ProgramType.RAW_TRACEPOINT
        if _uses_tracepoints(subject, plan):
            programs |= dict.fromkeys(_tracepoints_of(plan), ProgramType.RAW_TRACEPOINT)
            # They run for every packet of the machine: used only if it is noted what goroutines wait for. A kprobe sees all kinds of
            # files, the tracepoint only sockets.
            if options.wakers and programs.keys() & _PARK_PROGRAMS:
                programs |= {"on_poll_event": ProgramType.KPROBE} if kprobe else {"on_data_ready": ProgramType.RAW_TRACEPOINT}
        fixed = constants(subject.pid, plan, subject.layout, subject.bias, options, subject.kernel, kprobe, may_grow)
        loaded = load(compiled, programs, fixed, map_entries(options, may_grow), beside)
        try:
            tracer = cls(subject, options, compiled, loaded, plan)
            tracer.set_knobs(options.sample_period_ns)
        except BaseException:
            loaded.close()
            raise
        return tracer

    def _set_of(self, plan: Plan, programs: dict[str, int]) -> _Loaded:
        subject = self._subject
        tracepoints = _uses_tracepoints(subject, plan)
        return _Loaded(plan, programs, PlacedProbes(subject.pid, subject.exe_path, plan, programs, tracepoints, subject.bias))

    def follow(self, plan: Plan) -> None:
        """Makes `probes` those of this plan, with nothing placed yet. The plan is the one that was loaded, or one without stages, whose
        programs are loaded at the first request. Only while nothing else is placed; the kernel's tables stay. Raises Refused if the
        kernel refuses a program."""
        known = next((known for known in self._sets if known.plan is plan), None)
        if known is None:
            subject, compiled = self._subject, self._compiled
            programs = {probe.program: ProgramType.KPROBE for probe in plan.probes}
            if _uses_tracepoints(subject, plan):
                programs["on_switch"] = ProgramType.RAW_TRACEPOINT
            fixed = constants(
                subject.pid, plan, subject.layout, subject.bias, self._options, subject.kernel, may_grow=maps_may_grow(), threads=False,
            )
            known = self._set_of(plan, load_programs(compiled, programs, fixed, self._loaded.maps))
            self._sets.append(known)
        self.probes = known.probes

    def begin(self, tgid: int = 0, length_ns: int = 0) -> int:
        """Opens a window and returns its start (CLOCK_MONOTONIC ns). `tgid` is the kernel's own number of the process, 0 if it is not
        known: the first hit of a probe then finds it. A window of `length_ns` ends by itself; with 0, `drain` ends it."""
        start = time.monotonic_ns() + _MARGIN_NS
        end = start + length_ns if length_ns else 0
        # Ahead of time, so that all programs begin at the same instant. In two steps: a program that sees the phase must see the
        # rest.
        self._set(phase=PHASE_OFF, window_start_ns=start, window_end_ns=end, tgid=tgid)
        self._set(phase=PHASE_TRACE, window_start_ns=start, window_end_ns=end, tgid=tgid)
        _sleep_until(start)
        return start

    def set_knobs(self, sample_ns: int, creation_unseen: bool = False, span_until_ns: int = 0) -> None:
        """Sets what the programs do from now on, if they are governed: `sample_ns` is as --sample-period, 0 for every interval;
        `creation_unseen`: the probe on the creation of goroutines was removed for a while; `span_until_ns`: no request that begins from
        then on is recorded, 0: all are."""
        write_element(self._loaded.maps["knobs"], bytes(4), bytes(Knobs(sample_ns, creation_unseen, span_until_ns)))

    def drain(self) -> int:
        """Ends the window and returns its end. Open intervals are closed at that end when their goroutine resumes, so there is time to read
        the stacks of those that have not resumed from memory."""
        config = self._config()
        now, planned = time.monotonic_ns(), int(config.window_end_ns)
        if config.phase != PHASE_TRACE or 0 < planned <= now:  # never begun, or over; or the target called exec
            return planned or now
        end = now + _MARGIN_NS
        if 0 < planned <= end:
            _sleep_until(planned)
            return planned
        self._set(phase=PHASE_TRACE, window_start_ns=config.window_start_ns, window_end_ns=end, tgid=config.tgid)
        _sleep_until(end)
        return end

    def stop(self) -> None:
        """Records nothing from here on."""
        config = self._config()
        # Only the phase changes: programs that are running still read the rest.
        config.phase = PHASE_OFF
        write_element(self._loaded.maps["config"], bytes(4), bytes(config))
        self._await_programs()

    def _await_programs(self) -> None:
        """Waits for programs that are running: a thread may have lost its CPU inside one. What they record counts, and half of it would be
        wrong."""
        for attempt in range(_PATIENCE):
            if not any(self._busy(slot) for slot in range(SCRATCH_SLOTS)):
                return
            time.sleep(0.0005 * 2**attempt)

    def _busy(self, slot: int) -> bool:
        shape = self._loaded.shapes["scratch"]
        size = (shape.value_size + 7) // 8 * 8
        raw = read_element(self._loaded.maps["scratch"], struct.pack("<I", slot), size * self._possible_cpus)
        return any(int.from_bytes(raw[size * cpu : size * cpu + 8], "little") for cpu in range(self._possible_cpus))

    def close(self) -> None:
        """Removes everything from the kernel. May be called at any time, also twice."""
        self.detach()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        for more in self._sets[1:]:
            while more.programs:
                os.close(more.programs.popitem()[1])
        self._loaded.close()

    def detach(self) -> None:
        """Removes all that was placed anywhere."""
        for each in self._sets:
            each.probes.detach()

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def execed(self) -> bool:
        """Whether the target replaced itself by exec, which ended the trace."""
        return bool(self._config().execed)

    def program_fds(self) -> list[int]:
        """The descriptors of the loaded uprobe programs."""
        return [each.programs[name] for each in self._sets for name in {probe.program for probe in each.plan.probes}]

    def runs(self) -> dict[str, ProgramRuns]:
        """The runs of the uprobes of each role while the kernel timed programs (gotrace/kernel/stats.py)."""
        found: dict[str, ProgramRuns] = {}
        for each in self._sets:
            for program, role in {probe.program: probe.role for probe in each.plan.probes}.items():
                found[role] = found.get(role, ProgramRuns()) + _runs_of(each.programs[program])
        return found

    def tracepoint_runs(self) -> ProgramRuns:
        """The same for the tracepoints on threads, which run for all processes."""
        fds = [each.programs[name] for each in self._sets for name in TRACEPOINTS if name in each.programs]
        return sum(map(_runs_of, fds), ProgramRuns())

    def programs(self) -> list[tuple[str, int]]:
        """The names and descriptors of all loaded programs."""
        return [item for each in self._sets for item in each.programs.items()]

    def take_events(self) -> bool:
        """Makes room for events in the ring buffer; returns whether it was filling fast. The events wait for `read_events`. Beyond a
        bounded number they stay in the buffer, until the kernel counts those that find no room."""
        if self._ring is None or sum(map(len, self._events)) > _EVENT_BYTES:
            return False
        self._events.append(self._ring.take(ct.sizeof(Event)))
        return len(self._events[-1]) > self._options.ring_bytes // 8

    def read_events(self) -> list[KernelEvent]:
        """The single intervals that were streamed since the last call."""
        self.take_events()
        events, self._events = self._events, []
        return [event for raw in events for event in parse_events(raw)]

    def _config(self) -> Config:
        return Config.from_buffer_copy(read_element(self._loaded.maps["config"], bytes(4), ct.sizeof(Config)))

    def _set(self, **fields: int) -> None:
        write_element(self._loaded.maps["config"], bytes(4), bytes(Config(**fields)))


def _has_kprobes(subject: Subject) -> bool:
    """Whether a kprobe reports when files have events."""
    return bool(subject.kernel) and bool(subject.kernel["K_EPITEM_FILE"]) and KPROBE_TYPE.exists()


def _uses_tracepoints(subject: Subject, plan: Plan) -> bool:
    """Whether the kernel's tracepoints report what it does with threads."""
    return bool(subject.kernel) and not plan.has("syscall")


def _tracepoints_of(plan: Plan) -> tuple[str, ...]:
    """The programs on the kernel's tracepoints: that on signals is for what an interrupted wait goes on with."""
    return tuple(name for name in TRACEPOINTS if name != "on_signal" or plan.probe_set is not ProbeSet.READY)


def _runs_of(program: int) -> ProgramRuns:
    stats = program_stats(program)
    return ProgramRuns(stats.runs, stats.run_ns)


def _sleep_until(moment_ns: int) -> None:
    time.sleep(max(0, moment_ns - time.monotonic_ns()) / 1e9)
