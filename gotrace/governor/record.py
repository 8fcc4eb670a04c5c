"""What the governor of one process has done: each change, and how long it was on each rung."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from gotrace.common.vocabulary import Stage
from gotrace.governor.policy import RUNG_TEXT, Load, Rung
from gotrace.profile.types import GovernorReport, GovernorStep
from gotrace.watch.probed import ProbedProcess

MOST_STEPS = 10_000


class GovernorRecord:
    """The record of one process, whose cost is to stay below `cap`, which may change. `say` gets one line for each change;
    `sampled_anyway`: short intervals are sampled without the governor, too. Of more than `MOST_STEPS` changes
    the latest are kept."""

    def __init__(self, process: ProbedProcess, cap: float, say: Callable[[str], None], sampled_anyway: bool) -> None:
        self.steps: deque[GovernorStep] = deque(maxlen=MOST_STEPS)
        self.noted = 0
        self._process = process
        self.cap = self._first_cap = cap
        self._say = say
        self._sampled_anyway = sampled_anyway
        self._on_rungs = dict.fromkeys(Rung, 0)
        self._entered = 0

    def begin(self) -> int:
        """Begins, on the first rung; returns when (CLOCK_MONOTONIC, ns)."""
        self._entered = time.monotonic_ns()
        return self._entered

    def note(self, rung: Rung, wanted: Rung, share: float) -> None:
        """It goes from one rung to another, as tracing cost that share."""
        now, process = time.monotonic_ns(), self._process
        self._on_rungs[rung] += now - self._entered
        self._entered = now
        self.noted += 1
        self.steps.append(GovernorStep(now - process.start_ns, process.process.pid, wanted.name.lower(), share))
        self._say(
            f"governor: tracing PID {process.process.pid} cost {100 * share:.2g} % of its own CPU time, or of one CPU "
            f"(cap {100 * self.cap:.3g} %): from here on {RUNG_TEXT[wanted]}"
        )

    def report(self, rung: Rung, load: Load, stages: frozenset[Stage]) -> GovernorReport:
        """What was done so far. It is on that rung now; `load` is that of the whole trace, which began with these stages."""
        process, now = self._process, self._process.end_ns or time.monotonic_ns()
        spent = self._on_rungs | {rung: self._on_rungs[rung] + max(0, now - self._entered)}
        detached = process.steering.detached

        def since(rung: Rung) -> int:
            return sum(ns for at, ns in spent.items() if at >= rung)

        return GovernorReport(
            max_overhead=self._first_cap, share=load.share, cost_ns=load.cost_ns,
            wakers_off_ns=since(Rung.WAKERS) if Stage.WAKERS in stages else 0,
            kernel_off_ns=since(Rung.KERNEL) if Stage.KERNEL in stages else 0,
            sampled_ns=0 if self._sampled_anyway else since(Rung.SINGLE),
            lean_ns=spent[Rung.STARTS], looked_ns=detached.looked_ns, paused_ns=detached.paused_ns,
            windows=process.window.count,
            unlooked_windows=process.window.parked.partly_read, steps=tuple(self.steps), steps_dropped=self.noted - len(self.steps),
        )
