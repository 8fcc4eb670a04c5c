"""What the governor does with a trace by probes: removes and restores stages, and detaches windows."""

from __future__ import annotations

import time
from collections.abc import Callable

from gotrace.common.errors import TargetGone
from gotrace.common.vocabulary import Loss, Stage, Stat
from gotrace.kernel.program import Options
from gotrace.kernel.tracer import Tracer
from gotrace.plan.makeplan import make_plan
from gotrace.plan.probes import Plan, ProbeSet
from gotrace.watch.detached import DetachedWindows
from gotrace.watch.requests.watcher import Requests
from gotrace.watch.rows import Rows
from gotrace.watch.target import OpenTarget
from gotrace.watch.window import Remaining, Window


class Steering:
    """Steers the trace of one process. `execed` tells whether it has called exec or ended; `losses` are the process's, and `requests`, if
    there are any. `detached` has what there is of pauses."""

    def __init__(
        self, target: OpenTarget, plan: Plan, tracer: Tracer, window: Window, rows: Rows, options: Options, losses: dict[Loss, int],
        execed: Callable[[], bool], requests: Requests | None = None,
    ) -> None:
        self.detached = DetachedWindows(target, window, rows, tracer.tables.writer, losses)
        self._target = target
        self._plan = plan
        self._tracer = tracer
        self._window = window
        self._rows = rows
        self._execed = execed
        self._requests = requests
        self._requests_until_ns = self._requests_left_before = 0
        self._least_ns = self._sample_ns = options.sample_period_ns
        self._lean_plan: Plan | None = None

    # -- where it stands -----------------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether the trace is paused: no probe is placed."""
        return bool(self._window.detached_since)

    @property
    def can_pause(self) -> bool:
        """Whether intervals can be told from windows. They can where every way off the CPU is probed: a goroutine that no probe saw in a
        window then did not move in it."""
        return self._plan.probe_set in (ProbeSet.COMPLETE, ProbeSet.READY)

    @property
    def can_be_sampled(self) -> bool:
        """Whether samples of memory can take the place of probes: not for waits that are far shorter than the time between two samples."""
        return self._plan.probe_set is not ProbeSet.READY

    @property
    def can_be_lean(self) -> bool:
        """Whether one probe instead of two is possible."""
        return self._plan.probe_set is ProbeSet.COMPLETE and self._tracer.sees_threads

    @property
    def requests_begun(self) -> int:
        """How many requests have begun while they were wanted."""
        return self._tracer.tables.read_stats()[Stat.SPAN_BEGUN]

    @property
    def requests_left(self) -> int:
        """How many of those that began in this window have not ended."""
        stats = self._tracer.tables.read_stats()
        return stats[Stat.SPAN_BEGUN] - stats[Stat.SPAN_ENDED] - self._requests_left_before

    # -- stages --------------------------------------------------------------------------------------------------------

    def leave_out(self, stages: frozenset[Stage]) -> None:
        """Removes the probes of these stages. Intervals of threads that are off their CPU are cut off there."""
        window = self._window
        if Stage.WAKERS in stages:
            window.creation_unseen = True
            self._set_knobs()
        now = time.monotonic_ns()
        self._tracer.probes.remove(stages)
        if Stage.REQUESTS in stages and self._requests is not None:
            self._requests.interrupt(now)
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
        if Stage.REQUESTS in stages and self._requests is not None:
            self._requests.begin(time.monotonic_ns())

    def take_no_more_requests(self) -> None:
        """Of the requests that begin from now on none is recorded, until the next window."""
        self._take_requests_until(time.monotonic_ns())

    def _take_requests_until(self, until_ns: int) -> None:
        self._requests_until_ns = until_ns
        self._set_knobs()
        if self._requests is not None and until_ns:
            self._requests.take_until(until_ns)

    def sample(self, period_ns: int) -> None:
        """Samples intervals shorter than that from now on, as with --sample-period; 0 stops it."""
        self._sample_ns = max(period_ns, self._least_ns)
        self._rows.tally.sampled = self._rows.tally.sampled or bool(self._sample_ns)
        self._set_knobs()

    def _set_knobs(self) -> None:
        self._tracer.set_knobs(self._sample_ns, self._window.creation_unseen, self._requests_until_ns)

    # -- detached windows ----------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Closes the window, accounts for what is parked, and removes all probes."""
        tracer, window = self._tracer, self._window
        end = tracer.drain()
        window.forget()
        remaining = Remaining()
        try:
            heads, busy = window.parked.heads(end - window.opened_ns) if window.whole else ({}, [])
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
        wanted = self._requests.wanted() if self._requests is not None else None
        cut = window.cut_off(remaining, end, followed=wanted)
        self._rows.keep(cut)
        if self._requests is not None:
            self._requests.close(end, cut, () if remaining.alive else None)
        tracer.tables.writer.forget(end)
        window.detached_since = end
        self._set_knobs()

    def resume(
        self, length_ns: int, lean: bool = False, stages: frozenset[Stage] = frozenset((Stage.CORE,)), taking_ns: int = 0,
    ) -> None:
        """Opens a window of `length_ns` (0: until `pause` or the end), with these stages, or with the one probe of mode lean. Requests are
        recorded that begin in its first `taking_ns` (0: all). Raises Refused or TargetGone; no probe is left then."""
        if lean and self._lean_plan is None:
            self._lean_plan = make_plan(self._target.binary, ProbeSet.LEAN, wakers=False, exits=False)
        self.detached.stop_sampling()
        window = self._window
        self._rows.tally.inferred = self._rows.tally.inferred or lean
        self._tracer.follow(self._lean_plan if lean and self._lean_plan is not None else self._plan)
        if not self._execed():
            self._tracer.probes.place(stages)
        if self._execed():  # what is known of code and memory belongs to another program
            self._tracer.detach()
            raise TargetGone(f"process {self._target.process.pid} ended or called exec in a pause")
        since = window.detached_since
        noted = window.earlier.note() if Stage.KERNEL in stages else None
        stats = self._tracer.tables.read_stats()
        self._requests_left_before = stats[Stat.SPAN_BEGUN] - stats[Stat.SPAN_ENDED]
        self._take_requests_until(0)
        window.open_again(length_ns)
        if Stage.REQUESTS in stages and self._requests is not None:
            self._requests.begin(window.opened_ns)
            if taking_ns:
                self._take_requests_until(window.opened_ns + taking_ns)
        if noted is not None:
            window.earlier.check(noted, window.opened_ns)
        self.detached.over(since, window.opened_ns)

    def end(self) -> None:
        """Closes the window for good: the process is gone."""
        self.detached.end()
        self.close_window()

    def close_window(self) -> None:
        """Closes the window for good; samples, if any, end with it."""
        if self.detached.sampling:
            self.detached.stop_sampling()
            self._window.end_ns = self._window.end_ns or self._window.detached_since
        self._window.close()
