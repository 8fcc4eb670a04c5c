"""The Go processes of the host as `gotrace ps` shows them. Nothing is stopped: all is from /proc and from the processes' memory."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from gotrace.host.executables import Executable, Executables, Places
from gotrace.live.procs import number_of_procs
from gotrace.live.states import states_of
from gotrace.proc.cgroups import container_of, groups_of, main_path, quota_of
from gotrace.proc.memory import Memory, has_ended, living_thread
from gotrace.proc.process import auxiliary_vector, entry_of, read_short
from gotrace.proc.stopped import stopped

_SMALLEST_DEFAULT = 2
"""From Go 1.25 on GOMAXPROCS is by default the quota rounded up, and at least this (runtime/cgroup_linux.go: adjustCgroupGOMAXPROCS)."""


@dataclass(frozen=True)
class GoProcess:
    """One process. None and "" stand for what it has not, or what can't be read. `goroutines` are those that live, the runtime's own
    included. `why` has at most three words: why it can't be traced, or what keeps it from running. `procs_against_quota` is ``more`` where
    GOMAXPROCS is more than the CPU quota allows to run (the kernel throttles), ``fewer`` where some of the quota can't be used, else
    ""."""

    pid: int
    comm: str
    exe: str
    go_version: str
    go_version_source: str
    container: str
    pod: str
    cgroup: str
    gomaxprocs: int | None
    cpu_quota: float | None
    procs_against_quota: str
    threads: int
    goroutines: int | None
    traceable: bool
    why: str


class Host:
    """What has been learnt of this host's processes. `refused` are those that we may not examine."""

    def __init__(self) -> None:
        self._executables = Executables()

    @property
    def refused(self) -> set[int]:
        """The processes whose executable we may not read: they may be Go's."""
        return self._executables.refused

    def go_processes(self) -> list[GoProcess]:
        """Every Go process, by pid."""
        return [found for pid in pids() if (found := self.go_process(pid)) is not None]

    def is_go(self, pid: int) -> bool:
        """Whether the process runs a program that Go has made."""
        executable = self._executables.of(pid)
        return executable is not None and executable.go

    def go_process(self, pid: int) -> GoProcess | None:
        """What there is to say of a process, None if it is not Go's, or has ended."""
        executable = self._executables.of(pid)
        if executable is None or not executable.go:
            return None
        stat = read_short(f"/proc/{pid}/stat")
        if b")" not in stat:
            return None
        fields = stat[stat.rindex(b")") + 2 :].split()
        if has_ended(fields) and not living_thread(pid):
            return None
        places = executable.places
        groups = groups_of(pid)
        container, quota = container_of(groups), quota_of(groups)
        procs, goroutines, why = self._from_memory(pid, executable, places)
        traceable = not why
        if traceable and (stop := stopped(pid)) is not None:
            why = stop.words
        cpus = quota.cpus if quota is not None else None
        return GoProcess(
            pid, stat[stat.index(b"(") + 1 : stat.rindex(b")")].decode("utf-8", "replace"), executable.name, executable.version,
            executable.version_source, container.id, container.pod, main_path(groups), procs, cpus, against_quota(procs, cpus),
            int(fields[17]), goroutines, traceable, why,
        )

    def _from_memory(self, pid: int, executable: Executable, places: Places | None) -> tuple[int | None, int | None, str]:
        """(GOMAXPROCS, goroutines, why it can't be traced)."""
        if places is None:
            return None, None, executable.problem or "layout not known"
        entry = entry_of(auxiliary_vector(pid))
        bias = entry - places.entry if entry is not None else -1
        if bias < 0 or bias % 4096:
            return None, None, "not readable"
        memory = Memory(pid)
        try:
            states = states_of(memory, places.allgs + bias, places.status)
            if states is None:
                return None, None, "layout not known"
            procs = number_of_procs(memory, places.allp + bias if places.allp is not None else None)
            return procs, states.living, "" if states.living else "not started yet"
        except PermissionError:
            return None, None, "memory not readable"
        except ProcessLookupError:
            return None, None, "has ended"


def pids() -> list[int]:
    """All processes but this one."""
    own = os.getpid()
    return sorted(pid for name in os.listdir("/proc") if name.isdigit() and (pid := int(name)) != own)


def against_quota(procs: int | None, cpus: float | None) -> str:
    """See `GoProcess`."""
    if procs is None or cpus is None:
        return ""
    if procs > max(math.ceil(cpus), _SMALLEST_DEFAULT):
        return "more"
    return "fewer" if procs < math.floor(cpus) else ""
