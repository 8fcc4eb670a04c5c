"""A Go process opened for reading: its binary, its load address, and its goroutines."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass

from gotrace.common.errors import BadBinary, Refused, TargetGone
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.image import read_file
from gotrace.live.fields import CHECKED, fitted
from gotrace.live.goroutines import GoroutineReader
from gotrace.live.modules import other_modules
from gotrace.proc.cgroups import container_of, groups_of
from gotrace.proc.memory import Memory, mapping_at
from gotrace.proc.process import Process, open_process
from gotrace.proc.programs import go_descendants, loaded_program
from gotrace.profile.types import Missing, Target

RUNNING_MARGIN, RUNNING_MARGIN_NS = 0.1, 50_000_000
"""Goroutines can't run for longer than their process has CPU time. The sums may differ by this much, relative and absolute, and by what a
hypervisor took: one is measured by the clock from switch to switch, the other leaves out interrupts and stolen time."""


_START_S, _POLL_S = 2.0, 0.05
_MOST_READ = 4096
_NAMED = 4
_PROBES_LACK = (
    "in their code: who made goroutines runnable or created them, and for how long those then waited for a P (`ready`, `created`), "
    "running times, and the names of functions"
)
_NAMES_LACK = "the names of functions in their code"


@dataclass
class OpenTarget:
    """A process that stays open until `close`."""

    process: Process
    binary: GoBinary
    bias: int
    memory: Memory
    reader: GoroutineReader

    def describe(self) -> Target:
        """What is known of the process, for the capture and the summary."""
        return describe(self.process, self.binary)

    def close(self) -> None:
        """Closes the process."""
        self.process.close()


def open_target(pid: int, hint: str) -> OpenTarget:
    """Opens process `pid`, reads its binary and compares the layout of its goroutines with its memory. `hint` is the command to
    suggest where more rights are needed.

    Raises:
        Refused, TargetGone, BadBinary: it can't be read.
    """
    process = open_process(pid)
    try:
        try:
            binary = GoBinary(read_file(process.exe_fd, process.exe))
            bias = process.entry_address() - int.from_bytes(binary.image.data[24:32], "little")
        except BadBinary as error:
            if "is not a Go binary" not in str(error):
                raise
            loaded = loaded_program(pid, process.exe_fd)
            if loaded is None:
                _refuse_wrapper(process, hint)
                raise
            # The dynamic loader was run with the program as its argument: AT_ENTRY is the loader's.
            for fd in (process.exe_fd, process.path_fd):
                if fd >= 0:
                    os.close(fd)
            (process.exe_fd, process.exe, bias), process.path_fd = loaded, -1
            binary = GoBinary(read_file(process.exe_fd, process.exe))
        if bias < 0 or bias % 4096:
            raise Refused(f"{process.exe}: loaded at an impossible address (entry {bias:#x} off)")
        memory = Memory(pid)
        reader = GoroutineReader(memory, binary, bias)
        try:
            binary.check()
            _await_start(pid, reader, memory, binary.allgs + bias)
            reader.check_layout()
            layout, misfits = fitted(memory, binary, bias, reader.addresses(CHECKED))
            if layout != binary.layout or misfits:
                binary.fit(layout, misfits)
                reader = GoroutineReader(memory, binary, bias)
        except ProcessLookupError:
            raise TargetGone(f"process {pid} ended while it was being examined") from None
        except PermissionError:
            raise Refused(f"the memory of process {pid} may not be read", hint) from None
        return OpenTarget(process, binary, bias, memory, reader)
    except BaseException:
        process.close()
        raise


def forked_copy(target: OpenTarget) -> str:
    """Returns a note if the process was forked from a Go program without exec, else "". Of such a copy's threads only the one that called
    fork exists. Where no goroutine has a thread, the program's first thread decides, if the binary says where it is recorded."""
    layout = target.binary.layout
    at_m, at_procid = layout.g_m, layout.m_procid
    if at_m is None or at_procid is None:
        return ""
    missing: set[int] = set()
    numbers: set[int] = set()
    first = 0
    m0 = target.binary.symbols.address("runtime.m0")
    for attempt in range(2):  # a thread may begin or end during the check
        time.sleep(_POLL_S * attempt)
        raws = target.memory.read_many([(g + at_m, 8) for g in target.reader.addresses(_MOST_READ)])
        ms = {int.from_bytes(raw, "little") for raw in raws if raw} - {0}
        procids = target.memory.read_many([(m + at_procid, 8) for m in ms])
        # runtime/proc.go: m0, the M of the thread on which the runtime started. It lives as long as the process.
        first = (target.memory.u64(m0 + target.bias + at_procid) or 0) if m0 is not None else 0
        numbers = {first, *(int.from_bytes(raw, "little") for raw in procids if raw)} - {0}
        there = _own_numbers(target.process.pid)
        absent = numbers - there
        missing = missing & absent if attempt else absent
        if not missing or not there:
            return ""
    if 2 * len(missing) < len(numbers) and first not in missing:
        return ""
    return (
        f"{target.process.pid} is a forked copy of a Go process: {len(missing)} of {len(numbers)} of the threads that its scheduler "
        "knows of do not exist; its goroutines will never run"
    )


