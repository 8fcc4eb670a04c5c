"""What a process's open descriptors are called, as /proc shows them now."""

from __future__ import annotations

import os
import time

_MOST = 4096
_MOST_UNIX = 1 << 16


class Descriptors:
    """Names of the files behind descriptors of process `pid`, remembered by inode while they are open."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._names: dict[tuple[int, int], str] = {}
        self._unix: dict[int, str] = {}
        self._unix_again = 0.0

    def name(self, fd: int, ino: int) -> str:
        """The path (or ``pipe:[n]``, ``anon_inode:[eventfd]``) behind `fd`; "" if it is not inode `ino` any more.

        Of a unix socket its bound path or that of its peer's end, where it has one.
        """
        known = self._names.get((fd, ino))
        if known is None:
            known = self._look_up(fd, ino)
            if known and len(self._names) < _MOST:
                self._names[fd, ino] = known
        return known

    def _look_up(self, fd: int, ino: int) -> str:
        path = f"/proc/{self._pid}/fd/{fd}"
        try:
            if os.stat(path).st_ino != ino:
                return ""
            name = os.readlink(path)
        except OSError:
            return ""
        return self.unix_path(ino) or name if name.startswith("socket:") else name

    def unix_path(self, ino: int) -> str:
        """The path that the unix socket with that inode is bound to, "" if none. Read anew for an inode that is not known,
        up to once a second."""
        if ino not in self._unix and time.monotonic() >= self._unix_again:
            self._unix_again = time.monotonic() + 1
            try:
                with open(f"/proc/{self._pid}/net/unix", encoding="utf-8", errors="replace") as file:
                    for line in file:
                        fields = line.split(None, 7)
                        if len(fields) == 8 and fields[6].isascii() and fields[6].isdigit() and len(self._unix) < _MOST_UNIX:
                            self._unix[int(fields[6])] = fields[7].rstrip("\n")
            except OSError:
                pass
        return self._unix.get(ino, "")
