"""The rows of a capture: turns what is put into rows, and remembers which rows exist."""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TypeVar

from gotrace.capture.holderrows import HolderRows
from gotrace.capture.requestrows import RequestRows, plain_text
from gotrace.profile.holders import LockHolders
from gotrace.profile.requests import Span
from gotrace.profile.things import Waited
from gotrace.profile.types import Frame, Pause, SingleInterval, StackStat, SubWindow, Target

_Key = TypeVar("_Key")
_FIGURES = (
    "count", "total_ns", "max_ns", "squares", "goroutines", "in_progress", "histogram", "stopped_ns", "long_runs", "long_run_max_ns",
    "margin_ns", "halted_ns", "late_ns", "goroutines_there",
)
"""Columns of `stack` that are replaced during the trace."""
_UPDATE = f"UPDATE stack SET {', '.join(f'{column}=?' for column in _FIGURES)} WHERE id=?"
_INSERT = (
    f"INSERT INTO stack(target, state, reason, goid, object, frames, labels, {', '.join(_FIGURES)}) VALUES"
    f" (?,?,?,?,?,?,?{',?' * len(_FIGURES)})"
)
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
"""A shared one: `json.dumps` creates an encoder at each call."""

_WEIGHT = (1 << 40) - 1
"""Mask for the weight of a stack in `gotrace.capture.schema.SUMS`: a million weights are far below SQLite's largest sum."""


@dataclass
class Waiting:
    """What the next commit writes."""

    targets: list[Target] = field(default_factory=list)
    stacks: dict[tuple[object, ...], StackStat] = field(default_factory=dict)
    intervals: dict[int, tuple[int, SingleInterval]] = field(default_factory=dict)
    pauses: list[Pause] = field(default_factory=list)
    ongoing: list[StackStat] = field(default_factory=list)


