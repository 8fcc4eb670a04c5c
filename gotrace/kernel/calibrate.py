"""What one probe hit costs on this host: a self-test on a few bytes of code of our own, before the target is touched."""

from __future__ import annotations

import ctypes as ct
import mmap
import os
import tempfile
import time

from gotrace.kernel.bpf import EXIT_0, ProgramType, load_program
from gotrace.kernel.perf_event import open_uprobe

# f(n): 1: push %rbp; pop %rbp; dec %rdi; jnz 1b; ret. The probed push is emulated, as the probes on the target are.
_LOOP = bytes.fromhex("55 5d 48 ff cf 75 f9 c3")
_ROUNDS = 4000


def trap_cost_ns() -> int | None:
    """Nanoseconds that one hit with an empty program costs here; None where it can't be measured."""
    try:
        return measure_trap_ns()
    except (OSError, ValueError):
        return None


def measure_trap_ns() -> int:
    """As `trap_cost_ns`, but raises OSError where a probe on our own process does not work."""
    # Executable memory must be a file for a uprobe; a memfd would do for the mapping, but has no path to probe.
    with tempfile.NamedTemporaryFile(prefix="gotrace-calibrate-") as file:
        file.write(_LOOP.ljust(mmap.PAGESIZE, b"\0"))
        file.flush()
        code = mmap.mmap(file.fileno(), mmap.PAGESIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
        try:
            address = _address_of(file.name)
            loop = ct.CFUNCTYPE(None, ct.c_long)(address)
            bare = _time(loop)
            program = load_program(ProgramType.KPROBE, EXIT_0, "empty")
            try:
                probe = open_uprobe(file.name, 0, os.getpid(), program)
                try:
                    probed = _time(loop)
                finally:
                    os.close(probe)
            finally:
                os.close(program)
        finally:
            code.close()
    return max(0, probed - bare)


def _address_of(path: str) -> int:
    with open("/proc/self/maps") as maps:
        for line in maps:
            if line.rstrip().endswith(path):
                return int(line.split("-")[0], 16)
    raise OSError("the calibration code is not mapped")


def _time(loop) -> int:
    loop(_ROUNDS // 10)
    best = None
    for _ in range(3):
        start = time.perf_counter_ns()
        loop(_ROUNDS)
        spent = (time.perf_counter_ns() - start) // _ROUNDS
        best = spent if best is None else min(best, spent)
    return best
