"""What waits to be sent: files in a folder, which outlive gotrace. Bounded in bytes; the oldest makes room for the latest."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gotrace.common.errors import GotraceError, UsageError
from gotrace.common.files import as_invoking_user, make_folder, write

_NAME = re.compile(r"\.?(\d{20}-\d{6})\.([a-z]+[0-9.]{1,20})\.push(?:\.\d+)?")
_MOST_IN_MEMORY = 8 << 20
"""Of what can't be written: the disk is full."""
_FILE_MODE, FOLDER_MODE = 0o600, 0o700


@dataclass(eq=False)
class Entry:
    """A body of `size` bytes in file `name`; `content` is that of one that could not be written."""

    name: str
    size: int
    content: bytes | None = None


class Spool:
    """The queue of one endpoint, in a folder that one gotrace uses at a time; used by one thread. `size` and `waiting`: bytes and entries
    that are in it; `dropped`: how many there was no room for, or that can't be read; `problem`: why entries can't be written, "" if they
    can."""

    def __init__(self, folder: Path, most_bytes: int, form: str) -> None:
        """`form` says what the bodies are: those of another form, of another release, are dropped.

        Raises:
            UsageError: another gotrace uses the folder.
            GotraceError: the folder can't be made or read.
        """
        self.size = self.dropped = 0
        self.problem = ""
        self._folder, self.most_bytes, self._form = folder, most_bytes, form
        self._entries: deque[Entry] = deque()
        self._in_hand: Entry | None = None
        self._number = 0
        try:
            for one in (folder.parent.parent, folder.parent, folder):
                make_folder(one, FOLDER_MODE)
            self._lock = self._locked()
            self._find()
        except OSError as error:
            raise GotraceError(f"{folder} can't be used: {error.strerror}", "another folder: --dir PATH") from None
        self._make_room(0)

    def _locked(self) -> int:
        with as_invoking_user(self._folder):
            fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise UsageError(f"another gotrace pushes what is in {self._folder}", "another folder: --dir PATH") from None
        return fd

    def _find(self) -> None:
        """Takes what an earlier gotrace has left."""
        found = []
        with as_invoking_user(self._folder):
            for entry in os.scandir(self._folder):
                match = _NAME.fullmatch(entry.name)
                if match is None:
                    continue
                status = entry.stat(follow_symlinks=False)
                whole = entry.name == f"{match[1]}.{match[2]}.push" and stat.S_ISREG(status.st_mode)
                if whole and match[2] == self._form:
                    found.append(Entry(entry.name, status.st_size))
                    continue
                os.unlink(entry.path)
                self.dropped += whole
        self._entries.extend(sorted(found, key=lambda one: one.name))
        self.size = sum(entry.size for entry in found)

    @property
    def waiting(self) -> int:
        """How many entries there are."""
        return len(self._entries)

    def put(self, body: bytes) -> None:
        """Adds a body; drops the oldest to make room."""
        if len(body) > self.most_bytes:
            self.dropped += 1
            return
        self._make_room(len(body))
        self._number = (self._number + 1) % 1_000_000
        entry = Entry(f"{time.time_ns():020d}-{self._number:06d}.{self._form}.push", len(body))
        try:
            write(self._folder / entry.name, body, False, _FILE_MODE)
            self.problem = ""
        except GotraceError as error:
            self.problem = str(error)
            if len(body) + sum(len(one.content) for one in self._entries if one.content is not None) > _MOST_IN_MEMORY:
                self.dropped += 1
                return
            entry.content = body
        self._entries.append(entry)
        self.size += entry.size

    def _make_room(self, more: int) -> None:
        while self.size + more > self.most_bytes:
            oldest = next((entry for entry in self._entries if entry is not self._in_hand), None)
            if oldest is None:
                return
            self.dropped += 1
            self._remove(oldest)

    def first(self) -> tuple[Entry, bytes] | None:
        """The oldest, with its body, which stays until it is `done`; None if there is none. One that can't be read is dropped."""
        while self._entries:
            entry = self._entries[0]
            body = entry.content if entry.content is not None else self._read(entry)
            if body is not None:
                self._in_hand = entry
                return entry, body
            self.dropped += 1
            self._remove(entry)
        return None

    def _read(self, entry: Entry) -> bytes | None:
        with suppress(OSError), as_invoking_user(self._folder):
            fd = os.open(self._folder / entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                status = os.fstat(fd)
                if stat.S_ISREG(status.st_mode) and 0 < status.st_size == entry.size:
                    body = file.read(entry.size + 1)
                    return body if len(body) == entry.size else None
        return None

    def done(self, entry: Entry) -> None:
        """It was sent, or will never be."""
        self._in_hand = None
        self._remove(entry)

    def _remove(self, entry: Entry) -> None:
        self._entries.remove(entry)
        self.size -= entry.size
        with suppress(OSError), as_invoking_user(self._folder):
            os.unlink(self._folder / entry.name)

    def close(self) -> int:
        """Lets another gotrace use it. Returns how many entries are lost, as they could not be written."""
        lost = 0
        for entry in self._entries:
            if entry.content is not None:
                try:
                    write(self._folder / entry.name, entry.content, False, _FILE_MODE)
                except GotraceError:
                    lost += 1
        self.dropped += lost
        os.close(self._lock)
        return lost