class CaptureRows:
    """The rows of one open capture, `db`. Call `write` within a transaction, then `kept` when it is committed, or `roll_back`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._frames: dict[Frame, int] = {}
        self._objects: dict[Waited, int] = {}
        self._stacks: dict[tuple[object, ...], int] = {}
        self._targets: dict[int, int] = {}
        self._before: tuple[int, int, int, int] | None = None
        self._subwindow_ns: dict[int, int] = {}
        self._weights: array[int] | None = array("q", [0])
        self._weight = 0
        self._last_interval = -1
        self._pauses = 0
        self._ongoing: list[int] = []
        self._holders = HolderRows(db, self._frame, self._object, self._targets)
        self._requests = RequestRows(db, self._frame, self._stacks, self._targets)

    def write(self, waiting: Waiting, requests: Sequence[Span], locks: Sequence[LockHolders] = ()) -> list[int]:
        """Writes everything, with the requests and locks that changed, and replaces the waits in progress that were written before. Returns
        the rows of the new ones."""
        self._before = len(self._frames), len(self._stacks), len(self._targets), len(self._objects)
        if self._weights is None:
            self._weigh_again()
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
            ((self._targets[p.pid], plain_text(p.reason), p.start_ns, p.duration_ns) for p in waiting.pauses),
        )
        ongoing = []
        for stack in waiting.ongoing:
            ongoing.append(self._insert(stack))
            self._weigh(ongoing[-1], stack)
        self._requests.write(requests)
        self._holders.write(locks)
        return ongoing

    def _put_new(self, stacks: Iterable[StackStat]) -> Iterator[tuple[StackStat, int]]:
        """Adds new stacks, and the sub-windows of all; yields the existing ones, with their rows."""
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
            rows = rows[-1:]  # the earlier ones are written already
        else:
            self._subwindow_ns[stack] = rows[-1].duration_ns
            self._db.execute("DELETE FROM subwindow WHERE stack = ?", (stack,))
        self._db.executemany(
            "INSERT OR REPLACE INTO subwindow VALUES (?,?,?,?,?,?)",
            ((stack, r.start_ns, r.duration_ns, r.count, r.total_ns, float(r.squares)) for r in rows),
        )

    def _insert(self, stack: StackStat) -> int:
        frames = f"[{','.join([str(self._frame(frame)) for frame in stack.frames])}]"
        labels = json.dumps({plain_text(key): plain_text(value) for key, value in stack.labels}) if stack.labels else None
        cursor = self._db.execute(
            _INSERT, (
                self._targets[stack.pid], stack.state.value, plain_text(stack.reason), stack.goid, self._object(stack.waited), frames,
                labels, *_figures(stack),
            ),
        )
        return cursor.lastrowid or 0

    def _frame(self, frame: Frame) -> int:
        known = self._frames.get(frame)
        if known is None:
            cursor = self._db.execute(
                "INSERT INTO frame(name, file, line, kind, inlined) VALUES (?,?,?,?,?)",
                (plain_text(frame.name), plain_text(frame.file), frame.line, frame.kind.value, int(frame.inlined)),
            )
            known = self._frames[frame] = cursor.lastrowid or 0
        return known

    def _object(self, waited: Waited | None) -> int | None:
        if waited is None:
            return None
        known = self._objects.get(waited)
        if known is None:
            cursor = self._db.execute(
                "INSERT INTO object(kind, address, text) VALUES (?,?,?)", (waited.kind, waited.address, plain_text(waited.text))
            )
            known = self._objects[waited] = cursor.lastrowid or 0
        return known

    def sums(self) -> dict[str, int]:
        """What the tables contain after this commit, as described in `gotrace.capture.schema`."""
        return {
            "target": len(self._targets), "frame": len(self._frames), "stack": self._weight, "interval": self._last_interval,
            "pause": self._pauses, **self._requests.sums(),
        }

    def _weigh(self, number: int, stack: StackStat) -> None:
        weights = self._weights
        assert weights is not None
        while number >= len(weights):
            weights.append(0)
        weight = stack.distribution.count + stack.distribution.total_ns & _WEIGHT
        self._weight += weight - weights[number]
        weights[number] = weight

    def _weigh_again(self) -> None:
        """Computes the weights from what is committed."""
        self._weights, self._weight = array("q", [0]), 0
        for number, weight in self._db.execute("SELECT id, (count + total_ns) & ? FROM stack ORDER BY id", (_WEIGHT,)):
            while number >= len(self._weights):
                self._weights.append(0)
            self._weights[number] = weight
            self._weight += weight
        self._pauses, = self._db.execute("SELECT count(*) FROM pause").fetchone()
        last, = self._db.execute("SELECT max(rowid) FROM interval").fetchone()
        self._last_interval = -1 if last is None else last

    def roll_back(self) -> None:
        """Undoes the commit that had begun, here as well: the rows that it added do not exist."""
        with suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        if self._before is None:
            return  # nothing was written
        frames, stacks, targets, objects = self._before
        self._before = None
        self._requests.roll_back()
        self._holders.roll_back()
        _cut(self._frames, frames)
        _cut(self._stacks, stacks)
        _cut(self._targets, targets)
        _cut(self._objects, objects)
        self._subwindow_ns.clear()
        self._weights = None

    def kept(self, ongoing: list[int]) -> None:
        """Notes that what was written is committed; `ongoing` is what `write` returned."""
        self._ongoing, self._before = ongoing, None


def _figures(stack: StackStat) -> tuple[int | float | str | None, ...]:
    """In the order of `_FIGURES`."""
    d = stack.distribution
    return (
        d.count, d.total_ns, d.max_ns, float(d.squares), stack.goroutines, stack.in_progress, _ENCODE(d.histogram),
        stack.stopped_ns, stack.long_runs, stack.long_run_max_ns, stack.margin_ns,
        stack.halted_ns, stack.late_ns, stack.goroutines_there,
    )


def _cut(rows: dict[_Key, int], kept: int) -> None:
    """Keeps the first `kept` rows that were added."""
    for key in list(rows)[kept:]:
        del rows[key]
