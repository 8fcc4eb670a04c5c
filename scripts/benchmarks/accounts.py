"""What the kernel says of processes and BPF programs: CPU time, memory, runs."""

from __future__ import annotations

import contextlib
import ctypes as ct
import os
import struct
import threading
from pathlib import Path

from benchmarks.results import ProgramFigures
from gotrace.kernel.bpf import bpf
from gotrace.kernel.program import PROGRAMS, VARIANTS
from gotrace.kernel.stats import ProgramStats, program_stats

_PROG_GET_NEXT_ID, _PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 11, 13, 15
_NAME_AT = 64
"""Of `name` in struct bpf_prog_info (include/uapi/linux/bpf.h)."""


def busy_ns() -> int:
    """How long all CPUs together have not been idle since boot, ns, in steps of a clock tick; includes time that a hypervisor took."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _memory(pid: int, what: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) * 1024
    return 0


def _children(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(name))
    return found


class PeakMemory:
    """The largest resident size of a process and its children together. getrusage would not do: it counts what the process was before
    it called exec, which is this program. It reads only while `watching`, to stay out of what is measured; the
    process's own peak is never missed."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._watching = threading.Event()
        self._over = threading.Event()
        self.bytes = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.watch(True)

    def watch(self, on: bool) -> None:
        """Starts or stops reading ten times a second."""
        self.measure()
        if on:
            self._watching.set()
        else:
            self._watching.clear()

    def measure(self) -> None:
        """Reads once."""
        together = _memory(self._pid, "VmRSS:") + sum(_memory(child, "VmRSS:") for child in _children(self._pid))
        self.bytes = max(self.bytes, _memory(self._pid, "VmHWM:"), together)

    def end(self) -> int:
        """Stops reading and returns the peak."""
        self._over.set()
        self._watching.set()
        self._thread.join()
        return self.bytes

    def _run(self) -> None:
        while not self._over.wait(0.1):
            self._watching.wait()
            self.measure()


# -- BPF programs ------------------------------------------------------------------------------------------------------


def programs() -> dict[int, tuple[str, ProgramStats]]:
    """All BPF programs in the kernel by id: name and accounting."""
    found = {}
    number = 0
    entries = [*PROGRAMS, *VARIANTS]
    while True:
        attr = ct.create_string_buffer(struct.pack("<III", number, 0, 0), 12)
        libc = ct.CDLL(None, use_errno=True)
        if libc.syscall(321, _PROG_GET_NEXT_ID, attr, 12) < 0:
            return found
        number = struct.unpack_from("<I", attr, 4)[0]
        fd = bpf(_PROG_GET_FD_BY_ID, struct.pack("<III", number, 0, 0))
        if fd < 0:
            continue
        try:
            info = ct.create_string_buffer(_NAME_AT + 16)
            if bpf(_OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, len(info), ct.addressof(info))) >= 0:
                name = info.raw[_NAME_AT:].split(b"\0")[0].decode("ascii", "replace")
                # The kernel keeps 15 letters.
                full = [entry for entry in entries if entry.startswith(name)] if len(name) == 15 else []
                found[number] = full[0] if len(full) == 1 else name, program_stats(fd)
        finally:
            os.close(fd)


def programs_of(pid: int) -> set[int]:
    """The ids of the BPF programs that a process holds; others may trace on this machine too."""
    found = set()
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fdinfo"):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines():
                    if line.startswith("prog_id:"):
                        found.add(int(line.split()[1]))
    return found


def between(before: dict[int, tuple[str, ProgramStats]], after: dict[int, tuple[str, ProgramStats]], seconds: float) -> list[ProgramFigures]:
    """What each program of `after` did since `before`; programs with the same name count as one."""
    sums: dict[str, tuple[int, int]] = {}
    for number, (name, stats) in after.items():
        old = before[number][1] if number in before else ProgramStats(0, 0, 0)
        runs, run_ns = sums.get(name, (0, 0))
        sums[name] = runs + stats.runs - old.runs, run_ns + stats.run_ns - old.run_ns
    return [ProgramFigures(name, runs / seconds, run_ns / runs) for name, (runs, run_ns) in sums.items() if runs]
