"""What the governor does with a trace by probes: removes and restores stages, takes samples, and detaches windows."""

from __future__ import annotations

import time
from collections.abc import Callable

from gotrace.common.errors import TargetGone
from gotrace.common.vocabulary import Loss, Stage
from gotrace.kernel.program import Options
from gotrace.kernel.tracer import Tracer
from gotrace.plan.makeplan import make_plan
from gotrace.plan.probes import Plan, ProbeSet
from gotrace.proc.priority import SamplePriority
from gotrace.profile.types import StackStat
from gotrace.watch.rows import Rows
from gotrace.watch.sampled import SampledProcess, SampleOptions
from gotrace.watch.target import OpenTarget
from gotrace.watch.window import Remaining, Window


class Steering:
    """Steers the trace of one process. `execed` tells whether it has called exec or ended; `losses` are the process's. `samples` counts
    those of its memory that were taken while no probe was placed."""

    def __init__(
        self, target: OpenTarget, plan: Plan, tracer: Tracer, window: Window, rows: Rows, options: Options, losses: dict[Loss, int],
        execed: Callable[[], bool],
    ) -> None:
        self.samples = 0
        self._target = target
        self._plan = plan
        self._tracer = tracer
        self._window = window
        self._rows = rows
        self._losses = losses
        self._execed = execed
        self._least_ns = self._sample_ns = options.sample_period_ns
        self._lean_plan: Plan | None = None
        self._paused_ns = self._looked_ns = 0
        self._sampled: SampledProcess | None = None
        self._stretches = 0

    # -- where it stands -----------------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether the trace is paused: no probe is placed."""
        return bool(self._window.detached_since)

    @property
    def paused_ns(self) -> int:
        """How long it has been paused in total, without samples."""
        if self._sampled is not None:
            return self._paused_ns
        now = self._window.end_ns or time.monotonic_ns()
        return self._paused_ns + (max(0, now - self._window.detached_since) if self.paused else 0)

    @property
    def looked_ns(self) -> int:
        """How long its memory was sampled during pauses."""
        sampled = self._sampled
        return self._looked_ns + (max(0, time.monotonic_ns() - sampled.start_ns) if sampled is not None else 0)

    @property
    def sampling(self) -> bool:
        """Whether its memory is being sampled."""
        return self._sampled is not None

    @property
    def priority(self) -> SamplePriority | None:
        """The priority of those samples; None if none are taken now."""
        return None if self._sampled is None else self._sampled.priority

    @property
    def can_pause(self) -> bool:
        """Whether intervals can be told from windows. They can where every way off the CPU is probed: a goroutine that no probe saw in a
        window then did not move in it."""
        return self._plan.probe_set is ProbeSet.COMPLETE

    @property
    def can_be_lean(self) -> bool:
        """Whether one probe instead of two is possible."""
        return self._plan.probe_set is ProbeSet.COMPLETE and self._tracer.sees_threads

    # -- stages --------------------------------------------------------------------------------------------------------

    def leave_out(self, stages: frozenset[Stage]) -> None:
        """Removes the probes of these stages. Intervals of threads that are off their CPU are cut off there."""
        window = self._window
        if Stage.WAKERS in stages:
            window.creation_unseen = True
            self._set_knobs()
        now = time.monotonic_ns()
        self._tracer.probes.remove(stages)
        if Stage.REQUESTS in stages:
            self._tracer.tables.spans.forget_open()
        if Stage.KERNEL in stages:
            window.threads_unseen = True
            self._rows.keep(window.cut_off_threads(now))
            self._tracer.tables.writer.forget_threads()

    def take_up(self, stages: frozenset[Stage]) -> None:
        """Places the probes of stages that were left out. Raises Refused or TargetGone; no probe is left then."""
        earlier = self._window.earlier
        noted = earlier.note() if Stage.KERNEL in stages else None
        self._tracer.probes.place(stages)
        if noted is not None:
            earlier.check(noted, time.monotonic_ns())

    def sample(self, period_ns: int) -> None:
        """Samples intervals shorter than that from now on, as with --sample-period; 0 stops it."""
        self._sample_ns = max(period_ns, self._least_ns)
        self._rows.tally.sampled = self._rows.tally.sampled or bool(self._sample_ns)
        self._set_knobs()

    def _set_knobs(self) -> None:
        self._tracer.set_knobs(self._sample_ns, self._window.creation_unseen)

    # -- detached windows ----------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Closes the window, accounts for what is parked, and removes all probes."""
        tracer, window = self._tracer, self._window
        end = tracer.drain()
        window.forget()
        remaining = Remaining()
        try:
            heads, busy = window.parked.heads(end - window.opened_ns)
            remaining.parked = window.parked.stacks(heads, busy)
            tracer.probes.remove(frozenset(Stage))
            tracer.stop()
            opened, known, _unseen = tracer.tables.read_open()
            missed = [g for g in heads if g not in remaining.parked and (g in opened or g not in known)]
            remaining.parked |= window.parked.stacks(heads, missed)
        except (ProcessLookupError, PermissionError):
            remaining.alive = False
            tracer.probes.remove(frozenset(Stage))
            tracer.stop()
        self._rows.keep(window.cut_off(remaining, end))
        tracer.tables.writer.forget(end)
        tracer.tables.spans.forget_open()
        window.detached_since = end
        self._set_knobs()

    def resume(self, length_ns: int, lean: bool = False) -> None:
        """Opens a window of `length_ns` (0: until `pause` or the end), with the core alone or with the one probe of mode lean. Raises
        Refused or TargetGone; no probe is left then."""
        if lean and self._lean_plan is None:
            self._lean_plan = make_plan(self._target.binary, ProbeSet.LEAN, wakers=False, exits=False)
        self.stop_sampling()
        self._rows.tally.inferred = self._rows.tally.inferred or lean
        self._tracer.follow(self._lean_plan if lean and self._lean_plan is not None else self._plan)
        if not self._execed():
            self._tracer.probes.place(frozenset((Stage.CORE,)))
        if self._execed():  # what is known of code and memory belongs to another program
            self._tracer.detach()
            raise TargetGone(f"process {self._target.process.pid} ended or called exec in a pause")
        since = self._window.detached_since
        self._window.open_again(length_ns)
        self._paused_ns += self._window.opened_ns - since

    # -- samples in a pause --------------------------------------------------------------------------------------------

    def start_sampling(self, options: SampleOptions) -> None:
        """Samples the process's memory during a pause, until the pause is over or `stop_sampling` is called."""
        self._sampled = SampledProcess(self._target, options)
        self._stretches += 1
        self._sampled.attach()
        self._sampled.begin()
        self._paused_ns += self._sampled.start_ns - self._window.detached_since

    def sampled_stacks(self) -> list[StackStat]:
        """Returns the stacks that these samples have changed since the last call."""
        if self._sampled is None:
            return []
        return self._rows.tally.take_samples(self._stretches, ((estimate, set()) for estimate in self._sampled.read()[0]))

    def tick(self, wait_s: float) -> float:
        """Takes a sample if one is due; returns the seconds until something is due, at most `wait_s`."""
        return wait_s if self._sampled is None else min(wait_s, self._sampled.tick())

    def end(self) -> None:
        """Ends the samples: the process is gone."""
        if self._sampled is not None:
            self._sampled.end()

    def stop_sampling(self) -> None:
        """Stops the samples, if any; the pause goes on without them."""
        sampled, self._sampled = self._sampled, None
        if sampled is None:
            return
        sampled.finish()
        self._rows.put(self._rows.tally.take_samples(self._stretches, sampled.found()))
        self.samples += sampled.samples
        for loss in (Loss.STACK_TORN, Loss.STACK_INCOMPLETE):
            self._losses[loss] = self._losses.get(loss, 0) + sampled.losses[loss]
        self._rows.sampled_incomplete += sampled.losses[Loss.STACK_INCOMPLETE]
        self._looked_ns += sampled.end_ns - sampled.start_ns
        self._window.detached_since = sampled.end_ns
