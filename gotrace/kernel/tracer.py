"""Loads the BPF program for one process, attaches its probes, reads its tables. Nothing here knows of symbols."""

from __future__ import annotations

import ctypes as ct
import errno
import os
import struct
import time
from concurrent.futures import ThreadPoolExecutor

from gotrace.errors import Refused, TargetGone
from gotrace.gobin.layout import Layout
from gotrace.histogram import BUCKETS
from gotrace.kernel.perf_event import UPROBE_TYPE, ProbeError, open_uprobe
from gotrace.kernel.program import Options, compile_program, definitions
from gotrace.kernel.records import KernelEvent, KernelStack, OpenInterval
from gotrace.kernel.structs import (
    PHASE_DRAIN, PHASE_OFF, PHASE_TRACE, STACK_IN_PROLOGUE, STACK_TRUNCATED, STACK_UNREADABLE, Config, Event, Goroutine,
    IntervalKey, IntervalValue, MemberKey,
)
from gotrace.plan.probes import Plan
from gotrace.vocabulary import Loss, Stat

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
}


class Tracer:
    """The kernel side of one traced process.

    `load`, `attach`, `begin`, then `read_stacks` as often as wanted, `drain`, `detach`, `close`. Whatever happens to
    this process, the kernel removes the probes with its file descriptors.
    """

    def __init__(self, pid: int, exe_path: str, plan: Plan, layout: Layout, bias: int, options: Options) -> None:
        self._pid = pid
        self._exe_path = exe_path
        self._plan = plan
        self._definitions = definitions(pid, plan, layout, bias, options)
        self._bpf = None
        self._probes: list[int] = []
        self._events: list[KernelEvent] = []
        self._seen: dict[bytes, int] = {}
        self._streaming = options.stream_ns is not None

    def load(self) -> None:
        """Compiles and verifies the programs; raises Refused if the kernel does not take them."""
        self._bpf = compile_program(self._definitions)
        try:
            self._programs = {
                name: self._bpf.load_func(name.encode(), self._bpf.KPROBE).fd for name in {p.program for p in self._plan.probes}
            }
        except Exception as error:
            raise Refused(f"the kernel's verifier refused a BPF program: {error}", "gotrace doctor") from None
        self._fds = {name: self._bpf[name.encode()].map_fd for name in ("intervals", "goroutines", "members")}
        if self._streaming:
            self._bpf[b"events"].open_ring_buffer(self._on_event)

    def attach(self) -> None:
        """Places the probes; they record nothing before `begin`.

        Raises:
            Refused: the kernel does not take one; those placed before are removed.
        """
        if not UPROBE_TYPE.exists():
            raise Refused("this kernel has no uprobe events (perf PMU 'uprobe')", "gotrace doctor")
        try:
            # bcc attaches this one by bpf(BPF_RAW_TRACEPOINT_OPEN): no tracefs.
            self._bpf.attach_raw_tracepoint(b"sched_process_exec", b"target_exec")
        except Exception as error:
            raise Refused(f"the raw tracepoint sched_process_exec can't be attached: {error}", "gotrace doctor") from None
        for probe in self._plan.probes:
            try:
                fd = open_uprobe(self._exe_path, probe.file_offset, self._pid, self._programs[probe.program])
            except ProbeError as error:
                self.detach()
                if error.errno == errno.ESRCH:
                    raise TargetGone(f"process {self._pid} ended while the probes were being placed") from None
                raise Refused(f"no probe at {probe.symbol}+{probe.site.offset}: {error.strerror}", "gotrace doctor") from None
            self._probes.append(fd)

    def begin(self) -> int:
        """Opens the window and returns its start (CLOCK_MONOTONIC ns)."""
        start = time.monotonic_ns()
        self._set(phase=PHASE_TRACE, window_start_ns=start)
        return start

    def drain(self) -> int:
        """Ends the window and returns its end. Intervals that are open are closed at that end when their goroutine
        resumes, so the stacks of those that have not resumed can be read from memory in peace."""
        config = self._config()
        if config.phase != PHASE_TRACE:  # never begun, or the target called exec
            return config.window_end_ns or time.monotonic_ns()
        end = time.monotonic_ns()
        self._set(phase=PHASE_DRAIN, window_start_ns=config.window_start_ns, window_end_ns=end)
        return end

    def stop(self) -> None:
        """Records nothing from here on."""
        config = self._config()
        self._set(phase=PHASE_OFF, execed=config.execed)

    def detach(self) -> None:
        """Removes the probes, all at once: each takes the kernel a grace period."""
        probes, self._probes = self._probes, []
        if probes:
            with ThreadPoolExecutor(len(probes)) as pool:
                list(pool.map(os.close, probes))

    def close(self) -> None:
        """Removes everything from the kernel. May be called at any time, also twice."""
        self.detach()
        if self._bpf is not None:
            self._bpf.cleanup()
            self._bpf = None

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def execed(self) -> bool:
        """Whether the target replaced itself by exec: the trace ended there."""
        return bool(self._config().execed)

    def read_stacks(self) -> list[KernelStack]:
        """The sums, each as of now, of those stacks that changed since the last call."""
        changed = []
        for raw_key, raw in read_table_of(self._fds["intervals"], IntervalKey, IntervalValue):
            count = int.from_bytes(raw[:8], "little")
            if self._seen.get(raw_key) == count:
                continue
            self._seen[raw_key] = count
            changed.append(_kernel_stack(raw_key, raw))
        return changed

    def read_open(self) -> tuple[dict[int, OpenInterval], set[int]]:
        """The intervals that are open, by g address, and the addresses of all goroutines in the table."""
        opened, known = {}, set()
        for raw_key, raw in read_table_of(self._fds["goroutines"], ct.c_uint64, Goroutine):
            g, = struct.unpack("<Q", raw_key)
            start_ns, _, kind, _ = struct.unpack("<QQII", raw)
            known.add(g)
            if start_ns:
                opened[g] = OpenInterval(g, start_ns, kind)
        return opened, known

    def read_members(self) -> set[tuple[int, int]]:
        """(`member_hash`, goid) of every goroutine that was counted for a stack."""
        return {struct.unpack("<QQ", key) for key, _ in read_table_of(self._fds["members"], MemberKey, ct.c_uint64)}

    def program_fds(self) -> list[int]:
        """The descriptors of the loaded uprobe programs."""
        return list(self._programs.values())

    def read_events(self) -> list[KernelEvent]:
        """The single intervals that were streamed since the last call."""
        if self._streaming and self._bpf is not None:
            self._bpf.ring_buffer_consume()
        events, self._events = self._events, []
        return events

    def read_stats(self) -> dict[Stat, int]:
        """All counters, summed over the CPUs."""
        table = self._bpf[b"stats"]
        return {stat: sum(table[ct.c_int(stat.value)]) for stat in Stat}

    def losses(self) -> dict[Loss, int]:
        """The kernel side's losses."""
        stats = self.read_stats()
        return {loss: stats[stat] for stat, loss in _LOSSES.items()}

    def _on_event(self, _context: object, data: int, _size: int) -> None:
        event = ct.cast(data, ct.POINTER(Event)).contents
        key = (event.stack, event.key_goid, event.reason, event.kind)
        self._events.append(KernelEvent(event.start_ns, event.duration_ns, event.goid, key))

    def _config(self) -> Config:
        value = self._bpf[b"config"][ct.c_int(0)]
        return Config(value.phase, value.window_start_ns, value.window_end_ns, value.execed)

    def _set(self, **fields: int) -> None:
        table = self._bpf[b"config"]
        table[ct.c_int(0)] = table.Leaf(**{name: fields.get(name, 0) for name, _ in Config._fields_})


