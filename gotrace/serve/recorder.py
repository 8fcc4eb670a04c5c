"""The sink that cuts what a trace yields into steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from gotrace.common.vocabulary import Loss
from gotrace.profile.gained import bucket_gained, copied, difference, governor_gained
from gotrace.profile.hotspots import idle_by_design
from gotrace.profile.requests import Exemplar, Span, SpanBucket
from gotrace.profile.types import Distribution, GovernorReport, Overhead, Pause, Profile, SingleInterval, StackStat
from gotrace.run.sinks import Delta, Moment, Sink
from gotrace.serve.ring import Ring
from gotrace.serve.slices import Known, in_clock
from gotrace.serve.steps import Calls, Step, Wait

_MOST_STACKS = 20_000
_RENEW_S = 3600.0
_RENEW_LEAST_S = 60.0
_FULL = (Loss.STACK_TABLE_FULL, Loss.PAUSE_TABLE_FULL, Loss.OBJECT_TABLE_FULL, Loss.SPAN_TABLE_FULL)
"""Losses of tables that a new trace begins with empty."""


class _Before:
    """What a stack had at the last step. The reference keeps its identity valid."""

    __slots__ = ("distribution", "extra", "idle", "margin_ns", "stack")

    def __init__(self, stack: StackStat) -> None:
        self.stack = stack
        self.distribution = Distribution()
        self.extra = (0, 0, 0, 0)
        self.margin_ns: int | None = None
        self.idle = idle_by_design(stack)

    def gained(self) -> Wait:
        """What it has gained since then; from now on that is what it had."""
        stack = self.stack
        now = stack.stopped_ns, stack.long_runs, stack.halted_ns, stack.late_ns
        extra = tuple(max(0, new - old) for new, old in zip(now, self.extra, strict=True))
        margin_ns = stack.margin_ns
        if margin_ns is not None and self.margin_ns is not None:
            margin_ns = round(math.sqrt(max(0, margin_ns**2 - self.margin_ns**2)))  # of independent estimates
        found = Wait(
            stack, difference(stack.distribution, self.distribution), (extra[0], extra[1], extra[2], extra[3]),
            stack.long_run_max_ns if extra[1] else 0, margin_ns, self.idle,
        )
        self.distribution, self.extra, self.margin_ns = copied(stack.distribution), now, stack.margin_ns
        return found


class Recorder(Sink):
    """Puts one trace of a process into a ring. `stepped` is called with each step, by the thread that runs the trace; `mind` as well, with
    the profile so far, before it. `known` is None, or that of the trace before, until the first step. `renew` says that the trace should
    be ended and another one begun: its tables are full, or it is old."""

    name = "the ring"

    def __init__(self, ring: Ring, stepped: Callable[[Step], None], mind: Callable[[Profile], None] = lambda _: None) -> None:
        self.known: Known | None = None
        self.renew = False
        self.ongoing: Sequence[StackStat] = ()
        self._ring = ring
        self._stepped, self._mind = stepped, mind
        self._began = time.monotonic()
        self._origin_ns = self._last_ns = 0
        self._stacks: dict[int, _Before] = {}
        self._changed: dict[int, _Before] = {}
        self._spans: dict[str, Span] = {}
        self._pauses: list[Pause] = []
        self._intervals: list[SingleInterval] = []
        self._losses: dict[Loss, int] = {}
        self._attached_ns = self._cpu_ns = self._hits = 0
        self._governor: GovernorReport | None = None

    def opened(self, profile: Profile) -> None:
        """The trace begins."""
        self._last_ns = time.monotonic_ns()
        self._origin_ns = self._last_ns - profile.window.duration_ns
        self._last_ns = self._origin_ns
        self.known = self._know(profile)

    def take(self, delta: Delta) -> None:
        """Notes what has changed."""
        for stack in delta.stacks:
            before = self._stacks.get(id(stack))
            if before is None:
                before = self._stacks[id(stack)] = _Before(stack)
            self._changed[id(stack)] = before
        self._pauses += delta.pauses
        self._intervals += delta.intervals

    def commit(self, moment: Moment) -> None:
        """Ends a step."""
        ongoing = [stack for waits in moment.waits() for stack in waits.stacks]
        self._step(moment.profile(), ongoing)

    def closed(self, profile: Profile) -> None:
        """The last step: the sums now include the waits that the end has cut off."""
        self._step(profile, ())

    def _step(self, profile: Profile, ongoing: Sequence[StackStat]) -> None:
        self._mind(profile)
        end_ns = self._origin_ns + profile.window.duration_ns
        if end_ns <= self._last_ns:
            end_ns = self._last_ns + 1
        governor = governor_gained(profile.governor, self._governor)
        step = Step(
            self._last_ns, end_ns, self._origin_ns, self._gained(), self._calls(profile.requests), self._pauses, self._intervals,
            {loss: more for loss, count in profile.losses.items() if (more := count - self._losses.get(loss, 0)) > 0},
            max(0, profile.window.attached_ns - self._attached_ns), max(0, profile.cpu_ns - self._cpu_ns),
            max(0, profile.overhead.hits - self._hits), governor, profile.overhead,
        )
        self._last_ns, self._pauses, self._intervals, self._losses = end_ns, [], [], dict(profile.losses)
        self._attached_ns, self._cpu_ns, self._governor = profile.window.attached_ns, profile.cpu_ns, profile.governor
        self._hits = profile.overhead.hits
        self.known = self._know(profile)
        self.ongoing = ongoing
        self._ring.add(step, ongoing)
        self._stepped(step)
        age_s = time.monotonic() - self._began
        full = len(self._stacks) > _MOST_STACKS or any(profile.losses.get(loss, 0) for loss in _FULL)
        self.renew = age_s > _RENEW_S or full and age_s > _RENEW_LEAST_S

    def _gained(self) -> list[Wait]:
        waits = [before.gained() for before in self._changed.values()]
        self._changed = {}
        return [wait for wait in waits if wait.gained.count or wait.gained.total_ns or wait.gained.histogram]

    def _calls(self, spans: Sequence[Span]) -> list[Calls]:
        found = []
        for span in spans:
            before = self._spans.get(span.function) or Span(span.function)
            buckets: dict[int, SpanBucket] = {}
            for number, bucket in span.buckets.items():
                gained = bucket_gained(bucket, before.buckets.get(number))
                if gained is not None:
                    buckets[number] = gained
            found.append(Calls(
                span.function, difference(span.latency, before.latency), buckets,
                max(0, span.begun_before - before.begun_before), max(0, span.traced_ns - before.traced_ns),
            ))
            self._spans[span.function] = span  # made new at each commit
        return found

    def _know(self, profile: Profile) -> Known:
        exemplars: dict[str, list[Exemplar]] = {}
        for span in profile.requests:
            exemplars[span.function] = [in_clock(one, self._origin_ns) for one in span.exemplars]
        goroutines = self.known.goroutines if self.known is not None else 0
        return Known(
            profile.targets[0], profile.window.mode, profile.missing, profile.notes, exemplars,
            {span.function: span.in_progress for span in profile.requests}, goroutines,
        )

    def release(self) -> None:
        """The trace is over: forgets what only it needs, among that the trace itself. What `known` says stays."""
        self._mind = self._stepped = _nothing
        self._stacks, self._changed, self._spans, self.ongoing = {}, {}, {}, ()

    @property
    def overhead(self) -> Overhead:
        """What gotrace costs, as of the last step."""
        latest = self._ring.latest()
        return latest.overhead if latest is not None else Overhead()


def _nothing(_: object) -> None:
    """In place of what is to be called."""
