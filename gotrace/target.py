"""A Go process opened for reading: its binary, where it is loaded, and its goroutines."""

from __future__ import annotations

import time
from dataclasses import dataclass

from gotrace.errors import Refused, TargetGone
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.image import read_file
from gotrace.live.fields import CHECKED, fitted
from gotrace.live.goroutines import GoroutineReader
from gotrace.proc.memory import Memory
from gotrace.proc.process import Process, open_process
from gotrace.profile.types import Missing, Target


RUNNING_MARGIN, RUNNING_MARGIN_NS = 0.1, 50_000_000
"""Goroutines can't run for longer than their process has CPU time. By so much, relative and absolute, the sums may differ: the one is
reckoned by the clock from one switch to the next, the other without interrupts and what a hypervisor takes."""


@dataclass
class OpenTarget:
    """Open until `close`."""

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
    """Opens process `pid`, reads its binary and compares the layout of its goroutines with its memory. `hint` is the command
    to give where more rights are needed.

    Raises:
        Refused, TargetGone, BadBinary: it can't be read.
    """
    process = open_process(pid)
    try:
        binary = GoBinary(read_file(process.exe_fd, process.exe))
        bias = process.entry_address() - int.from_bytes(binary.image.data[24:32], "little")
        if bias < 0 or bias % 4096:
            raise Refused(f"{process.exe}: loaded at an impossible address (entry {bias:#x} off)")
        memory = Memory(pid)
        reader = GoroutineReader(memory, binary, bias)
        try:
            binary.check()
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


def describe(process: Process, binary: GoBinary) -> Target:
    """What is known of a process that runs `binary`."""
    return Target(
        pid=process.pid, exe=process.exe, comm=process.comm, go_version=str(binary.version or "unknown"),
        go_version_source=binary.version_source, build_id=binary.image.build_id, stripped=binary.stripped,
        pie=binary.pie, cgo=binary.cgo, arch="amd64",
    )


def is_possible(running_ns: int, cpu_ns: int) -> bool:
    """Whether goroutines can have run for `running_ns` while their process used `cpu_ns` of CPU time."""
    return running_ns <= cpu_ns * (1 + RUNNING_MARGIN) + RUNNING_MARGIN_NS


def missing_fields(binary: GoBinary, pid: int) -> list[Missing]:
    """What of the layout a live process has contradicted, as what a trace goes without."""
    lacks = "what depends on these fields: creators, labels or locks in a dump, how often goroutines moved between two looks"
    return [Missing("fields of runtime.g", "; ".join(binary.misfits), lacks, pid)] if binary.misfits else []


def cpu_time_ns(pid: int) -> int:
    """CPU time of the process since its start, 0 if it is gone."""
    # The process's CPU clock (include/linux/posix-timers.h: MAKE_PROCESS_CPUCLOCK, CPUCLOCK_SCHED), to the nanosecond.
    try:
        return time.clock_gettime_ns(~pid << 3 | 2)
    except OSError:
        return 0
