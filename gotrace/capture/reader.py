"""Reads a capture back into a profile. Needs neither root nor Linux; the file is untrusted."""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from gotrace.capture.checked import histogram, listed, mapping, record, squares, text, truth, whole
from gotrace.capture.holderrows import TABLES as HOLDER_TABLES
from gotrace.capture.holderrows import read_holders
from gotrace.capture.requestreader import TABLES as REQUEST_TABLES
from gotrace.capture.requestreader import read_requests
from gotrace.capture.schema import APPLICATION_ID, REQUEST_SUMS, SCHEMA_VERSION, SUMS
from gotrace.common.errors import GotraceError
from gotrace.common.vocabulary import ONGOING, FrameKind, Loss, State
from gotrace.profile.subwindows import MAX_SUBWINDOWS
from gotrace.profile.things import Waited
from gotrace.profile.types import (
    Distribution,
    Frame,
    GovernorReport,
    GovernorStep,
    Labels,
    Missing,
    Overhead,
    Pause,
    Profile,
    StackKey,
    StackStat,
    SubWindow,
    Target,
    TimelineInterval,
    Window,
)
from gotrace.profile.verdict import Verdict, VerdictOn

_TABLES = frozenset(("meta", "target", "frame", "stack", "subwindow", "pause", "interval", "object")) | REQUEST_TABLES | HOLDER_TABLES
_COMPUTED = re.compile(r"\b(?:virtual|generated|as)\b", re.IGNORECASE)
_BEFORE = 1 << 60
_NO_ONGOING = Missing(ONGOING, "the capture is of a gotrace that added them at the end", "waits that were in progress at the last commit")


