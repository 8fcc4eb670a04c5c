"""The control groups of a process: its container, its CPU quota, whether it is frozen (cgroups(7)).

Paths are those of /proc/PID/cgroup; their folders are looked for below the mounts of our own namespace.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from gotrace.proc.process import read_short

_MOST_LINES, _MOST_LEVELS = 64, 64
_LONGEST_FILE = 1 << 16
_CONTAINER = re.compile(r"(?:^|[-_.:/])([0-9a-f]{64})(?:$|[-_.:/])")
_TASK = re.compile(r"^([0-9a-f]{32}-\d{1,20})$")
_POD = re.compile(r"(?:^|[-/])pod([0-9a-f]{8}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{12})(?:\.slice)?(?:$|[/:])")
_MACHINE = re.compile(r"(?:^|/)(?:machine-([^/]+)\.scope|lxc(?:\.payload)?[./]([^/]+))(?=$|/)")
_OWN_MOUNTS_S = 1


class Group(NamedTuple):
    """A line of /proc/PID/cgroup. `controllers` is empty for the one hierarchy of version 2."""

    version: int
    controllers: frozenset[str]
    path: str


@dataclass(frozen=True)
class Container:
    """`id` is the container's, "" if there is none; `pod` is the uid of its Kubernetes pod, "" outside Kubernetes."""

    id: str = ""
    pod: str = ""


@dataclass(frozen=True)
class Quota:
    """The smallest CPU quota of a group and those above it: `cpus` may be fractional. `throttled_ns` is how long the group that has it was
    throttled since it was made, `throttled` in how many periods; None where the kernel does not say. `group` tells that group from others,
    also from an earlier one of its name: device and inode of its folder."""

    cpus: float
    throttled_ns: int | None = None
    throttled: int | None = None
    group: tuple[int, int] = (0, 0)


def groups_of(pid: int) -> list[Group]:
    """The groups of a process, one for each hierarchy; [] if it has ended."""
    found = []
    text = read_short(f"/proc/{pid}/cgroup", _LONGEST_FILE).decode(errors="surrogateescape")
    for line in text.splitlines()[:_MOST_LINES]:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = frozenset(controllers.split(",")) - {""}
        found.append(Group(1 if names else 2, names, path.removesuffix(" (deleted)")))
    return found


def main_path(groups: list[Group]) -> str:
    """The path to show for a process: that of version 2, else systemd's, else the longest; "" if there is none."""
    for group in groups:
        if group.version == 2 and group.path != "/":
            return group.path
    for group in groups:
        if "name=systemd" in group.controllers and group.path != "/":
            return group.path
    return max((group.path for group in groups), key=len, default="")


def container_of(groups: list[Group]) -> Container:
    """The container as container engines name their groups: 64 hexadecimal digits (docker-ID.scope, cri-containerd-ID.scope, crio-ID.scope,
    libpod-ID.scope, /docker/ID, /kubepods/.../ID), the task of ECS, or a machine's name (systemd-nspawn, LXC)."""
    best = Container()
    for group in groups:
        found = _container(group.path)
        if (bool(found.id), bool(found.pod)) > (bool(best.id), bool(best.pod)):
            best = found
    return best


@lru_cache(4096)
def _container(path: str) -> Container:
    pods = _POD.findall(path)
    pod = pods[-1].replace("_", "-") if pods else ""
    ids = _CONTAINER.findall(path)
    if ids:
        return Container(ids[-1], pod)
    for part in reversed(path.split("/")):
        if (task := _TASK.match(part)) is not None:
            return Container(task.group(1), pod)
    machines = _MACHINE.findall(path)
    if machines:
        return Container("".join(machines[-1]).replace("\\x2d", "-"), pod)
    return Container("", pod)


def is_in(groups: list[Group], path: str) -> bool:
    """Whether one of the groups is `path` or below it. `path` is as in /proc/PID/cgroup, or a folder below a mount of cgroups."""
    wanted = _without_mount(path)
    return any(_is_below(group.path, wanted) for group in groups)


