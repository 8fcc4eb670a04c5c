"""Looks for deadlocks where a trigger asks for them: reads all goroutines of a process that may have one, seldom, as that is not free."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gotrace.common.errors import GotraceError
from gotrace.common.vocabulary import State
from gotrace.dump.reading import dump
from gotrace.profile.types import StackStat
from gotrace.render.text import sanitize
from gotrace.serve.tracing import Condition, Identity, Traced
from gotrace.serve.triggers import Deadlock
from gotrace.verdicts.deadlocks import DEADLOCK, RECURSIVE_READ
from gotrace.verdicts.judge import judge

MOST_GOROUTINES = 20_000
"""A process with more is not read: that takes a second, and some 50 MB for a moment."""
SHARE = 0.01
"""Of one CPU: what reading may take, for all processes together."""
_LEAST_S, _MOST_S = 10.0, 300.0
"""How soon the same process may be read again: twice as long each time nothing was found, and at once where others are stuck."""
_STUCK_NS = 2_000_000_000
_WORDS = ("sync.", "semacquire", "nil chan", "no cases")
"""Wait reasons of which a deadlock has at least one."""
_TOLD = 300
_POLL_S = 0.5


@dataclass
class _Seen:
    """Of one process: how many goroutines are stuck, when it was read (time.monotonic), and how long after that it may be read again."""

    stuck: int = 0
    at: float = -1e9
    pause_s: float = _LEAST_S

    @property
    def due(self) -> float:
        """When it may be read again."""
        return self.at + self.pause_s


def stuck_in(ongoing: Sequence[StackStat]) -> int:
    """How many of the waits in progress may be part of a deadlock: those for locks and for what never comes, that last for seconds."""
    return sum(
        stack.distribution.count for stack in ongoing
        if stack.state is State.WAITING and stack.distribution.max_ns >= _STUCK_NS and any(word in stack.reason for word in _WORDS)
    )


def find(pid: int) -> Deadlock:
    """The deadlocks of a process of which dump is certain.

    Raises:
        GotraceError: it can't be read.
    """
    found = [one for one in judge(dump(pid, labels=False)) if one.certain and one.kind in (DEADLOCK, RECURSIVE_READ)]
    members = {goid for verdict in found for goid in verdict.goroutines}
    return Deadlock(len(members), sanitize(found[0].text, _TOLD) if found else "")


class Suspects:
    """Does so by a thread of its own. `counts`: how often a process was read, could not be, or was left out as it is too large; `cpu_s`:
    what that took."""

    def __init__(self, targets: Callable[[], list[Traced]]) -> None:
        self.counts = {"read": 0, "failed": 0, "left_out": 0}
        self.cpu_s = 0.0
        self._targets = targets
        self._seen: dict[Identity, _Seen] = {}
        self._next = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deadlocks", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def finish(self) -> None:
        """Ends it; does not wait."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(_POLL_S):
            self.step()

    def step(self) -> None:
        """Reads the process that has waited for it longest, if it is time."""
        targets = [traced for traced in self._targets() if traced.condition is Condition.TRACING]
        alive = {traced.identity for traced in targets}
        self._seen = {identity: seen for identity, seen in self._seen.items() if identity in alive}
        for traced in targets:
            self._suspect(traced)
        stuck = [traced for traced in targets if self._seen[traced.identity].stuck]
        first = min(stuck, key=lambda traced: self._seen[traced.identity].due, default=None)
        now = time.monotonic()
        if first is not None and now >= max(self._next, self._seen[first.identity].due):
            self._read(first)

    def _suspect(self, traced: Traced) -> None:
        seen = self._seen.setdefault(traced.identity, _Seen())
        stuck = stuck_in(traced.recorder.ongoing if traced.recorder is not None else ())
        if stuck != seen.stuck:
            seen.stuck, seen.pause_s = stuck, _LEAST_S
        if not stuck:
            traced.deadlock = Deadlock()

    def _read(self, traced: Traced) -> None:
        seen = self._seen[traced.identity]
        began = time.thread_time()
        if traced.sched is not None and (traced.sched.goroutines.total or 0) > MOST_GOROUTINES:
            self.counts["left_out"] += 1
        else:
            try:
                traced.deadlock = find(traced.pid)
                self.counts["read"] += 1
            except (GotraceError, OSError):
                self.counts["failed"] += 1
            except Exception:  # what a process has in its memory must not end the search in others
                self.counts["failed"] += 1
        cost_s = time.thread_time() - began
        self.cpu_s += cost_s
        now = time.monotonic()
        seen.pause_s = _LEAST_S if traced.deadlock.goroutines else min(_MOST_S, seen.pause_s * (2 if seen.at > 0 else 1))
        seen.at = now
        self._next = now + cost_s / SHARE
