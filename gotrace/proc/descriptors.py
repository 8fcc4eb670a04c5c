"""What a process's open descriptors are, as /proc shows them now.

No file system is asked: the target may be blocked on one that does not answer (a network file system, FUSE), and asking for the
attributes of a file there would block as well. Names are those of the links /proc/PID/fd/N, inode and mount are in
/proc/PID/fdinfo/N, device and type of the mount in /proc/PID/mountinfo; the kernel has all of these in memory (proc(5)).
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import os
import stat
import struct
import time
from dataclasses import dataclass
from functools import lru_cache

from gotrace.proc.memory import living_thread

_MOST = 4096
_MOST_UNIX = 1 << 16
_MOST_MOUNTS = 1 << 17
_LONGEST = 4096

LOCAL = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "ramfs", "devtmpfs", "overlay"))
"""File systems whose in-memory inode tells a file's type, without asking anything else."""
_AT_FDCWD, _AT_STATX_DONT_SYNC, _STATX_TYPE, _STATX_INO = -100, 0x4000, 0x1, 0x100
_FAMILIES = {"UNIX": 1, "UNIX-STREAM": 1, "NETLINK": 16, "PACKET": 17, "AF_VSOCK": 40}
"""AF_* by the names of net/*: struct proto."""


@dataclass(frozen=True)
class OpenFile:
    """The file behind a descriptor. `name` is the text of its link; `mode`, `ino` and `dev` (in the kernel's own encoding, as
    super_block.s_dev) are 0 if they can't be known without asking a file system. `family`: of a socket that is not an internet socket."""

    name: str
    mode: int = 0
    ino: int = 0
    dev: int = 0
    family: int = 0


@dataclass(frozen=True)
class Mount:
    """A line of /proc/PID/mountinfo."""

    dev: int
    kind: str
    path: str


def open_file(pid: int, fd: int) -> OpenFile | None:
    """What descriptor `fd` of process `pid` is now, None if it is closed. Never waits for a file system."""
    pid = living_thread(pid) or pid  # a main thread that has ended has no descriptors any more
    path = f"/proc/{pid}/fd/{fd}"
    try:
        name = os.readlink(path)
        facts = _fdinfo(pid, fd)
        if not name.startswith("/"):  # socket:[1], pipe:[2], anon_inode:[eventpoll]: the kernel's own, in memory
            status = os.stat(path)
            family = _family(path) if stat.S_ISSOCK(status.st_mode) else 0
            return OpenFile(name, status.st_mode, status.st_ino, _kernel_dev(os.major(status.st_dev), os.minor(status.st_dev)), family)
    except OSError:
        return None
    mount = mount_of(pid, facts["mnt_id"]) if "mnt_id" in facts else None
    mode, ino = 0, facts.get("ino", 0)
    if mount is not None and mount.kind in LOCAL:
        mode, seen = _cached_type(path)
        ino = ino or seen
    return OpenFile(name, mode, ino, mount.dev if mount is not None else 0)


def _fdinfo(pid: int, fd: int) -> dict[str, int]:
    """`mnt_id` (from Linux 3.15) and `ino` (from 5.14)."""
    file = os.open(f"/proc/{pid}/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = os.read(file, _LONGEST)
    finally:
        os.close(file)
    found = {}
    for line in head.split(b"\n"):
        key, _, value = line.partition(b":")
        if key in (b"mnt_id", b"ino") and value.strip().isdigit():
            found[key.decode()] = int(value)
    return found


def mount_of(pid: int, mount: int) -> Mount | None:
    """The mount with that number in the namespace of process `pid`; None if there is none (a memfd's mount is internal to the kernel)."""
    return _mount(pid, mount, int(time.monotonic()))


def mount_of_open(pid: int, own_fd: int) -> Mount | None:
    """The mount that holds the file of our descriptor, in the namespace of process `pid`."""
    found = _fdinfo(os.getpid(), own_fd).get("mnt_id")
    return mount_of(pid, found) if found is not None else None


def file_key(own_fd: int) -> tuple[int, int] | None:
    """(mount, inode) of the file of our descriptor, without asking its file system; None before Linux 5.14."""
    facts = _fdinfo(os.getpid(), own_fd)
    return (facts["mnt_id"], facts["ino"]) if len(facts) == 2 else None


@lru_cache(256)
def _mount(pid: int, wanted: int, _second: int) -> Mount | None:
    mark = b"%d" % wanted
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{living_thread(pid) or pid}/mountinfo", "rb") as file:
        for _, line in zip(range(_MOST_MOUNTS), file, strict=False):
            # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
            fields = line.split()
            if fields[0] == mark:
                major, _, minor = fields[2].partition(b":")
                kind = fields[fields.index(b"-") + 1]
                return Mount(_kernel_dev(int(major), int(minor)), os.fsdecode(kind), os.fsdecode(fields[4]))
    return None


def _kernel_dev(major: int, minor: int) -> int:
    return (major << 20 | minor) & 0xFFFFFFFF  # include/linux/kdev_t.h: MKDEV


def _cached_type(path: str) -> tuple[int, int]:
    """(file type, inode) as the kernel remembers them (statx(2): AT_STATX_DONT_SYNC), zeros if it does not."""
    try:
        statx = ct.CDLL(None).statx
    except AttributeError:  # a C library older than this call
        return 0, 0
    found = ct.create_string_buffer(256)
    if statx(_AT_FDCWD, path.encode(), _AT_STATX_DONT_SYNC, _STATX_TYPE | _STATX_INO, found):
        return 0, 0
    return struct.unpack_from("<H", found, 28)[0], struct.unpack_from("<Q", found, 32)[0]  # stx_mode, stx_ino


def _family(path: str) -> int:
    try:
        return _FAMILIES.get(os.getxattr(path, "system.sockprotoname").rstrip(b"\0").decode(), 0)
    except (OSError, ValueError):
        return 0


class Descriptors:
    """Names of the files behind descriptors of process `pid`, remembered by inode while they are open."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._names: dict[tuple[int, int], str] = {}
        self._unix: dict[int, str] = {}
        self._unix_again = 0.0

    def name(self, fd: int, ino: int) -> str:
        """The path (or ``pipe:[n]``, ``anon_inode:[eventfd]``) behind `fd`; "" if it is not inode `ino` any more.

        For a unix socket, its bound path or its peer's, if there is one.
        """
        known = self._names.get((fd, ino))
        if known is None:
            known = self._look_up(fd, ino)
            if known and len(self._names) < _MOST:
                self._names[fd, ino] = known
        return known

    def _look_up(self, fd: int, ino: int) -> str:
        file = open_file(self._pid, fd)
        if file is None or file.ino != ino:
            return ""
        return self.unix_path(ino) or file.name if file.name.startswith("socket:") else file.name

    def unix_path(self, ino: int) -> str:
        """The path that the unix socket with that inode is bound to, "" if none. For an unknown inode the list is read again, at most once
        a second."""
        if ino not in self._unix and time.monotonic() >= self._unix_again:
            self._unix_again = time.monotonic() + 1
            try:
                with open(f"/proc/{living_thread(self._pid) or self._pid}/net/unix", encoding="utf-8", errors="replace") as file:
                    for line in file:
                        fields = line.split(None, 7)
                        if len(fields) == 8 and fields[6].isascii() and fields[6].isdigit() and len(self._unix) < _MOST_UNIX:
                            self._unix[int(fields[6])] = fields[7].rstrip("\n")
            except OSError:
                pass
        return self._unix.get(ino, "")
