"""The samples of one process's memory, each taken when it is due."""

from __future__ import annotations

import time
from collections.abc import Callable

from gotrace.proc.priority import SamplePriority
from gotrace.proc.process import Process
from gotrace.profile.estimate import Estimator
from gotrace.watch.sampling.clock import SamplingClock
from gotrace.watch.sampling.execcheck import ExecCheck
from gotrace.watch.sampling.sampler import Sampler


class ScheduledSamples:
    """Taken by `sampler` with `priority`, as `clock` has them due. `last_ns`: when the last one was taken (CLOCK_MONOTONIC; 0: none yet);
    `count`: how many since the window opened; `exec_check` tells whether the process still runs the same program."""

    def __init__(self, process: Process, sampler: Sampler, clock: SamplingClock, priority: SamplePriority, estimator: Estimator) -> None:
        self.last_ns = 0
        self.count = 0
        self.exec_check = ExecCheck(process)
        self._sampler = sampler
        self._clock = clock
        self._priority = priority
        self._estimator = estimator

    def take(self) -> bool:
        """Takes a sample now. Returns False if the process is gone, or runs another program."""
        moment = time.monotonic_ns()
        self._priority.begin()
        try:
            taken = self._sampler.sample((self.last_ns + moment) // 2 if self.last_ns else moment, self.exec_check.ask)
        except (ProcessLookupError, PermissionError):
            taken = False  # the session sees that it is gone
        if taken and self._sampler.counting:
            self._estimator.count_sample(moment - self.last_ns)
            self.count += 1
        if taken:
            self.last_ns = moment
        return taken

    def open(self) -> int:
        """Takes the sample with which the window opens; returns when that is."""
        self.take()
        self.last_ns = self.last_ns or time.monotonic_ns()
        return self.last_ns

    def begin(self, start_ns: int) -> None:
        """The window is open since then: samples count, and the next one is due in a period."""
        self._sampler.begin()
        self._clock.begin(start_ns)
        self._plan(0)

    def tick(self, after: Callable[[], object]) -> float:
        """Takes a sample if one is due, and calls `after` then, whose cost is part of the sample's. Returns the seconds until the next."""
        if self._clock.due:
            cpu = time.thread_time_ns()
            if self.take():
                after()
            self._plan(time.thread_time_ns() - cpu)
        return self._clock.wait_s

    def _plan(self, cost_ns: int) -> None:
        if not self._clock.plan(self.last_ns, cost_ns):
            self._sampler.came_late()