def _without_mount(path: str) -> str:
    for version_mounts in mounts().values():
        for mount in version_mounts:
            if path == mount or path.startswith(mount + "/"):
                return "/" + path[len(mount) :].strip("/")
    return "/" + path.strip("/")


def _is_below(path: str, top: str) -> bool:
    return top == "/" or path == top or path.startswith(top + "/")


def quota_of(groups: list[Group]) -> Quota | None:
    """The CPU quota of the process, None if it has none."""
    found: Quota | None = None
    for folder, version in _folders(groups, "cpu"):
        here = _quota_v1(folder) if version == 1 else _quota_v2(folder)
        if here is not None and (found is None or here.cpus < found.cpus):
            found = here
    return found


def _quota_v1(folder: str) -> Quota | None:
    quota, period = (_number(f"{folder}/cpu.cfs_{name}_us") for name in ("quota", "period"))
    if quota is None or period is None or quota <= 0 or period <= 0:
        return None
    return _with_throttling(quota / period, folder, "throttled_time", 1)


def _quota_v2(folder: str) -> Quota | None:
    words = read_short(f"{folder}/cpu.max").split()
    if len(words) != 2 or not words[0].isdigit() or not words[1].isdigit() or not int(words[1]):
        return None
    return _with_throttling(int(words[0]) / int(words[1]), folder, "throttled_usec", 1000)


def _with_throttling(cpus: float, folder: str, key: str, unit_ns: int) -> Quota:
    said = {words[0]: int(words[1]) for line in read_short(f"{folder}/cpu.stat").decode(errors="replace").splitlines()
            if len(words := line.split()) == 2 and words[1].isdigit()}
    group = 0, 0
    with suppress(OSError):
        status = os.stat(folder)
        group = status.st_dev, status.st_ino
    return Quota(cpus, said[key] * unit_ns if key in said else None, said.get("nr_throttled"), group)


def is_frozen(groups: list[Group]) -> bool:
    """Whether a group of the process, or one above, is frozen."""
    for folder, version in _folders(groups, "freezer"):
        if version == 1:
            if read_short(f"{folder}/freezer.state").strip() in (b"FROZEN", b"FREEZING"):
                return True
        elif b"frozen 1" in read_short(f"{folder}/cgroup.events"):
            return True
    return False


def _folders(groups: list[Group], controller: str) -> Iterator[tuple[str, int]]:
    """(folder, version) of each group of that controller and those above it, the lowest first."""
    for group in groups:
        if group.version == 1 and controller not in group.controllers:
            continue
        for top in mounts().get("" if group.version == 2 else controller, ()):
            inside = group.path
            for _ in range(_MOST_LEVELS):
                yield top + inside, group.version
                if not inside.strip("/"):
                    break
                inside = inside.rpartition("/")[0]


def mounts() -> dict[str, list[str]]:
    """Mount points of cgroup hierarchies in our own namespace, by controller; "" is that of version 2."""
    return _mounts_at(int(time.monotonic() / _OWN_MOUNTS_S), os.getpid())


@lru_cache(1)
def _mounts_at(_second: int, _pid: int) -> dict[str, list[str]]:
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return {}
    found: dict[str, list[str]] = {}
    for line in lines:
        before, _, after = line.partition(" - ")
        words, rest = before.split(" "), after.split(" ")
        if len(words) < 5 or len(rest) < 3:
            continue
        if rest[0] == "cgroup2":
            found.setdefault("", []).append(words[4].rstrip("/"))
        elif rest[0] == "cgroup":
            for controller in rest[2].split(","):
                found.setdefault(controller, []).append(words[4].rstrip("/"))
    return found


def _number(path: str) -> int | None:
    text = read_short(path).strip()
    return int(text) if text.lstrip(b"-").isdigit() else None
