"""Profiles of any stretch of a ring: what attach would have shown of it, had it traced just then."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timezone

from gotrace import __version__
from gotrace.common.histogram import bucket_range
from gotrace.common.vocabulary import Loss
from gotrace.governor.policy import FLOOR
from gotrace.profile.gained import add_bucket, governor_sums
from gotrace.profile.hotspots import find_hotspots
from gotrace.profile.requests import Exemplar, PathStep, Span, SpanBucket, WaitSum, key_parts
from gotrace.profile.types import (
    Distribution,
    GovernorReport,
    Missing,
    Overhead,
    Pause,
    Profile,
    StackKey,
    StackStat,
    SubWindow,
    Target,
    TimelineInterval,
    Window,
)
from gotrace.serve.clipping import clipped, sound
from gotrace.serve.ring import Ring
from gotrace.serve.steps import Calls, Step

_S = 1_000_000_000
_MOST_SUBWINDOWS = 64
_ROUNDED = 0.01
"""The part of a step that a moment in milliseconds may be off, and more."""
_NOTE = "cut from what gotrace serve keeps, in steps of about a second: waits that reach out of the window are cut to within a step"


class Known:
    """What a slice needs beside the ring: the process, the mode, what is missing, notes, and requests kept one by one, whose moments are
    CLOCK_MONOTONIC. Replaced as a whole, so that other threads may read it."""

    def __init__(
        self, target: Target, mode: str, missing: Sequence[Missing] = (), notes: Sequence[str] = (),
        exemplars: dict[str, list[Exemplar]] | None = None, in_progress: dict[str, int] | None = None, goroutines: int = 0,
    ) -> None:
        self.target, self.mode, self.missing, self.notes = target, mode, missing, notes
        self.exemplars, self.in_progress = exemplars or {}, in_progress or {}
        self.goroutines = goroutines


def slice_of(ring: Ring, known: Known, begin_ns: int, until_ns: int) -> Profile | None:
    """The profile of the steps of which more than a hundredth lies in [begin_ns, until_ns] (CLOCK_MONOTONIC), as far as the ring reaches;
    None if it has nothing of it."""
    steps, ended_ns, ongoing = ring.since(begin_ns)
    steps = [step for step in steps if step.end_ns > begin_ns]
    touched = [step for step in steps if step.begin_ns < until_ns]
    if not touched:
        return None
    # Whole steps: what is counted in one can't be divided. A moment that was rounded does not bring in another one.
    parts = [_part(step, begin_ns, until_ns) for step in touched]
    inside = [step for step, part in zip(touched, parts, strict=True) if part > _ROUNDED] or [touched[parts.index(max(parts))]]
    begin_ns, until_ns = inside[0].begin_ns, inside[-1].end_ns
    steps = [step for step in steps if step.end_ns > begin_ns]
    stacks = _Stacks(begin_ns, until_ns)
    for step in steps:
        stacks.take(step)
    stacks.take_ongoing(ongoing, ended_ns)
    found, by_key = stacks.result()
    origin = begin_ns
    profile = Profile(
        __version__, [known.target], _window(known, inside, begin_ns, until_ns), found,
        _losses(inside), overhead=_overhead(inside), goroutines=known.goroutines, cpu_ns=sum(step.cpu_ns for step in inside),
        pauses=_pauses(inside, origin), timeline=_timeline(inside, origin, by_key), governor=_governor(inside, origin),
        missing=list(known.missing), notes=[*known.notes, _NOTE],
        requests=_requests(inside, known, begin_ns, until_ns, by_key),
    )
    profile.hotspots = find_hotspots(profile)
    return profile


def _part(step: Step, begin_ns: int, until_ns: int) -> float:
    return (min(step.end_ns, until_ns) - max(step.begin_ns, begin_ns)) / max(1, step.end_ns - step.begin_ns)


class _Stacks:
    """Adds up stacks of a window."""

    def __init__(self, begin_ns: int, until_ns: int) -> None:
        self._begin_ns, self._until_ns = begin_ns, until_ns
        self._length_ns = max(_S, -(-(until_ns - begin_ns) // _MOST_SUBWINDOWS // _S) * _S)
        self._found: dict[StackKey, StackStat] = {}

    def _stack(self, like: StackStat) -> StackStat:
        found = self._found.get(like.key)
        if found is None:
            found = self._found[like.key] = StackStat(
                like.frames, like.state, like.reason, Distribution(), goid=like.goid, pid=like.pid, waited=like.waited,
                labels=like.labels,
            )
        return found

    def take(self, step: Step) -> None:
        """Adds a step that ends in the window or after it."""
        in_window = step.end_ns <= self._until_ns
        ended_ns = (step.begin_ns + step.end_ns) // 2 if in_window else step.end_ns
        for wait in step.waits:
            if not in_window and wait.gained.max_ns <= ended_ns - self._until_ns:
                continue
            part, cut = clipped(wait.gained, max(ended_ns, self._begin_ns + 1), self._begin_ns, self._until_ns)
            if not part.count and not part.total_ns and not part.histogram:
                continue
            stack = self._stack(wait.stack)
            stack.distribution.add(part)
            stack.in_progress += cut
            if wait.margin_ns is not None:
                stack.margin_ns = round(math.hypot(stack.margin_ns or 0, wait.margin_ns))
            if in_window:
                stack.stopped_ns += wait.extra[0]
                stack.long_runs += wait.extra[1]
                stack.halted_ns += wait.extra[2]
                stack.late_ns += wait.extra[3]
                stack.long_run_max_ns = max(stack.long_run_max_ns, wait.long_run_max_ns)
                self._add_subwindow(stack, (step.begin_ns + step.end_ns) // 2, part)

    def _add_subwindow(self, stack: StackStat, at_ns: int, part: Distribution) -> None:
        if part.count <= 0:
            return
        start = (at_ns - self._begin_ns) // self._length_ns * self._length_ns
        new = SubWindow(start, self._length_ns, part.count, part.total_ns, part.squares)
        rows = stack.subwindows
        if rows and rows[-1].start_ns == start:
            rows[-1] += new
        else:
            rows.append(new)

    def take_ongoing(self, waits: Iterable[StackStat], now_ns: int) -> None:
        """Adds waits that are in progress at `now_ns`."""
        for wait in waits:
            part, _ = clipped(wait.distribution, now_ns, self._begin_ns, self._until_ns)
            if part.count > 0:
                stack = self._stack(wait)
                stack.distribution.add(part)
                stack.in_progress += part.count

    def result(self) -> tuple[list[StackStat], dict[StackKey, StackStat]]:
        """All, the largest first."""
        for stack in self._found.values():
            stack.distribution = sound(stack.distribution)
            stack.in_progress = min(stack.in_progress, stack.distribution.count)
            total_ns = stack.distribution.total_ns
            stack.stopped_ns, stack.halted_ns = min(stack.stopped_ns, total_ns), min(stack.halted_ns, total_ns)
            stack.late_ns = min(stack.late_ns, total_ns)
        kept = {key: stack for key, stack in self._found.items() if stack.distribution.count or stack.distribution.total_ns}
        return sorted(kept.values(), key=lambda stack: -stack.distribution.total_ns), kept


def wall_ns(monotonic_ns: int) -> int:
    """The time of day (ns since 1970) of a moment of CLOCK_MONOTONIC, by the clock as it is now."""
    return time.time_ns() - (time.monotonic_ns() - monotonic_ns)


def rfc3339(monotonic_ns: int) -> str:
    """The same as text, in UTC."""
    return datetime.fromtimestamp(wall_ns(monotonic_ns) / 1e9, timezone.utc).isoformat(timespec="milliseconds")


def _window(known: Known, steps: list[Step], begin_ns: int, until_ns: int) -> Window:
    attached_ns = sum(step.attached_ns for step in steps)
    return Window(rfc3339(begin_ns), until_ns - begin_ns, known.mode, min(attached_ns, until_ns - begin_ns))


def _losses(steps: list[Step]) -> dict[Loss, int]:
    return {loss: sum(step.losses.get(loss, 0) for step in steps) for loss in Loss}


def _overhead(steps: list[Step]) -> Overhead:
    last = steps[-1].overhead
    hits, length_s = sum(step.hits for step in steps), (steps[-1].end_ns - steps[0].begin_ns) / 1e9
    intervals = sum(wait.gained.count for step in steps for wait in step.waits)
    governor = _governor(steps, 0)
    share = governor.share if governor is not None else last.target_cpu_fraction_estimate
    return replace(
        last, hits=hits, hits_per_s=hits / length_s if length_s else 0.0, target_cpu_fraction_estimate=min(1.0, share),
        traps_per_interval=hits / intervals if intervals > 0 else 0.0,
    )


def _pauses(steps: list[Step], begin_ns: int) -> list[Pause]:
    return [replace(pause, start_ns=pause.start_ns + step.origin_ns - begin_ns) for step in steps for pause in step.pauses]


def _timeline(steps: list[Step], begin_ns: int, stacks: dict[StackKey, StackStat]) -> list[TimelineInterval]:
    found = []
    for step in steps:
        for one in step.intervals:
            stack = stacks.get(one.stack_key)
            start_ns = one.start_ns + step.origin_ns - begin_ns
            if stack is not None and start_ns + one.duration_ns > 0:
                start = max(0, start_ns)
                found.append(TimelineInterval(one.goid, start, start_ns + one.duration_ns - start, stack, one.waker_goid, one.tid))
    return found


def _governor(steps: list[Step], begin_ns: int) -> GovernorReport | None:
    last = next((step.governor for step in reversed(steps) if step.governor is not None), None)
    if last is None:
        return None
    # Each step has what was added in it.
    sums = governor_sums(step.governor for step in steps if step.governor is not None)
    changes = tuple(
        replace(change, at_ns=max(0, change.at_ns + step.origin_ns - begin_ns))
        for step in steps if step.governor is not None for change in step.governor.steps
    )
    sums["windows"] = max(1, sums["windows"])
    return replace(last, **sums, steps=changes, share=cost_share(steps))


def cost_share(steps: Sequence[Step]) -> float:
    """What tracing cost, as a share of what the target used for itself, or of one CPU, as the governor has it; 0 if there is no cap."""
    cost_ns = sum(step.governor.cost_ns for step in steps if step.governor is not None)
    own_ns = max(sum(step.cpu_ns for step in steps) - cost_ns, round(FLOOR * sum(step.end_ns - step.begin_ns for step in steps)))
    return cost_ns / own_ns if own_ns else 0.0


# -- requests ------------------------------------------------------------------------------------------------------------


def _requests(
    steps: list[Step], known: Known, begin_ns: int, until_ns: int, stacks: dict[StackKey, StackStat]
) -> list[Span]:
    spans: dict[str, Span] = {}
    for step in steps:
        for calls in step.calls:
            span = spans.setdefault(calls.function, Span(calls.function, known.target.pid))
            _add_calls(span, calls, step.end_ns - begin_ns)
    for span in spans.values():
        span.in_progress = known.in_progress.get(span.function, 0)
        # Requests are followed a while after they have ended: of the others in such a bucket none is in the window.
        span.buckets = {number: bucket for number, bucket in span.buckets.items() if bucket.count}
        _fit(span, stacks)
        for one in known.exemplars.get(span.function, ()):
            if begin_ns <= one.start_ns and one.start_ns + one.duration_ns <= until_ns + 2 * _S:
                span.exemplars.append(_moved(one, begin_ns))
    return sorted(
        (span for span in spans.values() if span.latency.count or span.in_progress or span.begun_before),
        key=lambda span: -span.latency.total_ns,
    )


def _add_calls(span: Span, calls: Calls, room_ns: int) -> None:
    """Adds calls that ended in a step. Those that are longer than `room_ns` had begun before the window."""
    span.begun_before += calls.begun_before
    span.traced_ns += calls.traced_ns
    for number, bucket in calls.buckets.items():
        if bucket_range(number)[0] >= room_ns:
            span.begun_before += bucket.count
            continue
        add_bucket(span.buckets.setdefault(number, SpanBucket()), bucket)
        high_ns = min(calls.latency.max_ns, bucket_range(number)[1] - 1)
        span.latency.add(Distribution(bucket.count, bucket.total_ns, high_ns, 0, {number: bucket.count} if bucket.count else {}))


def _fit(span: Span, stacks: dict[StackKey, StackStat]) -> None:
    """Waits in calls are at most as long as those of their stack in this window: what is beyond that lies before it, and is told by state
    and reason alone."""
    room: dict[StackKey, list[int]] = {}
    for bucket in span.buckets.values():
        for key in list(bucket.waits):
            stack, wait = stacks.get(key), bucket.waits[key]
            left = room.get(key)
            if left is None:
                d = stack.distribution if stack is not None else Distribution()
                left = room[key] = [d.count, d.total_ns]
            count, total_ns = min(wait.count, left[0]), min(wait.total_ns, left[1])
            left[0] -= count
            left[1] -= total_ns
            if (count, total_ns) != (wait.count, wait.total_ns):
                other = bucket.other.setdefault(key_parts(key), WaitSum())
                other.count += wait.count - count
                other.total_ns += wait.total_ns - total_ns
                if total_ns or count:
                    bucket.waits[key] = WaitSum(count, total_ns)
                else:
                    del bucket.waits[key]


def _moved(one: Exemplar, begin_ns: int) -> Exemplar:
    path = tuple(replace(step, start_ns=step.start_ns - begin_ns) for step in one.path)
    return replace(one, start_ns=one.start_ns - begin_ns, path=path)


def in_clock(one: Exemplar, origin_ns: int) -> Exemplar:
    """The same with moments of CLOCK_MONOTONIC; `origin_ns`: the start of its trace."""
    path: tuple[PathStep, ...] = tuple(replace(step, start_ns=step.start_ns + origin_ns) for step in one.path)
    return replace(one, start_ns=one.start_ns + origin_ns, path=path)
