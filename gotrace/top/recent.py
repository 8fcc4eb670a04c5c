"""The last minute of a trace by stack, in steps: so that a part of a running trace can be written as a profile of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from gotrace.common.units import format_duration
from gotrace.profile.gained import bucket_gained, copied, difference, governor_gained
from gotrace.profile.requests import Span, SpanBucket, WaitSum, key_parts
from gotrace.profile.types import Distribution, GovernorReport, Profile, StackKey, StackStat
from gotrace.top.history import KEPT_NS, LAST_NS, Window

_MOST_GAINS = 100_000
"""How many gains of stacks are kept in all steps together, some 60 MB; beyond it, the oldest steps are dropped."""


@dataclass
class _Mark:
    """Where the trace stood, from its start on: for how long it had been traced, and the sums that are kept for all of it."""

    at_ns: int = 0
    attached_ns: int = 0
    spans: list[Span] = field(default_factory=list)
    governor: GovernorReport | None = None


@dataclass
class _Step:
    """What stacks gained, by identity, from a mark up to `end_ns`."""

    begin: _Mark
    end_ns: int
    gains: dict[int, StackStat]


class Recent:
    """Keeps it for one process. Stacks are told by identity: whoever calls keeps them."""

    def __init__(self) -> None:
        self._base: dict[int, StackStat] = {}
        self._start = self._last = _Mark()
        self._fine: deque[_Step] = deque()
        self._coarse: deque[_Step] = deque()
        self._now: dict[int, StackStat] = {}

    def add(self, identity: int, gain: StackStat) -> None:
        """What a stack gained in the step that has not ended yet."""
        _add(self._now, identity, gain)

    def step(self, profile: Profile) -> None:
        """Ends the step, as of `profile`."""
        mark = _mark(profile)
        self._fine.append(_Step(self._last, mark.at_ns, self._now))
        self._now, self._last = {}, mark
        while self._fine and self._fine[0].end_ns <= mark.at_ns - LAST_NS:
            self._make_coarse(self._fine.popleft())
        while self._coarse and self._coarse[0].end_ns <= mark.at_ns - KEPT_NS:
            self._coarse.popleft()
        while sum(len(step.gains) for step in (*self._coarse, *self._fine)) > _MOST_GAINS and len(self._fine) > 1:
            (self._coarse or self._fine).popleft()

    def _make_coarse(self, step: _Step) -> None:
        if self._coarse and step.end_ns - self._coarse[-1].begin.at_ns <= LAST_NS:
            last = self._coarse[-1]
            last.end_ns = step.end_ns
            for identity, gain in step.gains.items():
                _add(last.gains, identity, gain)
        else:
            self._coarse.append(step)

    def reset(self, stacks: dict[int, StackStat]) -> None:
        """Forgets the past: the start is now. `stacks` are all, as they are now."""
        self._base, self._start = stacks, self._last
        self._fine.clear()
        self._coarse.clear()
        self._now = {}

    def profile_of(self, window: Window, profile: Profile, stacks: dict[int, StackStat], ongoing: Iterable[StackStat]) -> Profile:
        """The profile of a window up to the last step: since the start, the last ten seconds, or, where figures fade, the last minute.
        `profile` is that of the whole trace then. `stacks` are all as they are now; `ongoing` are waits in progress, which count as far
        as they lie in the window."""
        if window is Window.START:
            since = self._start
            gains = [gained(stack, self._base.get(identity)) for identity, stack in stacks.items()]
        else:
            steps = [*(self._coarse if window is Window.FADING else ()), *self._fine]
            since = steps[0].begin if steps else self._last
            sums: dict[int, StackStat] = {}
            for step in steps:
                for identity, gain in step.gains.items():
                    _add(sums, identity, gain)
            gains = list(sums.values())
        length = max(0, self._last.at_ns - since.at_ns)
        found = {stack.key: stack for stack in gains if stack.distribution.count > 0 or stack.distribution.total_ns > 0}
        for waiting in ongoing:
            _add_by_key(found, _clipped(waiting, length))
        spans = {(span.function, span.pid): span for span in since.spans}
        requests = [_span_gained(span, spans.get((span.function, span.pid), Span(span.function)), since.at_ns, found)
                    for span in profile.requests]
        start = datetime.fromisoformat(profile.window.start) + timedelta(microseconds=since.at_ns // 1000)
        traced = replace(
            profile.window, start=start.isoformat(timespec="milliseconds"), duration_ns=length,
            attached_ns=min(length, self._last.attached_ns - since.attached_ns),
        )
        note = f"this is the window of {format_duration(length)} that gotrace top showed; losses and CPU time are of the whole trace"
        return replace(
            profile, window=traced, stacks=sorted(found.values(), key=lambda stack: -stack.distribution.total_ns),
            pauses=[replace(pause, start_ns=pause.start_ns - since.at_ns) for pause in profile.pauses if pause.start_ns >= since.at_ns],
            requests=[span for span in requests if span.latency.count or span.in_progress or span.begun_before],
            governor=_governor_gained(profile.governor, since.governor, since.at_ns),
            notes=[*profile.notes, *([note] if since.at_ns else [])],
        )


def gained(new: StackStat, old: StackStat | None) -> StackStat:
    """What a stack has more than at an earlier moment; its sub-windows are left out."""
    if old is None:
        return snapshot(new)
    return StackStat(
        new.frames, new.state, new.reason, difference(new.distribution, old.distribution), new.goroutines,
        max(0, new.in_progress - old.in_progress), new.goid, new.pid, new.stopped_ns - old.stopped_ns, new.long_runs - old.long_runs,
        new.long_run_max_ns if new.long_runs > old.long_runs else 0, [], new.margin_ns, new.halted_ns - old.halted_ns,
        new.late_ns - old.late_ns,
    )


def snapshot(stack: StackStat) -> StackStat:
    """The same as of now: `stack` may grow."""
    return replace(stack, distribution=copied(stack.distribution), subwindows=[])


def _mark(profile: Profile) -> _Mark:
    return _Mark(profile.window.duration_ns, profile.window.attached_ns, profile.requests, profile.governor)


def _add(sums: dict[int, StackStat], identity: int, gain: StackStat) -> None:
    known = sums.get(identity)
    if known is None:
        sums[identity] = snapshot(gain)
    else:
        _put_in(known, gain)


def _add_by_key(sums: dict[StackKey, StackStat], more: StackStat) -> None:
    known = sums.setdefault(more.key, more)
    if known is not more:
        _put_in(known, more)


def _put_in(known: StackStat, gain: StackStat) -> None:
    known.distribution.add(gain.distribution)
    known.in_progress += gain.in_progress
    known.stopped_ns += gain.stopped_ns
    known.halted_ns += gain.halted_ns
    known.late_ns += gain.late_ns
    known.long_runs += gain.long_runs
    known.long_run_max_ns = max(known.long_run_max_ns, gain.long_run_max_ns)
    known.goroutines = max(known.goroutines, gain.goroutines)


def _clipped(waiting: StackStat, length_ns: int) -> StackStat:
    return replace(snapshot(waiting), distribution=cut(waiting.distribution, length_ns), in_progress=waiting.distribution.count)


def cut(ongoing: Distribution, length_ns: int) -> Distribution:
    """Waits in progress, as far as they lie in a window. Their histogram stays: a wait may be longer than the window."""
    if ongoing.max_ns <= length_ns:
        return copied(ongoing)
    return replace(copied(ongoing), total_ns=min(ongoing.total_ns, ongoing.count * max(1, length_ns)), max_ns=max(1, length_ns))


def _governor_gained(new: GovernorReport | None, old: GovernorReport | None, since_ns: int) -> GovernorReport | None:
    gained = governor_gained(new, old)
    if gained is None or new is None or old is None:
        return gained
    return replace(gained, steps=tuple(replace(step, at_ns=step.at_ns - since_ns) for step in gained.steps) or new.steps[-1:])


def _span_gained(new: Span, old: Span, since_ns: int, stacks: dict[StackKey, StackStat]) -> Span:
    buckets = {}
    for number, bucket in new.buckets.items():
        gain = bucket_gained(bucket, old.buckets.get(number))
        if gain is not None and gain.count > 0:
            buckets[number] = _of_known_stacks(gain, stacks)
    exemplars = [
        replace(each, start_ns=each.start_ns - since_ns, path=tuple(replace(step, start_ns=step.start_ns - since_ns) for step in each.path))
        for each in new.exemplars if each.start_ns >= since_ns
    ]
    return Span(
        new.function, new.pid, difference(new.latency, old.latency), new.in_progress, buckets, exemplars, new.shown,
        max(0, new.begun_before - old.begun_before), max(0, new.traced_ns - old.traced_ns), new.in_progress_before, new.lasting,
        dict(new.doing), 1 + max(0, new.windows - max(1, old.windows)), difference(new.cut, old.cut),
    )


def _of_known_stacks(gain: SpanBucket, stacks: dict[StackKey, StackStat]) -> SpanBucket:
    """The same, with waits of other stacks told by state and reason alone: the stacks were read a moment before the requests."""
    known, other = {}, {both: WaitSum(wait.count, wait.total_ns) for both, wait in gain.other.items()}
    for key, wait in gain.waits.items():
        if key in stacks:
            known[key] = wait
            continue
        added = other.setdefault(key_parts(key), WaitSum())
        added.count += wait.count
        added.total_ns += wait.total_ns
    return replace(gain, waits=known, other=other)
