"""Writes a capture during the trace; every `commit` leaves a valid file.

A commit goes to the write-ahead log and from there at once into the file, which is therefore a capture even without its log. While others
have the file open without SQLite, for example to copy it, it stays as it is, for at most `_POSTPONED_S`; whoever opens it during a write
waits until the write is done (`gotrace.capture.alone`). So a copy has the pages of one commit. Others may query the capture, and even
lock it: what can't be written is kept for the next commit.

`meta.sums` says what the tables contain. It reveals a copy with pages of two commits, which is still possible if the file system has no
leases, if SQLite has the file open elsewhere, or if the copy took too long.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from gotrace import __version__
from gotrace.capture.alone import Alone
from gotrace.capture.rows import CaptureRows, Waiting
from gotrace.capture.schema import APPLICATION_ID, SCHEMA_VERSION, TABLES
from gotrace.common.errors import GotraceError
from gotrace.common.files import as_invoking_user, create
from gotrace.profile.singles import GrowingWaits
from gotrace.profile.types import Pause, Profile, SingleInterval, StackStat, Target

_BUSY_MS, _LAST_BUSY_MS = 100, 5_000
"""How long to wait for another process's lock: during the trace, and at its end."""
_POSTPONED_S = 10.0
"""How long the file is left as it is, while the log grows, because others have the file open."""
_CLOSE_TRIES, _CLOSE_WAIT_S = 5, 0.05
_INTERVALS_KEPT = 500_000
"""The most single intervals that wait for a commit: up to 200 MB."""




class CaptureLocked(GotraceError):
    """Another process holds the capture's write lock: the same may succeed later."""