_MASK = (1 << 64) - 1


def _mix(value: int, word: int) -> int:
    value = ((value ^ word) * 0x9E3779B97F4A7C15) & _MASK
    return value ^ (value >> 29)


def stack_hash(pcs: tuple[int, ...]) -> int:
    """What bpf/offcpu.c calls a whole stack of these program counters, so one read from memory gets the same id."""
    value = 0
    for pc in pcs:
        value = _mix(value, pc)
    return _mix(value, 0)


def member_hash(stack_id: int, reason: int, kind: int) -> int:
    """The first half of `struct member_key` for an interval key."""
    return _mix(_mix(stack_id, reason), kind)


def read_table_of(fd: int, key: type, value: type):
    """`tables.read_table` with the sizes of two ctypes types."""
    from gotrace.kernel.tables import read_table

    return read_table(fd, ct.sizeof(key), ct.sizeof(value))


_HISTOGRAM = struct.Struct(f"<{BUCKETS}I")


def _kernel_stack(raw_key: bytes, raw: memoryview) -> KernelStack:
    stack, goid, reason, kind = struct.unpack("<QQII", raw_key)
    count, total, maximum, low, high, goroutines, in_progress, flags, depth, prologue, async_caller, async_at = (
        struct.unpack_from("<7QIIQQI", raw)
    )
    depth = min(depth, IntervalValue.pcs.size // 8)
    histogram = _HISTOGRAM.unpack_from(raw, IntervalValue.histogram.offset)
    return KernelStack(
        stack_id=stack, goid=goid, reason=reason, kind=kind,
        pcs=struct.unpack_from(f"<{depth}Q", raw, IntervalValue.pcs.offset),
        prologue_caller=prologue if flags & STACK_IN_PROLOGUE else 0,
        async_caller=async_caller, async_at=async_at,
        truncated=bool(flags & STACK_TRUNCATED), unreadable=bool(flags & STACK_UNREADABLE),
        count=count, total_ns=total, max_ns=maximum, squares=low + (high << 32),
        goroutines=goroutines, in_progress=in_progress,
        histogram={bucket: number for bucket, number in enumerate(histogram) if number},
    )
