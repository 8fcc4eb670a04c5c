"""Writes a capture as the trace goes on; every `commit` leaves a valid file.

A commit goes to the write-ahead log and from there at once into the file, which so is a capture also without its log. Where others
have the file open without SQLite, as to copy it, it stays as it is, for `_POSTPONED_S` at most; who opens it while it is written to
waits until that is done (`gotrace.capture.alone`). So a copy has the pages of one commit. Others may query the capture, and even lock
it: what can't be written is kept for the next commit.

`meta.sums` says what the tables hold: a copy that has pages of two commits all the same, where the file system knows no leases, SQLite
has it open elsewhere or the copy took too long, is known by that.
"""

from __future__ import annotations

import json
import sqlite3
import time
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from gotrace import __version__
from gotrace.capture.alone import Alone
from gotrace.capture.schema import APPLICATION_ID, SCHEMA_VERSION, TABLES
from gotrace.common.errors import GotraceError
from gotrace.common.files import as_invoking_user, create
from gotrace.profile.singles import GrowingWaits
from gotrace.profile.types import Frame, Pause, Profile, SingleInterval, StackStat, SubWindow, Target

_Key = TypeVar("_Key")
_FIGURES = (
    "count", "total_ns", "max_ns", "squares", "goroutines", "in_progress", "histogram", "stopped_ns", "long_runs", "long_run_max_ns",
    "margin_ns", "halted_ns", "late_ns",
)
"""Columns of `stack` that are replaced as the trace goes on."""
_UPDATE = f"UPDATE stack SET {', '.join(f'{column}=?' for column in _FIGURES)} WHERE id=?"
_INSERT = (
    f"INSERT INTO stack(target, state, reason, goid, frames, {', '.join(_FIGURES)}) VALUES (?,?,?,?,?{',?' * len(_FIGURES)})"
)
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
"""One for all: `json.dumps` makes an encoder at each call."""


_BUSY_MS, _LAST_BUSY_MS = 100, 5_000
"""How long to wait for another's lock: while the trace goes on, and at its end."""
_POSTPONED_S = 10.0
"""For how long the file is left as it is, and the log grows, because others have the file open."""
_CLOSE_TRIES, _CLOSE_WAIT_S = 5, 0.05
_INTERVALS_KEPT = 500_000
"""Single intervals that wait for a commit: up to 200 MB."""


_WEIGHT = (1 << 40) - 1
"""Of what a stack weighs in `gotrace.capture.schema.SUMS`: a million of them is far from what SQLite can add up."""


class CaptureLocked(GotraceError):
    """Another holds the capture's write lock: the same may succeed later."""


