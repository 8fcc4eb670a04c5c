"""Requests as the page has them: columns, as in `gotrace.render.pagedata`, which says what they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gotrace.common.vocabulary import FrameKind
from gotrace.profile.frames import plain_name
from gotrace.profile.inrequests import outermost
from gotrace.profile.requests import RUNNING, Cause, Exemplar, Span, SpanBucket
from gotrace.profile.told import in_progress_lines, request_gaps
from gotrace.profile.types import Frame, Profile, StackKey

FRAMES = 40
"""Of a step of a path."""
STEPS = 2_000
"""Of a path, the latest ones."""
_WHOLE_WINDOW = 4096
"""A wait lasted all the window if it lacks no more than this part of it, or a millisecond: windows of several processes do not open
and close at once."""

Add = Callable[[int, Frame, str, str], int]
"""Adds a row to the stacks, of a process, below one frame, of a state and a reason; returns its number."""


def idle_columns(profile: Profile) -> dict[str, list[int]]:
    """``idle`` and ``idle_count``: what of each stack are waits that lasted the whole window, of goroutines that did not run in it.
    Empty if there are none."""
    window_ns = profile.window.attached_ns or profile.window.duration_ns
    least = window_ns - max(window_ns // _WHOLE_WINDOW, min(1_000_000, window_ns // 16))
    counts, totals = [], []
    for stack in profile.stacks:
        d = stack.distribution
        # The others of it are shorter: at the most all but the longest ones' time.
        whole = 0
        if stack.in_progress and d.max_ns >= least > 0:
            longest = max(d.histogram, default=0)
            whole = min(stack.in_progress, d.histogram.get(longest, 0), d.total_ns // least)
        counts.append(whole)
        totals.append(d.total_ns if whole == d.count else min(d.total_ns, whole * d.max_ns))
    return {"idle": totals, "idle_count": counts} if any(counts) else {}


def inside_columns(profile: Profile) -> dict[str, list[int]]:
    """``inside`` and ``inside_count``: what of each stack lies in requests."""
    owner = outermost(profile)
    found: dict[StackKey, list[int]] = {}
    for number, span in enumerate(profile.requests):
        for bucket in span.buckets.values():
            for key, wait in bucket.waits.items():
                if owner[key] == number:
                    sums = found.setdefault(key, [0, 0])
                    sums[0] += wait.total_ns
                    sums[1] += wait.count
    rows = [found.get(stack.key, [0, 0]) for stack in profile.stacks]
    limits = [stack.distribution for stack in profile.stacks]
    return {
        "inside": [min(row[0], d.total_ns) for row, d in zip(rows, limits, strict=True)],
        "inside_count": [min(row[1], d.count) for row, d in zip(rows, limits, strict=True)],
    }


class RequestData:
    """Fills the page data's ``requests``. `texts`, `frames` and `add` number texts, frames (of a kind) and new rows of the stacks."""

    def __init__(self, profile: Profile, texts: Callable[[str], int], frames: Callable[[Frame, str], int], add: Add) -> None:
        self._profile = profile
        self._texts = texts
        self._frames = frames
        self._add = add
        self._numbers = {stack.key: number for number, stack in enumerate(profile.stacks)}
        self._rows: dict[tuple[int, str, str, str], int] = {}
        self._causes: dict[Cause, int] = {}

    def made(self) -> dict[str, Any]:
        """All of it."""
        names = {target.pid: f"{target.comm} ({target.pid})" for target in self._profile.targets}
        several = len(names) > 1
        spans = [self._span(span, names.get(span.pid, f"({span.pid})") if several else "") for span in self._profile.requests]
        return {"stacks": len(self._profile.stacks), "spans": spans, "causes": [self._texts(cause.text) for cause in self._causes]}

    def _span(self, span: Span, process: str) -> dict[str, Any]:
        d, window_ns = span.latency, self._profile.window.duration_ns
        function = Frame(span.function)
        return {
            "name": self._texts(plain_name(span.function)),
            "frame": self._frames(function, FrameKind.GO.value),
            "process": self._texts(process),
            "rate": span.rate(window_ns),
            "progress": span.in_progress,
            "gaps": [*in_progress_lines(span), *request_gaps(self._profile, span)],
            **{f"p{name}": d.percentile_ns(fraction) for name, fraction in (("50", 0.5), ("90", 0.9), ("99", 0.99), ("999", 0.999))},
            "max": d.max_ns,
            "shown": list(span.shown),
            "buckets": [self._bucket(span, function, number) for number in sorted(span.buckets)],
            "exemplars": [self._exemplar(exemplar) for exemplar in span.exemplars],
        }

    def _bucket(self, span: Span, function: Frame, number: int) -> dict[str, Any]:
        bucket: SpanBucket = span.buckets[number]
        waits = [number for key, wait in bucket.waits.items() for number in (self._numbers[key], wait.count, wait.total_ns)]
        if bucket.cpu_ns:
            waits += (self._row(span.pid, function, RUNNING, ""), bucket.count, bucket.cpu_ns)
        for (state, reason), wait in bucket.other.items():
            waits += (self._row(span.pid, function, state.value, reason), wait.count, wait.total_ns)
        causes = [
            each for cause, ns in bucket.causes.items() for each in (self._causes.setdefault(cause, len(self._causes)), ns)
        ]
        return {
            "bucket": number, "count": bucket.count, "total": bucket.total_ns, "waits": waits, "causes": causes,
            "followed": bucket.followed_ns,
        }

    def _row(self, pid: int, function: Frame, state: str, reason: str) -> int:
        key = pid, function.name, state, reason
        if key not in self._rows:
            self._rows[key] = self._add(pid, function, state, reason)
        return self._rows[key]

    def _exemplar(self, exemplar: Exemplar) -> dict[str, Any]:
        return {
            "start": exemplar.start_ns, "duration": exemplar.duration_ns, "goid": exemplar.goid,
            "what": -1 if exemplar.what is None else self._texts(exemplar.what),
            "labels": [self._texts(f"{name}={value}") for name, value in exemplar.labels.items()],
            "progress": int(exemplar.in_progress),
            "before": int(exemplar.begun_before),
            "path": [
                [
                    step.goid, step.start_ns, step.duration_ns, self._texts(step.state), self._texts(step.reason), self._texts(step.object),
                    [self._frames(frame, frame.kind.value) for frame in step.frames[:FRAMES]],
                ]
                for step in exemplar.path[:STEPS]
            ],
        }


def reason_words(state: str, reason: str) -> str:
    """As `gotrace.render.frames.reason_label` has it."""
    return f"[{state}: {reason}]" if reason and reason != state else f"[{state}]"