def _own_numbers(pid: int) -> set[int]:
    """Its threads, as the process itself numbers them."""
    found = set()
    with contextlib.suppress(OSError):
        for tid in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{tid}/status", encoding="utf-8", errors="replace") as file:
                found |= {int(line.split()[-1]) for line in file if line.startswith("NSpid:")}
    return found


def _refuse_wrapper(process: Process, hint: str) -> None:
    """Refuses a shell, an init or the like whose descendants are the Go programs."""
    found = go_descendants(process.pid)
    if not found:
        return
    name = os.path.basename(process.exe)
    named = ", ".join(f"{pid} ({program})" for pid, program in found[:8]) + (", ..." if len(found) > 8 else "")
    who = f"its child {named} is" if len(found) == 1 else f"its children {named} are"
    raise Refused(f"{name} is not a Go program; {who}", hint.replace(f" {process.pid}", f" {found[0][0]}"))


def _await_start(pid: int, reader: GoroutineReader, memory: Memory, allgs: int) -> None:
    """Gives a process that has just been started, or that still runs C constructors, a little time."""
    deadline = time.monotonic() + _START_S
    while not reader.count():
        if time.monotonic() >= deadline:
            if memory.u64(allgs + 8):
                return  # the list exists but makes no sense: the reader says why
            raise Refused(
                f"process {pid} has not started its Go runtime yet: it has no goroutines (C constructors may still run)",
                "try again when it has started",
            )
        time.sleep(_POLL_S)


def describe(process: Process, binary: GoBinary) -> Target:
    """Describes a process that runs `binary`."""
    container = container_of(groups_of(process.pid))
    return Target(
        pid=process.pid, exe=process.exe, comm=process.comm, go_version=str(binary.version or "unknown"),
        go_version_source=binary.version_source, build_id=binary.image.build_id, stripped=binary.stripped,
        pie=binary.pie, cgo=binary.cgo, arch="amd64", host=socket.gethostname(), container=container.id, pod=container.pod,
    )


def is_possible(running_ns: int, cpu_ns: int, stolen_ns: int) -> bool:
    """Whether goroutines can have run for `running_ns` while their process used `cpu_ns` of CPU time and a hypervisor took `stolen_ns` from
    the machine: the kernel leaves that out of CPU time (kernel/sched/core.c: update_rq_clock_task), and shows no switch for it."""
    return running_ns <= cpu_ns * (1 + RUNNING_MARGIN) + RUNNING_MARGIN_NS + stolen_ns


def missing_fields(binary: GoBinary, pid: int) -> list[Missing]:
    """Reports the fields of the layout that the live process contradicts, and what a trace lacks without them."""
    lacks = (
        "what depends on these fields: creators, labels or locks in a dump, how often goroutines moved between two samples, how late sleeps"
        " ended"
    )
    return [Missing("fields of runtime.g", "; ".join(binary.misfits), lacks, pid)] if binary.misfits else []


def plugins_loaded(target: OpenTarget, probes: bool) -> list[Missing]:
    """Reports what a trace with or without `probes` lacks if the process has loaded other Go modules; [] if it has not.

    Raises:
        ProcessLookupError, PermissionError: the memory can't be read.
    """
    pid = target.process.pid
    texts = other_modules(target.memory, target.binary.table.moduledata + target.bias)
    if not texts:
        return []
    names = []
    for text in texts[:_NAMED]:
        mapping = mapping_at(pid, text)
        names.append(os.path.basename(mapping.path) if mapping and mapping.path else f"a module at {text:#x}")
    more = f" and {len(texts) - _NAMED} more are" if len(texts) > _NAMED else " is" if len(texts) == 1 else " are"
    why = f"{', '.join(names)}{more} loaded, with code and a copy of the runtime's functions of their own"
    return [Missing("plugins", why, _PROBES_LACK if probes else _NAMES_LACK, pid)]


def cpu_time_ns(pid: int) -> int:
    """CPU time of the process since its start, 0 if it is gone."""
    # The process's CPU clock (include/linux/posix-timers.h: MAKE_PROCESS_CPUCLOCK, CPUCLOCK_SCHED), to the nanosecond.
    try:
        return time.clock_gettime_ns(~pid << 3 | 2)
    except OSError:
        return 0
