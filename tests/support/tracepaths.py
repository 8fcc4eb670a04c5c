"""Critical paths from Go's own execution trace, as `go tool trace -d=parsed` prints its events: what was waited for in the end, found
without anything of gotrace's."""

from __future__ import annotations

import re
import subprocess
from bisect import bisect_left
from collections import defaultdict
from pathlib import Path

_TRANSITION = re.compile(r'^M=-?\d+ P=-?\d+ G=(-?\d+) StateTransition Time=(\d+) GoID=(\d+) (\w+)->(\w+) Reason="(.*)"', re.MULTILINE)
CLASSES = {"Running": "running", "Syscall": "running", "Runnable": "runnable", "Waiting": "waiting", "Network": "waiting"}
"""What the tracer calls a system call is one whether it blocks or not. Waits for the network are ended by who comes by: also by a goroutine
that starts the world again (runtime/proc.go: startTheWorldWithSema), which nobody has waited for."""


class Trace:
    """A parsed trace. Times are of CLOCK_MONOTONIC, ns."""

    def __init__(self, go: str, recorded: Path) -> None:
        done = subprocess.run([go, "tool", "trace", "-d=parsed", recorded], capture_output=True, text=True, check=True)
        # Of each goroutine, in order: when it came into a state, which, and who brought it there.
        self._changes: dict[int, list[tuple[int, str, int]]] = defaultdict(list)
        for by, time, goid, old, new, reason in _TRANSITION.findall(done.stdout):
            if reason == "network":
                new = "Network"
            if old == "Undetermined" and not self._changes[int(goid)]:
                self._changes[int(goid)].append((0, new, -1))
            elif old != "Undetermined":
                self._changes[int(goid)].append((int(time), "Created" if old == "NotExist" else new, int(by)))

    def path(self, goid: int, start_ns: int, end_ns: int) -> dict[tuple[int, str], int]:
        """Time by goroutine and state of the critical path of a stretch of a goroutine's life, walked backwards, event by event."""
        found: dict[tuple[int, str], int] = defaultdict(int)
        waiters: list[tuple[int, int]] = []  # who waits for the present one, and since when
        now = end_ns
        while now > start_ns:
            while waiters and now <= waiters[-1][1]:
                goid = waiters.pop()[0]
            since, state, ended_by = self._doing(goid, now)
            floor = max(since, start_ns, waiters[-1][1] if waiters else 0)
            if state == "Waiting" and ended_by > 0 and ended_by not in {goid, *(waiter for waiter, _ in waiters)}:
                waiters.append((goid, floor))
                goid = ended_by
            elif state == "NotExist":
                goid = ended_by  # its creator ran
            else:
                found[goid, CLASSES[state]] += now - floor
                now = floor
        return found

    def _doing(self, goid: int, now: int) -> tuple[int, str, int]:
        """What a goroutine did right before a moment: since when, what, and who ended it (-1: nobody)."""
        changes = self._changes[goid]
        at = bisect_left(changes, (now,)) - 1
        if at < 0:
            return 0, "NotExist", changes[0][2]
        since, state, _ = changes[at]
        state = "Runnable" if state == "Created" else state
        ended_by = changes[at + 1][2] if at + 1 < len(changes) and state == "Waiting" else -1
        return since, state, ended_by
