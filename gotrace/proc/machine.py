"""What the kernel tells of the machine as a whole."""

from __future__ import annotations

import os

from gotrace.proc.process import read_short


def stolen_ns() -> int:
    """CPU time that a hypervisor gave to others although this machine wanted it: of all CPUs, since it started, in steps of a clock tick.
    0 where it is not told (proc(5), /proc/stat: the eighth figure of the first line)."""
    try:
        figures = read_short("/proc/stat").split(b"\n", 1)[0].split()
        return int(figures[8]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0
