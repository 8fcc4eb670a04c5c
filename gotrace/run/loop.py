"""Drives the clock of a run: does what is due until the duration is over, the run is stopped, or every process has ended."""

from __future__ import annotations

import os
import select
import threading
import time

from gotrace.common.vocabulary import Loss
from gotrace.governor.niceness import LATE_S as NICE_LATE_S
from gotrace.governor.niceness import Niceness
from gotrace.governor.regulator import Regulator
from gotrace.kernel.stats import close as close_stats
from gotrace.kernel.stats import enable_stats
from gotrace.proc.priority import LATE_S
from gotrace.run.accounting import Accounting
from gotrace.run.handing import Handing
from gotrace.watch.protocol import Watched

_COMMIT_EVERY_S = 0.9
_STATS_FOR_S = 1.0
_SHOW_EVERY_S = 0.19
_EXEC_EVERY_S = 0.05
"""How often to check for an exec. What happens between an exec and the check is not recorded (bpf/exec.c)."""


class Stop:
    """Ends a run normally. `set` may be called from a signal handler; `fd` is readable from then on."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.fd, self._write = os.pipe()

    def set(self) -> None:
        """Ends it."""
        self._event.set()
        os.write(self._write, b"x")

    def is_set(self) -> bool:
        """Whether `set` was called."""
        return self._event.is_set()

    def close(self) -> None:
        """Closes its descriptors."""
        os.close(self.fd)
        os.close(self._write)


class Loop:
    """The loop of one run whose windows are open."""

    def __init__(
        self, processes: list[Watched], regulators: dict[int, Regulator], accounting: Accounting, handing: Handing, stop: Stop,
        stands_back: bool = True,
    ) -> None:
        self._processes = processes
        self._regulators = regulators
        self._accounting = accounting
        self._handing = handing
        self._stop = stop
        self._niceness = Niceness(stands_back)

    def follow(self, duration_ns: int) -> None:
        """Runs until the trace is over; with `duration_ns` 0, until it is stopped."""
        stats_fd = enable_stats() if any(process.program_fds() for process in self._processes) else None
        begin = last_commit = last_shown = last_asked = time.monotonic()
        opened = max(process.start_ns for process in self._processes) / 1e9
        deadline = opened + duration_ns / 1e9 if duration_ns else None
        waiting = {process.process.pidfd: process for process in self._processes}
        try:
            while not self._stop.is_set() and waiting:
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    return
                due = self._tick(waiting)
                now = time.monotonic()
                if stats_fd is not None and now - begin > _STATS_FOR_S:
                    self._accounting.measure_programs()
                    close_stats(stats_fd)
                    stats_fd = None
                # Not while a short window is open, which must be closed in time.
                if now - last_commit > _COMMIT_EVERY_S and not any(r.in_window for r in self._regulators.values()):
                    last_commit = now
                    self._handing.batch()
                if now - last_shown > _SHOW_EVERY_S:
                    last_shown = now
                    self._handing.show(now)
                self._wait(waiting, due if deadline is None else min(due, deadline))
                if time.monotonic() - last_asked > _EXEC_EVERY_S:
                    last_asked = time.monotonic()
                    for fd, process in list(waiting.items()):
                        if process.execed:
                            waiting.pop(fd).end()
        finally:
            self._give_back()
            self._niceness.end()
            if stats_fd is not None:
                self._accounting.measure_programs()
            close_stats(stats_fd)

    def _tick(self, waiting: dict[int, Watched]) -> float:
        """Does what is due; returns when something is due again (time.monotonic)."""
        wait = min(process.tick() for process in waiting.values())
        due = time.monotonic() + wait
        self._give_back()
        self._niceness.stand_back()
        now = time.monotonic()
        pids = [process.process.pid for process in waiting.values()]
        return min([due, *(now + self._regulators[pid].tick() for pid in pids if pid in self._regulators)])

    def _wait(self, waiting: dict[int, Watched], due: float) -> None:
        """Waits until that moment, the end of one of the processes, or `stop`."""
        sampled = []
        for process in waiting.values():
            if process.priority is not None:
                process.priority.take()
                sampled.append(process)
        due = max(due, time.monotonic())
        ended = select.select([*waiting, self._stop.fd], [], [], max(0.0, due - time.monotonic()))[0]
        late_s = 0.0 if ended else time.monotonic() - due
        if late_s > NICE_LATE_S:
            self._niceness.came_late()
        if late_s > LATE_S:
            for process in sampled:
                process.losses[Loss.LOOK_LATE] = process.losses.get(Loss.LOOK_LATE, 0) + 1
        for fd in ended:
            if fd in waiting:
                waiting.pop(fd).end()

    def _give_back(self) -> None:
        for process in self._processes:
            if process.priority is not None:
                process.priority.give_back()
