"""Loads the BPF programs for one process, opens and closes windows. What they record is read through `Tracer.tables`."""

from __future__ import annotations

import ctypes as ct
import struct
import time

from gotrace.gobin.layout import Layout
from gotrace.kernel.bpf import ProgramType, possible_cpus, read_element, write_element
from gotrace.kernel.compilation import CompiledPrograms
from gotrace.kernel.host.features import maps_may_grow
from gotrace.kernel.loader import LoadedPrograms, load
from gotrace.kernel.perf_event import KPROBE_TYPE
from gotrace.kernel.placing import TRACEPOINTS, PlacedProbes, stage_of
from gotrace.kernel.program import Options, constants, map_entries
from gotrace.kernel.records import KernelEvent, ProgramRuns
from gotrace.kernel.ringbuf import RingBuffer
from gotrace.kernel.rows import parse_events
from gotrace.kernel.stats import program_stats
from gotrace.kernel.structs import PHASE_OFF, PHASE_TRACE, SCRATCH_SLOTS, Config, Event, Knobs
from gotrace.kernel.tables import Tables
from gotrace.plan.probes import Plan
from gotrace.vocabulary import Stage

_PATIENCE = 10
_EVENT_BYTES = 1 << 25
"""Events that are held between two calls of `read_events`: 300,000."""
_MARGIN_NS = 3_000_000
"""Time to tell the kernel side of the window's edges before they come."""
ARRIVAL_PROGRAMS = ("on_data_ready", "on_poll_event")


class Tracer:
    """The kernel side of one traced process: `load`, `probes.attach`, `begin`, then `tables.read_rows` as often as wanted,
    `drain`, `probes.detach`, `close`.

    `sees_threads`: the kernel's tracepoints are used; `knows_files`: files and sockets are told.
    """

    def __init__(self, plan: Plan, options: Options, loaded: LoadedPrograms, probes: PlacedProbes, knows_files: bool) -> None:
        self._plan = plan
        self._options = options
        self._loaded = loaded
        self.probes = probes
        self.tables = Tables(loaded.maps)
        self.sees_threads = probes.tracepoints
        self.knows_files = knows_files
        self._possible_cpus = possible_cpus()
        self._ring = RingBuffer(loaded.maps["events"], options.ring_bytes) if options.stream_ns is not None else None
        self._events: list[bytes] = []

    @classmethod
    def load(
        cls, pid: int, exe_path: str, plan: Plan, layout: Layout, bias: int, options: Options, kernel: dict[str, int],
        compiled: CompiledPrograms,
    ) -> Tracer:
        """Makes the maps and has the programs verified; `kernel` are the offsets of the kernel's structs, empty to do without what
        needs them. Raises Refused if the kernel does not take a program."""
        tracepoints = bool(kernel) and not plan.has("syscall")
        # A kprobe sees all kinds of files, the tracepoint sockets alone.
        kprobe = bool(kernel) and bool(kernel["K_EPITEM_FILE"]) and KPROBE_TYPE.exists()
        programs = {probe.program: ProgramType.KPROBE for probe in plan.probes}
        programs["target_exec"] = ProgramType.RAW_TRACEPOINT
        if tracepoints:
            programs |= dict.fromkeys((*TRACEPOINTS, "on_data_ready"), ProgramType.RAW_TRACEPOINT)
            programs |= {"on_poll_event": ProgramType.KPROBE} if kprobe else {}
        may_grow = maps_may_grow()
        fixed = constants(pid, plan, layout, bias, options, kernel, kprobe, may_grow)
        loaded = load(compiled, programs, fixed, map_entries(options, may_grow))
        try:
            probes = PlacedProbes(pid, exe_path, plan, loaded.programs, tracepoints, kprobe)
            tracer = cls(plan, options, loaded, probes, bool(kernel))
            tracer.set_knobs(options.sample_period_ns)
        except BaseException:
            loaded.close()
            raise
        return tracer

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

    def close(self) -> None:
        """Removes everything from the kernel. May be called at any time, also twice."""
        self.probes.detach()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self._loaded.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def execed(self) -> bool:
        """Whether the target replaced itself by exec: the trace ended there."""
        return bool(self._config().execed)

    def program_fds(self) -> list[int]:
        """The descriptors of the loaded uprobe programs."""
        return [fd for name, fd in self._loaded.programs.items() if name in {p.program for p in self._plan.probes}]

    def runs(self) -> dict[Stage, ProgramRuns]:
        """What the uprobes of each stage have done while the kernel timed programs (gotrace/kernel/stats.py)."""
        found = dict.fromkeys(Stage, ProgramRuns())
        for program, role in {probe.program: probe.role for probe in self._plan.probes}.items():
            found[stage_of(role)] += self._runs_of(program)
        return found

    def tracepoint_runs(self) -> ProgramRuns:
        """The same of the tracepoints on threads, which are those of all processes."""
        return sum((self._runs_of(name) for name in TRACEPOINTS if name in self._loaded.programs), ProgramRuns())

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
        return [event for raw in events for event in parse_events(raw)]

    def _config(self) -> Config:
        return Config.from_buffer_copy(read_element(self._loaded.maps["config"], bytes(4), ct.sizeof(Config)))

    def _set(self, **fields: int) -> None:
        write_element(self._loaded.maps["config"], bytes(4), bytes(Config(**fields)))


def _sleep_until(moment_ns: int) -> None:
    time.sleep(max(0, moment_ns - time.monotonic_ns()) / 1e9)
