"""Moments at which no other process has the capture's file open, so that its pages can be replaced: a plain copy then never has pages of
two moments.

The means is a lease (fcntl(2)): the kernel grants one only while no other descriptor is open on the file, and blocks whoever opens the
file afterwards until the lease is given back. It takes the file's owner or CAP_LEASE, and a local file system.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

_F_SETSIG = 10
_SHM_HELD_BYTE = 128
"""A byte of ``-shm`` that every SQLite connection to a database with a write-ahead log locks (https://sqlite.org/walformat.html)."""
_FLOCK = struct.Struct("@hhqqi0q")


class Alone:
    """The file `path`, which this process has open once, through SQLite."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = _descriptor(path)

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Blocks whoever opens the file meanwhile. Yields False if others have it open already and it is not held. Also True if the file
        system has no leases."""
        fd, leased, refused = self._fd, False, False
        if fd is not None:
            try:
                # A signal reports that someone waits; the default one would end us.
                fcntl.fcntl(fd, _F_SETSIG, signal.SIGURG)
                fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
                leased = True
            except OSError as error:
                refused = error.errno in (errno.EAGAIN, errno.EBUSY)
        try:
            yield not refused
        finally:
            if fd is not None and leased:
                with contextlib.suppress(OSError):
                    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    def read_by_sqlite(self) -> bool:
        """Whether another process has the file open as a database."""
        # Through SQLite's own descriptor: closing another one of the same file would drop SQLite's locks.
        fd = _descriptor(Path(f"{self._path}-shm"))
        if fd is None:
            return False
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _SHM_HELD_BYTE, 1, 0)
            kind: int = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))[0]
            return kind != fcntl.F_UNLCK
        except OSError:
            return False


def _descriptor(path: Path) -> int | None:
    """The descriptor by which this process has the file open, if there is exactly one; else None."""
    found = []
    with contextlib.suppress(OSError):
        file = os.stat(path)
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                one = os.fstat(int(name))
                if (one.st_dev, one.st_ino) == (file.st_dev, file.st_ino):
                    found.append(int(name))
    return found[0] if len(found) == 1 else None
