"""The files below an overlayfs mount. A process that was started before its executable was copied up still runs the lower file, while
its path, and /proc/PID/exe, lead to the upper one."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LAYERS = 512
_CANDIDATES = 4096


@dataclass(frozen=True)
class Mount:
    """One line of /proc/PID/mountinfo (proc_pid_mountinfo(5)): `root` is the part of the file system that is mounted at `point`."""

    root: str
    point: str
    fstype: str
    options: str


def mount_of(pid: int, fd: int, path: str) -> Mount | None:
    """The mount that holds an open file, as process `pid` sees it: by the mount's number, else by `path`. None if it can't be
    found."""
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape").splitlines()
        about = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines() if fd >= 0 else []
        number = next((words[1] for words in map(str.split, about) if words[:1] == ["mnt_id:"]), "")
    except OSError:
        return None
    best = None
    for line in lines:
        before, dash, after = line.partition(" - ")
        words, rest = before.split(" "), after.split(" ")
        if not dash or len(words) < 6 or len(rest) < 3:
            continue
        mount = Mount(_unescape(words[3]), _unescape(words[4]), rest[0], rest[2])
        if words[0] == number:
            return mount
        # Of several mounts at one place the last one is on top.
        if (path + "/").startswith(mount.point.rstrip("/") + "/") and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def lower_files(pid: int, mount: Mount, exe: str, exe_fd: int) -> Iterator[int]:
    """Descriptors of the files that may be below `exe`, uppermost first: of the same size, but not the same file. The caller closes each.
    Skips layers that can't be reached from here."""
    size, device, inode = _identity(exe_fd)
    seen = {(device, inode)}
    for number, path in enumerate(_paths(pid, mount, exe)):
        if number >= _CANDIDATES:
            return
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError):
            continue
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size or (status.st_dev, status.st_ino) in seen:
            os.close(fd)
            continue
        seen.add((status.st_dev, status.st_ino))
        yield fd


def lower_layers(options: str) -> list[str]:
    """The folders of the `lowerdir` options of an overlay, uppermost first."""
    found: list[str] = []
    for option in options.split(","):
        name, equals, value = option.partition("=")
        if not equals or name not in ("lowerdir", "lowerdir+", "datadir+"):
            continue
        value = _unescape(value)
        # The kernel's own escapes: a backslash precedes a colon or a backslash in a name (fs/overlayfs/params.c).
        layers = re.split(r"(?<!\\):+", value) if name == "lowerdir" else [value]
        found += [re.sub(r"\\(.)", r"\1", layer) for layer in layers if layer]
    return found[:_LAYERS]


def _paths(pid: int, mount: Mount, exe: str) -> Iterator[str]:
    within = exe
    if exe.startswith(mount.point.rstrip("/") + "/"):
        within = exe[len(mount.point.rstrip("/")) :]
    insides = [mount.root.rstrip("/") + within]
    # The path of an executable in another root may have a beginning that the mount point lacks.
    parts = exe.strip("/").split("/")
    insides += ["/" + "/".join(parts[at:]) for at in range(min(len(parts), 32))]
    insides = list(dict.fromkeys(insides))
    # Layers have the names that the mounting process saw: from its root, or relative to its directory.
    roots = list(dict.fromkeys(("", f"/proc/{pid}/root", "/proc/1/root")))
    point = mount.point.rstrip("/")
    bases = [str(parent) for parent in Path(point or "/").parents] + ["/var/lib/docker/overlay2"]
    for layer in lower_layers(mount.options):
        for inside in insides:
            if layer.startswith("/"):
                yield from (f"{root}{layer}{inside}" for root in roots)
            else:
                yield from (f"{root}{base.rstrip('/')}/{layer}{inside}" for base in bases for root in roots)
                yield f"/proc/{pid}/cwd/{layer}{inside}"


def _identity(fd: int) -> tuple[int, int, int]:
    status = os.fstat(fd)
    return status.st_size, status.st_dev, status.st_ino


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8) & 0xFF), text)