class CaptureWriter:
    """An open capture. `StackStat.key` identifies a stack; putting it again replaces its figures. The next successful commit writes what
    was put. `mode`: who may read the file, and its log.

    Raises:
        GotraceError: the file can't be created.
    """

    def __init__(self, path: Path, force: bool, mode: int = 0o644) -> None:
        self.path = path
        self._committed = False
        self._postponed_since = 0.0
        self._waiting = Waiting()
        self._growing = GrowingWaits()
        self._intervals = 0
        self.dropped = 0
        create(path, force, mode)
        try:
            self._open(path)
        except GotraceError:
            with suppress(OSError), as_invoking_user(path.parent):
                path.unlink()
            raise

    def _open(self, path: Path) -> None:
        with self._guarded():
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA synchronous = NORMAL")
            # Before there is a log: the file never lacks its tables.
            self._db.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; {TABLES} COMMIT;"
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA wal_autocheckpoint = 0")  # only `_fold` does it
            self._alone = Alone(path)
            self._rows = CaptureRows(self._db)

    def _guarded(self) -> _Guard:
        return _Guard(self.path, self._committed)

    def put_target(self, target: Target) -> None:
        """Adds a process; call it before adding its stacks."""
        self._waiting.targets.append(target)

    def put_stacks(self, stacks: Iterable[StackStat]) -> None:
        """Adds stacks, or replaces the figures of existing ones."""
        self._waiting.stacks.update((stack.key, stack) for stack in stacks)

    def put_ongoing(self, stacks: list[StackStat]) -> None:
        """Sets the waits in progress, as rows of their own beside those of the same stacks; replaces those that were put before."""
        self._waiting.ongoing = stacks

    def put_intervals(self, pid: int, intervals: Iterable[SingleInterval]) -> None:
        """Adds single intervals, whose stacks were put before. If no commit has succeeded for long, `dropped` counts those for which there
        is no room."""
        kept = self._waiting.intervals
        for interval in intervals:
            number = self._growing.place(pid, interval, self._intervals)
            self._intervals += number == self._intervals
            if number in kept or len(kept) < _INTERVALS_KEPT:
                kept[number] = pid, interval
            else:
                self.dropped += 1

    def put_pauses(self, pauses: Iterable[Pause]) -> None:
        """Adds stop-the-world pauses."""
        self._waiting.pauses += pauses

    def commit(self, profile: Profile) -> None:
        """Stores everything that was put, with the window, losses, requests and the rest of `profile`, durably. Waits for another process's
        lock, longer if `profile` is complete.

        Raises:
            GotraceError: the file can't be written: it is full, or locked. What was committed before stays valid; what was not is
                kept for the next commit.
        """
        meta = {
            "gotrace": __version__,
            "window": asdict(profile.window),
            "losses": {loss.value: count for loss, count in profile.losses.items()},
            "overhead": asdict(profile.overhead),
            "running_ns": profile.running_ns,
            "cpu_ns": profile.cpu_ns,
            "goroutines": profile.goroutines,
            "filters": profile.filters,
            "verdicts": [[pid, asdict(verdict)] for pid, verdict in profile.verdicts],
            "governor": asdict(profile.governor) if profile.governor is not None else None,
            "complete": profile.complete,
            "ongoing": not profile.complete,
            "missing": [asdict(missing) for missing in profile.missing],
            "notes": profile.notes,
        }
        with self._guarded():
            self._db.execute(f"PRAGMA busy_timeout = {_LAST_BUSY_MS if profile.complete else _BUSY_MS}")
            try:
                self._db.execute("BEGIN IMMEDIATE")
                ongoing = self._rows.write(self._waiting, profile.requests, profile.locks)
                meta["sums"] = self._rows.sums()
                self._db.executemany(
                    "INSERT OR REPLACE INTO meta VALUES (?,?)", ((key, json.dumps(value)) for key, value in meta.items())
                )
                self._db.execute("COMMIT")
            except BaseException:
                self._rows.roll_back()
                raise
            self._committed = True
            self._rows.kept(ongoing)
            self._waiting = Waiting()
            # What it leaves is in the log: the commit has not failed.
            with suppress(sqlite3.Error):
                self._fold()

    def _fold(self) -> None:
        """Writes the log into the file, without waiting, unless someone seems to be copying the file."""
        with self._alone.held() as alone:
            now = time.monotonic()
            if not alone:
                self._postponed_since = self._postponed_since or now
                if now - self._postponed_since < _POSTPONED_S and not self._alone.read_by_sqlite():
                    return
            self._postponed_since = 0.0
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def leave(self) -> None:
        """Leaves the capture at its last commit, wherever a commit was interrupted; does nothing if it is closed."""
        with suppress(GotraceError, sqlite3.ProgrammingError):
            self.close()

    def close(self) -> bool:
        """Folds the write-ahead log into the file and removes it. Returns False if others have the capture open: the log then stays beside
        the file until they close it."""
        with self._guarded():
            try:
                self._db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
                for left in reversed(range(_CLOSE_TRIES)):
                    with self._alone.held() as alone:
                        if alone or not left or self._alone.read_by_sqlite():
                            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                            # Works only for the last connection.
                            self._db.execute("PRAGMA journal_mode = DELETE")
                            break
                    time.sleep(_CLOSE_WAIT_S)
            except sqlite3.OperationalError as error:
                if not is_lock(error):
                    raise
                return False
            finally:
                self._db.close()
        return True


def is_lock(error: BaseException) -> bool:
    """Whether SQLite reports another process's lock. Python below 3.11 gives no code."""
    return "locked" in str(error) or "busy" in str(error)


class _Guard:
    def __init__(self, path: Path, committed: bool) -> None:
        self._path = path
        self._committed = committed
        self._identity = as_invoking_user(path.parent)

    def __enter__(self) -> None:
        self._identity.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._identity.__exit__(kind, error, trace)
        if isinstance(error, sqlite3.Error):
            # "database is locked", "database table is locked" (sqlite.org: SQLITE_BUSY, SQLITE_LOCKED).
            kind_of = CaptureLocked if "locked" in str(error) else GotraceError
            raise kind_of(
                f"the capture {self._path} can't be written: {error}",
                f"what was committed stays readable: gotrace report {self._path}" if self._committed
                else "free some space, or write elsewhere with -o",
            ) from None
