"""What is written when a trigger fires: a capture of what led to it and of what followed, its flame graph, a dump, and a line of JSON."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gotrace.common.errors import GotraceError
from gotrace.dump.formats import RENDERERS
from gotrace.dump.reading import dump
from gotrace.serve.jobs import Job
from gotrace.serve.options import ServeOptions
from gotrace.serve.room import ASKED
from gotrace.serve.writing import DiskFull, Writing
from gotrace.verdicts.judge import judge

_HOUR_S = 3600.0
_POLL_S = 0.05
_DUMP_NS = 5_000_000_000
"""So long after it is due a capture waits for its dump."""
_STALE_NS = 10_000_000_000
"""A dump that begins so long after what it is for is left out."""
_MOST_WAITING = 64
_MOST_REASONS = 64
"""Of one capture; those beyond are those of a cascade."""
_KEPT_EVENTS = 100


class Evidence:
    """Writes captures by a thread of its own, and dumps by another one. `said` gets each line. `events` are the last lines; `counts` how
    many were written, failed, had no room on the disk, were left out because there were too many, were deleted to make room, were written
    late, without their beginning, or are not in triggers.jsonl."""

    def __init__(self, options: ServeOptions, said: Callable[[dict[str, Any]], None]) -> None:
        self.events: deque[dict[str, Any]] = deque(maxlen=_KEPT_EVENTS)
        self.counts = dict.fromkeys(("written", "failed", "no_room", "left_out", "deleted", "late", "unlogged"), 0)
        self._options = options
        self._said = said
        self._writing = Writing(options)
        self._new: queue.Queue[Job | None] = queue.Queue(_MOST_WAITING)
        self._undumped: queue.Queue[Job | None] = queue.Queue(_MOST_WAITING)
        self._pending: list[Job] = []
        self._lock = threading.Lock()
        self._recent: dict[str, deque[float]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="evidence", daemon=True)
        self._dumps = threading.Thread(target=self._run_dumps, name="dumps", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()
        self._dumps.start()

    @property
    def working(self) -> bool:
        """Whether it does."""
        return self._thread.is_alive() and self._dumps.is_alive()

    def ask(self, job: Job) -> bool:
        """Has a capture written; returns False if it is left out: one that will show the same is waited for, which gets the reason as well,
        or there were too many in an hour."""
        with self._lock:
            for other in self._pending:
                if other.covers(job):
                    if len(other.reasons) < _MOST_REASONS:
                        other.reasons += job.reasons
                        other.triggers += job.triggers
                    return False
            if job.kind not in ASKED and not self._counted("fired"):
                return self._leave_out(job)
            if len(self._pending) >= _MOST_WAITING:
                self.counts["left_out"] += 1
                return False
            self._pending.append(job)
        self._new.put(job)
        try:
            self._undumped.put_nowait(job)
        except queue.Full:
            job.undumped = "too many were asked for at once"
            job.dump_tried.set()
        return True

    def permits(self, kind: str) -> bool:
        """Whether there may be one more ``request`` or ``signal`` in this hour; each kind has a number of its own, as triggers
        have. It is counted: as one of the hour, or as left out."""
        with self._lock:
            return self._counted(kind)

    def _counted(self, kind: str) -> bool:
        recent, now = self._recent.setdefault(kind, deque()), time.monotonic()
        while recent and recent[0] < now - _HOUR_S:
            recent.popleft()
        if len(recent) >= self._options.per_hour:
            self.counts["left_out"] += 1
            return False
        recent.append(now)
        return True

    def _leave_out(self, job: Job) -> bool:
        line = job.line() | {"files": [], "error": f"more than {self._options.per_hour} captures in an hour"}
        self.events.append(line)
        self._said(line)
        return False

    def finish(self, timeout_s: float) -> int:
        """Writes what is pending now; waits for it at most so long. Returns how many captures were not written until then."""
        self._over.set()
        for waiting in (self._new, self._undumped):
            with suppress(queue.Full):  # then it wakes up anyway
                waiting.put_nowait(None)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        with self._lock:
            return len(self._pending)

    # -- the threads -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        waiting: list[Job] = []
        while True:
            due = min((job.due_ns for job in waiting), default=None)
            try:
                job = self._new.get(timeout=None if due is None else max(_POLL_S, (due - time.monotonic_ns()) / 1e9))
                if job is not None:
                    waiting.append(job)
            except queue.Empty:
                pass
            over = self._over.is_set()
            ready = sorted((job for job in waiting if over or _is_ready(job)), key=lambda job: job.due_ns)
            for job in ready if over else ready[:1]:  # others may have come meanwhile
                waiting.remove(job)
                self._write(job)
            if over and self._new.empty():
                return

    def _run_dumps(self) -> None:
        """At once, while others are written: what is wrong now may be over soon."""
        while not self._over.is_set():
            job = self._undumped.get()
            if job is None:
                return
            self._dump(job)
            job.dump_tried.set()

    def _dump(self, job: Job) -> None:
        if self._over.is_set() or not job.traced.alive:
            return
        if time.monotonic_ns() - job.fired_ns > _STALE_NS:
            job.undumped = "others came first, and what was wrong may be over"
            return
        try:
            found = dump(job.traced.pid)
            found.verdicts = judge(found)
            job.dumped = RENDERERS[".json"](found)
        except Exception as error:  # what a process has in its memory must not end all captures
            job.undumped = _said_of(error)

    def _write(self, job: Job) -> None:
        with self._lock:
            job.begun = True
        line = job.line() | {"files": []}
        deleted, late = self._writing.deleted, self._writing.late
        try:
            self._writing.files(job, line, self._over.is_set())
            self.counts["written"] += 1
        except Exception as error:  # the next one may succeed
            line["error"] = _said_of(error)
            self.counts["no_room" if isinstance(error, DiskFull) else "failed"] += 1
        with self._lock:
            self._pending.remove(job)
        try:
            self._writing.log(line)
            self._writing.trim(line)
        except (GotraceError, OSError) as error:
            line.setdefault("error", str(error))
            self.counts["unlogged"] += 1
        self.counts["deleted"] += self._writing.deleted - deleted
        self.counts["late"] += self._writing.late - late
        self.events.append(line)
        self._said(line)
        if job.done is not None:
            job.done(line)


def _is_ready(job: Job) -> bool:
    return job.is_due and (job.dump_tried.is_set() or time.monotonic_ns() - job.due_ns > _DUMP_NS)


def _said_of(error: Exception) -> str:
    return str(error) if isinstance(error, GotraceError) else f"{type(error).__name__}: {error}"
