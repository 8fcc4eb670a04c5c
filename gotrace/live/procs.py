"""GOMAXPROCS of a process: how many Ps there are."""

from __future__ import annotations

from gotrace.proc.memory import Memory

_MOST = 1 << 16


def number_of_procs(memory: Memory, allp: int | None) -> int | None:
    """The length of runtime.allp, a slice at run-time address `allp`; None if that is not known, or is no number of Ps. It is GOMAXPROCS:
    when that changes, procresize cuts the slice or lets it grow (runtime/proc.go).

    Raises:
        ProcessLookupError, PermissionError: the memory can't be read.
    """
    found = memory.u64(allp + 8) if allp is not None else None
    return found if found and found <= _MOST else None
