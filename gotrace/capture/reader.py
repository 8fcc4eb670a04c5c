"""Reads a capture back into a profile. Needs no root and no Linux; the file is untrusted."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from urllib.parse import quote

from gotrace.capture.schema import APPLICATION_ID, SCHEMA_VERSION
from gotrace.errors import GotraceError
from gotrace.profile.subwindows import MAX_SUBWINDOWS
from gotrace.profile.types import (
    Distribution, Frame, Overhead, Pause, Profile, StackStat, SubWindow, Target, TimelineInterval, Window,
)
from gotrace.vocabulary import FrameKind, Loss, State


def read_capture(path: Path) -> Profile:
    """The profile in the capture `path`.

    Raises:
        GotraceError: it is missing, no capture, damaged, or from a newer gotrace.
    """
    if not path.is_file():
        raise GotraceError(f"there is no capture {path}", "record one with: sudo gotrace attach PID")
    try:
        # A capture that was cut off has a write-ahead log beside it. Read-only first: the folder may not be writable.
        db = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)
        try:
            return _read(db, path)
        finally:
            db.close()
    except (sqlite3.Error, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise GotraceError(f"{path} is not a gotrace capture, or is damaged: {error}") from None


def _read(db: sqlite3.Connection, path: Path) -> Profile:
    application, = db.execute("PRAGMA application_id").fetchone()
    version, = db.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise GotraceError(f"{path} is an SQLite database but not a gotrace capture")
    if not 1 <= version <= SCHEMA_VERSION:
        raise GotraceError(f"{path} has capture version {version}; this gotrace reads up to {SCHEMA_VERSION}")
    meta = {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM meta")}
    targets = {
        number: Target(**json.loads(text)) for number, text in db.execute("SELECT id, description FROM target ORDER BY id")
    }
    frames = {
        number: Frame(name, file, line, FrameKind(kind), bool(inlined))
        for number, name, file, line, kind, inlined in db.execute("SELECT id, name, file, line, kind, inlined FROM frame")
    }
    by_number: dict[int, StackStat] = {}
    later = "stopped_ns, long_runs, long_run_max_ns" if version > 1 else "0, 0, 0"
    later += ", margin_ns" if version > 2 else ", NULL"
    for row in db.execute(
        "SELECT id, target, state, reason, goid, frames, count, total_ns, max_ns, squares, goroutines, in_progress, histogram,"
        f" {later} FROM stack ORDER BY total_ns DESC, id"
    ):
        number, target, state, reason, goid, ids, count, total, maximum, squares, goroutines, in_progress, histogram, *rest, margin = row
        distribution = Distribution(
            count, total, maximum, _squares(squares), {int(bucket): int(n) for bucket, n in json.loads(histogram).items()}
        )
        by_number[number] = StackStat(
            tuple(frames[i] for i in json.loads(ids)), State(state), str(reason), distribution, goroutines,
            in_progress, goid, targets[target].pid, *(int(value) for value in rest),
            margin_ns=None if margin is None else int(margin),
        )
    if version > 1:
        for stack, *figures in db.execute(
            "SELECT stack, start_ns, duration_ns, count, total_ns, squares FROM subwindow ORDER BY stack, start_ns"
        ):
            rows, row = by_number[stack].subwindows, SubWindow(*(int(figure) for figure in figures[:-1]), _squares(figures[-1]))
            if row.start_ns < 0 or row.duration_ns <= 0:
                raise ValueError(f"a sub-window of {row.duration_ns} ns at {row.start_ns}")
            if len(rows) < MAX_SUBWINDOWS:
                rows.append(row)
    later = "waker_goid, tid" if version > 1 else "0, 0"
    timeline = [
        TimelineInterval(int(goid), int(start), int(length), by_number[stack], int(waker_goid), int(tid))
        for goid, start, length, stack, waker_goid, tid in db.execute(
            f"SELECT goid, start_ns, duration_ns, stack, {later} FROM interval ORDER BY start_ns"
        )
    ]
    pauses = [
        Pause(str(reason), int(start), int(length), targets[target].pid)
        for target, reason, start, length in db.execute(
            "SELECT target, reason, start_ns, duration_ns FROM pause ORDER BY start_ns" if version > 1 else "SELECT 0, '', 0, 0 LIMIT 0"
        )
    ]
    return Profile(
        version=str(meta["gotrace"]),
        targets=list(targets.values()),
        window=Window(**meta["window"]),
        stacks=list(by_number.values()),
        losses={loss: int(meta["losses"].get(loss.value, 0)) for loss in Loss},
        overhead=Overhead(**meta["overhead"]),
        goroutines=int(meta["goroutines"]),
        running_ns=meta.get("running_ns"),
        cpu_ns=int(meta.get("cpu_ns", 0)),
        pauses=pauses,
        timeline=timeline,
        filters=[str(text) for text in meta["filters"]],
        complete=bool(meta["complete"]),
    )


def _squares(value: float) -> int:
    if not 0 <= value < 2.0**128:
        raise ValueError(f"a sum of squares of {value}")
    return int(value)
