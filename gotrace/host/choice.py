"""Which processes a command line means: TARGET is a pid, or what a name, a container or a control group selects."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import partial

from gotrace.common.errors import GotraceError, Refused, UsageError
from gotrace.host.listing import Host, pids
from gotrace.proc.cgroups import container_of, groups_of, is_in
from gotrace.proc.memory import living_thread
from gotrace.proc.process import read_short

_SHORTEST_ID = 8
_SHOWN = 16


@dataclass(frozen=True)
class Wanted:
    """`pids` as they were given, or a selection: all of `name` (a regular expression), `container` (the beginning of an id) and `cgroup` (a
    path) that are not ""."""

    pids: tuple[int, ...] = ()
    name: str = ""
    container: str = ""
    cgroup: str = ""

    @property
    def selects(self) -> bool:
        """Whether it is a selection."""
        return bool(self.name or self.container or self.cgroup)

    def __str__(self) -> str:
        flags = (("--name", self.name), ("--container", self.container), ("--cgroup", self.cgroup))
        return " ".join(f"{flag} {value}" for flag, value in flags if value)


def chosen(wanted: Wanted, verb: str, several: bool = False) -> tuple[int, ...]:
    """Returns the pids that are meant, ascending where they were selected; exactly one unless `several`.

    Raises:
        UsageError: nothing is meant, a pid and a selection are given, or a selection makes no sense.
        Refused: the selection is of several processes and the verb takes one, or none of its processes is Go's.
        GotraceError: no process is selected.
    """
    if wanted.pids and wanted.selects:
        raise UsageError(f"a pid and {wanted} are both given", "give one of them")
    if wanted.pids:
        return wanted.pids
    if not wanted.selects:
        hint = f"gotrace {verb} PID, or --name REGEX, --container ID, --cgroup PATH; gotrace ps lists them"
        raise UsageError("no process is given", hint)
    host = Host()
    matching = selected(wanted)
    found = tuple(pid for pid in matching if host.is_go(pid))
    if not found:
        raise _none(wanted, matching, host)
    if len(found) > 1 and not several:
        named = ", ".join(f"{pid} ({shown_name(pid)})" for pid in found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
        raise Refused(f"{wanted} selects {len(found)} Go processes: {named}; {verb} takes one", f"gotrace {verb} {found[0]}")
    return found


def selected(wanted: Wanted) -> list[int]:
    """The pids of all processes, Go's or not, that a selection is of.

    Raises:
        UsageError: the selection makes no sense.
    """
    tests = []
    if wanted.name:
        try:
            tests.append(partial(_is_named, re.compile(wanted.name)))
        except re.error as error:
            raise UsageError(f"--name {wanted.name} is no regular expression: {error}", "--name 'api|worker'") from None
    if wanted.container:
        if len(wanted.container) < _SHORTEST_ID:
            raise UsageError(f"--container {wanted.container} is too short: at least {_SHORTEST_ID} characters are needed", "gotrace ps")
        tests.append(partial(_is_of_container, wanted.container))
    if wanted.cgroup:
        tests.append(partial(_is_of_cgroup, wanted.cgroup))
    return [pid for pid in pids() if all(test(pid) for test in tests)]


def _is_named(pattern: re.Pattern[str], pid: int) -> bool:
    return any(pattern.search(name) for name in _names(pid))


def _is_of_container(beginning: str, pid: int) -> bool:
    container = container_of(groups_of(pid))
    return any(known.startswith(beginning) for known in (container.id, container.pod))


def _is_of_cgroup(path: str, pid: int) -> bool:
    return is_in(groups_of(pid), path)


def _names(pid: int) -> list[str]:
    """Its comm, and the base name of its executable, which /proc does not tell of a main thread that has ended."""
    found = [read_short(f"/proc/{pid}/comm").decode("utf-8", "replace").rstrip("\n")]
    try:
        link = os.readlink(f"/proc/{pid}/exe")
    except FileNotFoundError:
        link = _link_of_other(pid)
    except OSError:
        link = ""
    found.append(os.path.basename(link.removesuffix(" (deleted)")))
    return [name for name in found if name]


def _link_of_other(pid: int) -> str:
    thread = living_thread(pid)
    try:
        return os.readlink(f"/proc/{thread}/exe") if thread not in (0, pid) else ""
    except OSError:
        return ""


def shown_name(pid: int) -> str:
    """The name of the process's executable, else its comm."""
    names = _names(pid)
    return names[-1] if names else "?"


def _none(wanted: Wanted, matching: list[int], host: Host) -> GotraceError:
    hidden = [pid for pid in matching if pid in host.refused]
    if hidden:
        return Refused(
            f"{wanted} selects {len(hidden)} process{'es' * (len(hidden) > 1)} that may not be examined by uid {os.geteuid()}",
            "call gotrace as root",
        )
    if matching:
        named = ", ".join(f"{pid} ({shown_name(pid)})" for pid in matching[:_SHOWN])
        return Refused(f"{wanted} selects no Go process, but {named}", "gotrace ps lists the Go processes")
    return GotraceError(f"{wanted} selects no process", "gotrace ps lists the Go processes")
