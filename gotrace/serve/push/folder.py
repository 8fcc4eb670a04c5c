"""Pushes into a folder: pprof files, the oldest of which make room for the latest."""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from gotrace.common.errors import GotraceError
from gotrace.common.files import as_invoking_user, make_folder, write
from gotrace.serve.push.sender import Counts

_OURS = re.compile(r"offcpu-\d{8}T\d{6}\.\d{3}-[A-Za-z0-9._-]{1,32}-\d{1,10}\.pb\.gz")
_FILE_MODE, _FOLDER_MODE = 0o600, 0o700


class Folder:
    """The folder, used by one thread. `deleted`: files that made room; `dropped`: profiles that could not be written; `size`: bytes of
    those that are there; `problem`: why nothing can be written now, "" if it can."""

    def __init__(self, path: Path, most_bytes: int, say: Callable[[str], None]) -> None:
        """
        Raises:
            GotraceError: it can't be made.
        """
        self.path, self.counts, self.problem = path, Counts(), ""
        self.deleted = self.dropped = self.size = 0
        self._most, self._say = most_bytes, say
        try:
            make_folder(path, _FOLDER_MODE)
            self._files = deque(sorted(self._found()))
        except OSError as error:
            raise GotraceError(f"--push directory={path} can't be made: {error.strerror}", "another one: --push directory=PATH") from None
        self.size = sum(size for _, size in self._files)
        self._make_room()

    def put(self, body: bytes, name: str, pid: int, begin_ns: int) -> None:
        """Writes a profile of a process, which begins at `begin_ns` (since 1970)."""
        at = datetime.fromtimestamp(begin_ns / 1e9, timezone.utc)
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:32] or "go"
        path = self.path / f"offcpu-{at:%Y%m%dT%H%M%S}.{at.microsecond // 1000:03d}-{safe}-{pid}.pb.gz"
        try:
            write(path, body, False, _FILE_MODE)
        except GotraceError as error:
            self.dropped += 1
            self.counts.failed_attempts += 1
            if self.problem != str(error):
                self.problem = str(error)
                self._say(f"push directory: {self.problem}")
        else:
            self.counts.pushed += 1
            self._files.append((path.name, len(body)))
            self.size += len(body)
            if self.problem:
                self._say("push directory: profiles are written again")
            self.problem = ""
        self._make_room()

    def _found(self) -> Iterator[tuple[str, int]]:
        """The files of ours that are there, with their sizes."""
        with as_invoking_user(self.path):
            for entry in os.scandir(self.path):
                with suppress(FileNotFoundError):
                    if _OURS.fullmatch(entry.name) and stat.S_ISREG((status := entry.stat(follow_symlinks=False)).st_mode):
                        yield entry.name, status.st_size

    def _make_room(self) -> None:
        """Deletes the oldest files of ours until the rest is small enough; the latest stays."""
        while self.size > self._most and len(self._files) > 1:
            name, size = self._files.popleft()
            self.size -= size
            with suppress(OSError), as_invoking_user(self.path):
                os.unlink(self.path / name)
                self.deleted += 1