def read_capture(path: Path) -> Profile:
    """Returns the profile in the capture `path`.

    Raises:
        GotraceError: it is missing, not a capture, damaged, or from a newer gotrace.
    """
    if not path.is_file():
        raise GotraceError(f"there is no capture {path}", "record one with: sudo gotrace attach PID")
    try:
        # A capture that was cut off has a write-ahead log beside it. Read-only first: the folder may not be writable.
        db = _connect(path)
        try:
            db.execute("BEGIN")  # one state of a file that is still being written
            return _read(db, path)
        finally:
            db.close()
    except MemoryError:  # SQLITE_NOMEM, if a record claims any size
        raise GotraceError(f"{path} is not a gotrace capture, or is damaged: it takes more memory than there is") from None
    except (sqlite3.Error, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        hint = f"if it was copied while a trace wrote it: copy it again, with {path.name}-wal" if _lacks_log(path) else None
        raise GotraceError(f"{path} is not a gotrace capture, or is damaged: {error}", hint) from None


def _read(db: sqlite3.Connection, path: Path) -> Profile:
    version = _version(db, path)
    _refuse_computed_tables(db)
    meta = {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM meta")}
    if "sums" in meta and _lacks_log(path):
        _check_sums(db, mapping(meta["sums"]), SUMS | REQUEST_SUMS if version > 5 else SUMS, path)
    targets = {
        key: record(Target, json.loads(value)) for key, value in db.execute("SELECT id, description FROM target ORDER BY id")
    }
    if not targets:
        raise GotraceError(f"{path} holds nothing: the trace that was to fill it was cut off before it began")
    complete = truth(meta["complete"])
    frames = {
        key: Frame(text(name), text(file), whole(line), FrameKind(kind), bool(inlined))
        for key, name, file, line, kind, inlined in db.execute("SELECT id, name, file, line, kind, inlined FROM frame")
    }
    objects = _objects(db) if version > 6 else {}
    by_number = _stacks(db, version, targets, frames, objects)
    stacks = list(by_number.values())
    if not complete:
        by_number, stacks = _together(by_number)
    if version > 1:
        _read_subwindows(db, by_number)
    return Profile(
        version=text(meta["gotrace"]),
        targets=list(targets.values()),
        window=_window(meta["window"]),
        stacks=stacks,
        losses={loss: whole(mapping(meta["losses"]).get(loss.value, 0)) for loss in Loss},
        overhead=record(Overhead, meta["overhead"]),
        goroutines=whole(meta["goroutines"]),
        running_ns=None if meta.get("running_ns") is None else whole(meta["running_ns"]),
        cpu_ns=whole(meta.get("cpu_ns", 0)),
        pauses=_pauses(db, targets) if version > 1 else [],
        timeline=_timeline(db, version, by_number),
        filters=[text(words) for words in listed(meta["filters"])],
        governor=_governor(meta.get("governor")),
        complete=complete,
        missing=[
            *(record(Missing, item) for item in listed(meta.get("missing", []))),
            *([] if complete or "ongoing" in meta else [_NO_ONGOING]),
        ],
        notes=[text(note) for note in listed(meta.get("notes", []))],
        requests=read_requests(db, version, targets, by_number, frames) if version > 5 else [],
        verdicts=[_verdict(item) for item in listed(meta.get("verdicts", []))],
        locks=read_holders(db, targets, frames, objects) if version > 6 else [],
    )


def _version(db: sqlite3.Connection, path: Path) -> int:
    """The version of the capture's schema, if we can read it."""
    application, = db.execute("PRAGMA application_id").fetchone()
    version: int
    version, = db.execute("PRAGMA user_version").fetchone()
    if application == 0 and _lacks_log(path) and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise GotraceError(
            f"{path} is empty: what was written is in its log {path.name}-wal, which is missing",
            f"copy {path.name}-wal beside it as well",
        )
    if application != APPLICATION_ID:
        raise GotraceError(f"{path} is an SQLite database but not a gotrace capture")
    if not 1 <= version <= SCHEMA_VERSION:
        raise GotraceError(f"{path} has capture version {version}; this gotrace reads up to {SCHEMA_VERSION}")
    return version


def _objects(db: sqlite3.Connection) -> dict[int, Waited]:
    return {
        key: Waited(text(kind), None if address is None else whole(address), text(words))
        for key, kind, address, words in db.execute("SELECT id, kind, address, text FROM object")
    }


def _stacks(
    db: sqlite3.Connection, version: int, targets: dict[int, Target], frames: dict[int, Frame], objects: dict[int, Waited],
) -> dict[int, StackStat]:
    """The rows of table stack by their numbers, the largest total first."""
    later = "stopped_ns, long_runs, long_run_max_ns" if version > 1 else "0, 0, 0"
    later += ", margin_ns" if version > 2 else ", NULL"
    later += ", halted_ns, late_ns" if version > 4 else ", 0, 0"
    later += ", object, goroutines_there, labels" if version > 6 else ", NULL, 0, NULL"
    found: dict[int, StackStat] = {}
    for row in db.execute(
        "SELECT id, target, state, reason, goid, frames, count, total_ns, max_ns, squares, goroutines, in_progress, histogram,"
        f" {later} FROM stack ORDER BY total_ns DESC, id"
    ):
        key, target, state, reason, goid, ids, count, total, maximum, square, goroutines, in_progress, buckets, *rest = row
        stopped, long_runs, long_run_max, margin, halted, late, waited, there, labels = rest
        distribution = Distribution(
            whole(count), whole(total), whole(maximum), squares(square), histogram(json.loads(buckets))
        )
        found[key] = StackStat(
            tuple(frames[whole(i)] for i in listed(json.loads(ids))), State(state), text(reason), distribution, whole(goroutines),
            whole(in_progress), None if goid is None else whole(goid), targets[target].pid, stopped_ns=whole(stopped),
            long_runs=whole(long_runs), long_run_max_ns=whole(long_run_max), margin_ns=None if margin is None else whole(margin),
            halted_ns=whole(halted), late_ns=whole(late), waited=None if waited is None else objects[waited],
            goroutines_there=whole(there), labels=_labels(labels),
        )
    return found


def _labels(value: object) -> Labels:
    return () if value is None else tuple((key, text(each)) for key, each in mapping(json.loads(text(value))).items())


def _read_subwindows(db: sqlite3.Connection, stacks: dict[int, StackStat]) -> None:
    """Gives each stack its sub-windows."""
    for stack, *figures in db.execute(
        "SELECT stack, start_ns, duration_ns, count, total_ns, squares FROM subwindow ORDER BY stack, start_ns"
    ):
        rows, (start, duration, count, total) = stacks[stack].subwindows, map(whole, figures[:-1])
        row = SubWindow(start, duration, count, total, squares(figures[-1]))
        if row.duration_ns <= 0:
            raise ValueError(f"a sub-window of {row.duration_ns} ns at {row.start_ns}")
        if len(rows) < MAX_SUBWINDOWS:
            rows.append(row)


def _timeline(db: sqlite3.Connection, version: int, stacks: dict[int, StackStat]) -> list[TimelineInterval]:
    later = "waker_goid, tid" if version > 1 else "0, 0"
    return [
        TimelineInterval(whole(goid), whole(start), whole(length), stacks[stack], whole(waker_goid), whole(tid))
        for goid, start, length, stack, waker_goid, tid in db.execute(
            f"SELECT goid, start_ns, duration_ns, stack, {later} FROM interval ORDER BY start_ns"
        )
    ]


def _pauses(db: sqlite3.Connection, targets: dict[int, Target]) -> list[Pause]:
    return [
        Pause(text(reason), whole(start, -_BEFORE), whole(length), targets[target].pid)
        for target, reason, start, length in db.execute("SELECT target, reason, start_ns, duration_ns FROM pause ORDER BY start_ns")
    ]


def _connect(path: Path) -> sqlite3.Connection:
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    db = sqlite3.connect(address, uri=True, isolation_level=None)
    try:
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        db.close()
        if not _lacks_log(path):
            raise
        # SQLite wants to create the missing log, in a folder where we may not write: so nothing changes the file.
        db = sqlite3.connect(f"{address}&immutable=1", uri=True, isolation_level=None)
    return db


def _lacks_log(path: Path) -> bool:
    """Whether the header says that there is a write-ahead log (https://sqlite.org/fileformat2.html: file format versions), but no log with
    anything in it is beside the file, which therefore was copied alone."""
    try:
        with open(path, "rb") as file:
            header = file.read(20)
        log = Path(f"{path}-wal")
        return header[18:20] == b"\2\2" and (not log.exists() or log.stat().st_size == 0)
    except OSError:
        return False


def _together(rows: dict[int, StackStat]) -> tuple[dict[int, StackStat], list[StackStat]]:
    """Adds waits in progress, which are rows of their own (`gotrace.capture.schema`), to the rows of the same stacks. Returns the stack of
    each row, and the stacks, the largest total first."""
    first_of: dict[StackKey, StackStat] = {}
    stack_of = {number: _add(first_of.setdefault(row.key, row), row) for number, row in rows.items()}
    return stack_of, sorted(first_of.values(), key=lambda stack: -stack.distribution.total_ns)


def _add(first: StackStat, stack: StackStat) -> StackStat:
    if first is not stack:
        first.distribution.add(stack.distribution)
        for name in ("goroutines", "in_progress", "stopped_ns", "long_runs", "halted_ns", "late_ns", "goroutines_there"):
            setattr(first, name, getattr(first, name) + getattr(stack, name))
        first.long_run_max_ns = max(first.long_run_max_ns, stack.long_run_max_ns)
        if stack.margin_ns is not None:
            first.margin_ns = (first.margin_ns or 0) + stack.margin_ns
    return first


def _check_sums(db: sqlite3.Connection, sums: dict[str, object], wanted: dict[str, str], path: Path) -> None:
    """Checks that the file has the pages of a single commit (`gotrace.capture.schema`)."""
    for table, what in wanted.items():
        found, = db.execute(f"SELECT {what} FROM {table}").fetchone()
        if found != sums.get(table):
            raise GotraceError(
                f"{path} has parts of two moments: it was copied, or gotrace was killed, while a commit was being written into it",
                f"copy it again, with {path.name}-wal; where that is beside it, gotrace report puts them together",
            )


def _refuse_computed_tables(db: sqlite3.Connection) -> None:
    """Refuses a view or a generated column, which may run anything, for any time, when it is read."""
    db.execute("PRAGMA trusted_schema = OFF")
    for kind, name, sql in db.execute("SELECT type, name, sql FROM sqlite_master"):
        if name in _TABLES and (kind != "table" or _COMPUTED.search(str(sql))):
            raise ValueError(f"{name} is no plain table")


def _window(value: object) -> Window:
    window = record(Window, value)
    datetime.fromisoformat(window.start.replace("Z", "+00:00")).timestamp()
    return window


def _governor(value: object) -> GovernorReport | None:
    if value is None:
        return None
    report = dict(mapping(value))
    steps = tuple(record(GovernorStep, step) for step in listed(report.pop("steps")))
    return replace(record(GovernorReport, report), steps=steps)


def _verdict(value: object) -> VerdictOn:
    pid, given = listed(value)
    said = mapping(given)
    goroutines, evidence = [whole(goid) for goid in listed(said["goroutines"])], mapping(said["evidence"])
    return VerdictOn(whole(pid), Verdict(text(said["kind"]), text(said["text"]), goroutines, evidence, truth(said["certain"])))
