"""Moments at which nobody else has the capture's file open, in which its pages can be replaced: a plain copy then never has pages of two
moments.

The kernel gives the means, a lease (fcntl(2)): it grants one only while no other descriptor is open on the file, and lets whoever opens
the file afterwards wait until the lease is given back. It takes the file's owner or CAP_LEASE, and a local file system.
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
"""Of ``-shm``: every SQLite connection to a database with a write-ahead log has it locked (https://sqlite.org/walformat.html)."""
_FLOCK = struct.Struct("@hhqqi0q")


class Alone:
    """Of the file `path` that this process has open once, through SQLite."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = _descriptor(path)

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Whoever opens the file meanwhile waits. False: others have it open already, it is not held. True also where the file system
        knows no leases."""
        fd, leased, refused = self._fd, False, False
        if fd is not None:
            try:
                # Who waits is told of by a signal, by default one that would end us.
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
        # Through SQLite's own descriptor: to close another of the same file would take its locks from it.
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
    """That by which this process has the file open, the only one; else None."""
    found = []
    with contextlib.suppress(OSError):
        file = os.stat(path)
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                one = os.fstat(int(name))
                if (one.st_dev, one.st_ino) == (file.st_dev, file.st_ino):
                    found.append(int(name))
    return found[0] if len(found) == 1 else None