class CaptureWriter:
    """An open capture. Stacks are identified by `StackStat.key`; putting one again replaces its figures. What is put is written by
    the next commit that succeeds.

    Raises:
        GotraceError: the file can't be made.
    """

    def __init__(self, path: Path, force: bool) -> None:
        self.path = path
        self._frames: dict[Frame, int] = {}
        self._stacks: dict[tuple[object, ...], int] = {}
        self._targets: dict[int, int] = {}
        self._subwindow_ns: dict[int, int] = {}
        self._committed = False
        self._postponed_since = 0.0
        self._weights: array[int] | None = array("q", [0])
        self._weight = 0
        self._last_interval = -1
        self._pauses = 0
        self._ongoing: list[int] = []
        self._waiting = _Waiting()
        self._growing = GrowingWaits()
        self._intervals = 0
        self.dropped = 0
        create(path, force)
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
            # Before there is a log: the file is never one without tables.
            self._db.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; {TABLES} COMMIT;"
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA wal_autocheckpoint = 0")  # but by `_fold`
            self._alone = Alone(path)

    def _guarded(self) -> _Guard:
        return _Guard(self.path, self._committed)

    def put_target(self, target: Target) -> None:
        """Adds a process; before its stacks."""
        self._waiting.targets.append(target)

    def put_stacks(self, stacks: Iterable[StackStat]) -> None:
        """Adds stacks, or replaces the figures of those that are there."""
        self._waiting.stacks.update((stack.key, stack) for stack in stacks)

    def _put_new(self, stacks: Iterable[StackStat]) -> Iterator[tuple[StackStat, int]]:
        """Adds those that are new, and sub-windows of all; yields those that were there, with their row."""
        for stack in stacks:
            known = self._stacks.get(stack.key)
            if known is not None:
                yield stack, known
            else:
                known = self._stacks[stack.key] = self._insert(stack)
            self._put_subwindows(known, stack.subwindows)

    def _put_subwindows(self, stack: int, rows: list[SubWindow]) -> None:
        if not rows:
            return
        if self._subwindow_ns.get(stack) == rows[-1].duration_ns:
            rows = rows[-1:]  # those before are there
        else:
            self._subwindow_ns[stack] = rows[-1].duration_ns
            self._db.execute("DELETE FROM subwindow WHERE stack = ?", (stack,))
        self._db.executemany(
            "INSERT OR REPLACE INTO subwindow VALUES (?,?,?,?,?,?)",
            ((stack, r.start_ns, r.duration_ns, r.count, r.total_ns, float(r.squares)) for r in rows),
        )

    def put_ongoing(self, stacks: list[StackStat]) -> None:
        """Waits that are in progress, as rows of their own beside those of the same stacks, in place of those that were put before."""
        self._waiting.ongoing = stacks

    def put_intervals(self, pid: int, intervals: Iterable[SingleInterval]) -> None:
        """Adds single intervals; their stacks were put before. Those that there is no room for, as no commit has succeeded for
        long, are counted by `dropped`."""
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
        """Stores all that was put, with the window, losses and the rest of `profile`, for good. Waits for another's lock, longer
        where `profile` is complete.

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
            "governor": asdict(profile.governor) if profile.governor is not None else None,
            "complete": profile.complete,
            "ongoing": not profile.complete,
            "missing": [asdict(missing) for missing in profile.missing],
            "notes": profile.notes,
        }
        known = len(self._frames), len(self._stacks), len(self._targets)
        with self._guarded():
            self._db.execute(f"PRAGMA busy_timeout = {_LAST_BUSY_MS if profile.complete else _BUSY_MS}")
            try:
                self._db.execute("BEGIN IMMEDIATE")
                ongoing = self._write_waiting()
                meta["sums"] = self._sums()
                self._db.executemany(
                    "INSERT OR REPLACE INTO meta VALUES (?,?)", ((key, json.dumps(value)) for key, value in meta.items())
                )
                self._db.execute("COMMIT")
            except BaseException:
                self._roll_back(*known)
                raise
            self._committed = True
            self._waiting, self._ongoing = _Waiting(), ongoing
            # What it leaves is in the log: no failure of the commit.
            with suppress(sqlite3.Error):
                self._fold()

    def _fold(self) -> None:
        """Brings the log into the file, waiting for nobody, unless someone seems to copy that now."""
        with self._alone.held() as alone:
            now = time.monotonic()
            if not alone:
                self._postponed_since = self._postponed_since or now
                if now - self._postponed_since < _POSTPONED_S and not self._alone.read_by_sqlite():
                    return
            self._postponed_since = 0.0
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _sums(self) -> dict[str, int]:
        """What the tables hold when this commit is done, as `gotrace.capture.schema` says."""
        return {
            "target": len(self._targets), "frame": len(self._frames), "stack": self._weight, "interval": self._last_interval,
            "pause": self._pauses,
        }

    def _weigh(self, number: int, stack: StackStat) -> None:
        weights = self._weights
        assert weights is not None
        while number >= len(weights):
            weights.append(0)
        weight = stack.distribution.count + stack.distribution.total_ns & _WEIGHT
        self._weight += weight - weights[number]
        weights[number] = weight

    def _weigh_anew(self) -> None:
        """From what is committed."""
        self._weights, self._weight = array("q", [0]), 0
        for number, weight in self._db.execute("SELECT id, (count + total_ns) & ? FROM stack ORDER BY id", (_WEIGHT,)):
            while number >= len(self._weights):
                self._weights.append(0)
            self._weights[number] = weight
            self._weight += weight
        self._pauses, = self._db.execute("SELECT count(*) FROM pause").fetchone()
        last, = self._db.execute("SELECT max(rowid) FROM interval").fetchone()
        self._last_interval = -1 if last is None else last

    def _write_waiting(self) -> list[int]:
        """Returns the rows of waits in progress."""
        waiting = self._waiting
        if self._weights is None:
            self._weigh_anew()
        assert self._weights is not None
        for number in self._ongoing:
            self._db.execute("DELETE FROM stack WHERE id = ?", (number,))
            self._weight -= self._weights[number]
            self._weights[number] = 0
        for target in waiting.targets:
            cursor = self._db.execute("INSERT INTO target(description) VALUES (?)", (json.dumps(asdict(target)),))
            self._targets[target.pid] = cursor.lastrowid or 0
        known = list(self._put_new(waiting.stacks.values()))
        self._db.executemany(_UPDATE, ((*_figures(stack), number) for stack, number in known))
        for stack in waiting.stacks.values():
            self._weigh(self._stacks[stack.key], stack)
        self._last_interval = max(self._last_interval, max(waiting.intervals, default=-1))
        self._pauses += len(waiting.pauses)
        self._db.executemany(
            "INSERT OR REPLACE INTO interval(rowid, target, goid, start_ns, duration_ns, stack, waker_goid, tid) VALUES (?,?,?,?,?,?,?,?)",
            (
                (number, self._targets[pid], i.goid, i.start_ns, i.duration_ns, self._stacks[i.stack_key], i.waker_goid, i.tid)
                for number, (pid, i) in waiting.intervals.items()
            ),
        )
        self._db.executemany(
            "INSERT INTO pause VALUES (?,?,?,?)",
            ((self._targets[p.pid], _text(p.reason), p.start_ns, p.duration_ns) for p in waiting.pauses),
        )
        ongoing = []
        for stack in waiting.ongoing:
            ongoing.append(self._insert(stack))
            self._weigh(ongoing[-1], stack)
        return ongoing

    def _insert(self, stack: StackStat) -> int:
        frames = _ENCODE([self._frame(frame) for frame in stack.frames])
        cursor = self._db.execute(
            _INSERT, (self._targets[stack.pid], stack.state.value, _text(stack.reason), stack.goid, frames, *_figures(stack)),
        )
        return cursor.lastrowid or 0

    def _roll_back(self, frames: int, stacks: int, targets: int) -> None:
        """Undoes what a commit had begun, also here: the rows that it added are not there."""
        with suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        _cut(self._frames, frames)
        _cut(self._stacks, stacks)
        _cut(self._targets, targets)
        self._subwindow_ns.clear()
        self._weights = None

    def leave(self) -> None:
        """Leaves the capture at its last commit, wherever a commit was interrupted; nothing if it is closed."""
        with suppress(GotraceError, sqlite3.ProgrammingError):
            self.close()

    def close(self) -> bool:
        """Folds the write-ahead log into the file and removes it. False: others have the capture open, so it stays beside the file
        until they close it."""
        with self._guarded():
            try:
                self._db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
                for left in reversed(range(_CLOSE_TRIES)):
                    with self._alone.held() as alone:
                        if alone or not left or self._alone.read_by_sqlite():
                            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                            # Needs to be the only connection.
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

    def _frame(self, frame: Frame) -> int:
        known = self._frames.get(frame)
        if known is None:
            cursor = self._db.execute(
                "INSERT INTO frame(name, file, line, kind, inlined) VALUES (?,?,?,?,?)",
                (_text(frame.name), _text(frame.file), frame.line, frame.kind.value, int(frame.inlined)),
            )
            known = self._frames[frame] = cursor.lastrowid or 0
        return known


def is_lock(error: BaseException) -> bool:
    """Whether it is another's lock that SQLite speaks of. Python below 3.11 gives no code."""
    return "locked" in str(error) or "busy" in str(error)


@dataclass
class _Waiting:
    """What the next commit writes."""

    targets: list[Target] = field(default_factory=list)
    stacks: dict[tuple[object, ...], StackStat] = field(default_factory=dict)
    intervals: dict[int, tuple[int, SingleInterval]] = field(default_factory=dict)
    pauses: list[Pause] = field(default_factory=list)
    ongoing: list[StackStat] = field(default_factory=list)


def _figures(stack: StackStat) -> tuple[int | float | str | None, ...]:
    """In the order of `_FIGURES`."""
    d = stack.distribution
    return (
        d.count, d.total_ns, d.max_ns, float(d.squares), stack.goroutines, stack.in_progress, _ENCODE(d.histogram),
        stack.stopped_ns, stack.long_runs, stack.long_run_max_ns, stack.margin_ns,
        stack.halted_ns, stack.late_ns,
    )


def _text(text: str) -> str:
    # SQLite's TEXT is UTF-8: a lone surrogate from the target's names would raise.
    return text.encode("utf-8", "replace").decode()


def _cut(rows: dict[_Key, int], kept: int) -> None:
    """Leaves the `kept` that were added first."""
    for key in list(rows)[kept:]:
        del rows[key]


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
