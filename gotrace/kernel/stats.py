"""The kernel's own accounting of BPF programs: how often each ran, how long, and how many hits it had to skip."""

from __future__ import annotations

import ctypes as ct
import os
import struct
from dataclasses import dataclass

from gotrace.kernel.bpf import bpf

_BPF_OBJ_GET_INFO_BY_FD = 15
_BPF_ENABLE_STATS = 32
_BPF_STATS_RUN_TIME = 0


@dataclass(frozen=True)
class ProgramStats:
    """`runs` and `run_ns` count only while `enable_stats` is on; `missed` always counts (Linux 5.12)."""

    runs: int
    run_ns: int
    missed: int


class _Info(ct.Structure):
    # struct bpf_prog_info (include/uapi/linux/bpf.h) up to recursion_misses
    _fields_ = [("head", ct.c_uint8 * 192), ("run_ns", ct.c_uint64), ("runs", ct.c_uint64), ("missed", ct.c_uint64)]


def program_stats(fd: int) -> ProgramStats:
    """The accounting of the program `fd`; zeros if the kernel does not tell."""
    info = _Info()
    if bpf(_BPF_OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, ct.sizeof(info), ct.addressof(info))) < 0:
        return ProgramStats(0, 0, 0)
    return ProgramStats(info.runs, info.run_ns, info.missed)


def enable_stats() -> int | None:
    """Has the kernel time BPF programs until the returned descriptor is closed; None if it can't (Linux 5.8)."""
    fd = bpf(_BPF_ENABLE_STATS, struct.pack("<I", _BPF_STATS_RUN_TIME))
    return fd if fd >= 0 else None


def close(fd: int | None) -> None:
    """Closes a descriptor of `enable_stats`."""
    if fd is not None:
        os.close(fd)
