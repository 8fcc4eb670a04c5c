"""Whether a process can run at all: a signal, a debugger or a freezer may have stopped it."""

from __future__ import annotations

from dataclasses import dataclass

from gotrace.proc.cgroups import groups_of, is_frozen
from gotrace.proc.process import read_short


@dataclass(frozen=True)
class Stopped:
    """`words` are at most three, for a table. `text` continues a sentence about the process; `remedy` is a command, "" if there is none."""

    words: str
    text: str
    remedy: str = ""


def stopped(pid: int) -> Stopped | None:
    """Why the process does not run: a stop signal, a tracer that has stopped it, or a frozen control group. None if nothing stops it, or if
    it has ended. A tracer that lets it run is none."""
    status = read_short(f"/proc/{pid}/status").decode(errors="replace")
    state, tracer = _value(status, "State")[:1], _value(status, "TracerPid")
    if state == "t" or state == "T" and tracer not in ("", "0"):
        name = read_short(f"/proc/{tracer}/comm").decode(errors="replace").strip() or "another process"
        return Stopped(f"traced by {name.split()[0]}", f"is stopped by its tracer, {name} (pid {tracer})", f"detach {name}")
    if state == "T":
        return Stopped("stopped by signal", "is stopped by a signal (T)", f"kill -CONT {pid}")
    groups = groups_of(pid)
    if is_frozen(groups):
        return Stopped("cgroup is frozen", "is in a frozen cgroup", "thaw the cgroup (docker unpause, or 0 in cgroup.freeze)")
    return None


def note_of_stop(pid: int) -> str:
    """A sentence on a process that is stopped, "" if it runs."""
    found = stopped(pid)
    if found is None:
        return ""
    how = f"; to let it run: {found.remedy}" if found.remedy else ""
    return f"process {pid} {found.text}: nothing in it runs until that ends{how}"


def _value(status: str, key: str) -> str:
    at = status.find(f"{key}:")
    return status[at + len(key) + 1 :].partition("\n")[0].strip() if at >= 0 else ""
