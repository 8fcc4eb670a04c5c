"""The slowest requests in a Perfetto trace: a track for each, below it one for each goroutine of its path, and arrows between these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gotrace.common.units import format_duration
from gotrace.export.protobuf import fixed64, integer
from gotrace.profile.frames import folded_frames, place_of, plain_name
from gotrace.profile.requests import RUNNING, Exemplar, PathStep, Span
from gotrace.profile.types import Frame

_EXPLICIT_ORDER = integer(11, 3)
_FLOW_OUT, _FLOW_IN = 47, 48


class Trace(Protocol):
    """What is needed of the trace that is being written."""

    def track(self, name: str, parent: int = 0, rank: int | None = None, more: bytes = b"") -> int:
        """A new track; returns its id."""

    def span(self, track: int, start_ns: int, end_ns: int, body: bytes) -> None:
        """A slice."""

    def plain(self, category: str, name: str) -> bytes:
        """Category and name of an event."""

    def annotation(self, name: str, value: str | int) -> bytes:
        """A note of an event."""

    def callstack(self, pid: int, frames: tuple[Frame, ...]) -> bytes:
        """The stack of an event."""

    def flow(self) -> int:
        """The number of a new arrow."""


def draw_requests(trace: Trace, spans: Sequence[Span], process: int) -> None:
    """Adds the exemplars of the spans of one process, whose track is `process`; nothing where there are none.

    A request's slice is named by what it was, or by its function, and carries ``span``, ``goroutine`` and its labels; those of its steps
    are named by state and reason and carry ``function``, ``object`` and the call stack. An arrow leads from each step to the next where
    that is another goroutine's.
    """
    exemplars = [(span, exemplar) for span in spans for exemplar in span.exemplars]
    if not exemplars:
        return
    parent = trace.track("slowest requests", process, more=_EXPLICIT_ORDER)
    for rank, (span, exemplar) in enumerate(exemplars, 1):
        what = exemplar.what if exemplar.what is not None else plain_name(span.function)
        least = "at least " if exemplar.at_least else ""
        track = trace.track(f"{rank}. {least}{format_duration(exemplar.duration_ns)} {what}", parent, rank, _EXPLICIT_ORDER)
        start_ns = max(0, exemplar.start_ns)
        body = trace.plain("request", what) + trace.annotation("span", span.function) + trace.annotation("goroutine", exemplar.goid)
        for name, value in exemplar.labels.items():
            body += trace.annotation(f"label {name}", value)
        body += trace.annotation("in_progress", 1) if exemplar.in_progress else b""
        body += trace.annotation("begun_before", 1) if exemplar.begun_before else b""
        trace.span(track, start_ns, start_ns + exemplar.duration_ns, body)
        _draw_path(trace, span.pid, exemplar, track)


def _draw_path(trace: Trace, pid: int, exemplar: Exemplar, parent: int) -> None:
    tracks: dict[int, int] = {}
    steps = sorted(exemplar.path, key=lambda step: step.start_ns)
    for goid in dict.fromkeys((exemplar.goid, *(step.goid for step in steps))) if steps else ():
        own = "" if goid != exemplar.goid else " (the request)"
        tracks[goid] = trace.track(f"goroutine {goid}{own}", parent, len(tracks))
    before_ns, arrow = 0, 0
    for at, step in enumerate(steps, 1):
        # Slices of a track must nest or follow each other; a capture says what it likes.
        start_ns = max(step.start_ns, before_ns)
        before_ns = max(start_ns, step.start_ns + step.duration_ns)
        body = _body(trace, pid, step) + (fixed64(_FLOW_IN, arrow) if arrow else b"")
        arrow = trace.flow() if at < len(steps) and steps[at].goid != step.goid else 0
        body += fixed64(_FLOW_OUT, arrow) if arrow else b""
        trace.span(tracks[step.goid], start_ns, before_ns, body)


def _body(trace: Trace, pid: int, step: PathStep) -> bytes:
    frames = folded_frames(step.frames)
    function = frames[place_of(frames)].name if frames else ""
    name = step.state if not step.reason or step.reason == step.state else f"{step.state}: {step.reason}"
    if step.state == RUNNING and function:
        name = f"{RUNNING}: {plain_name(function)}"
    body = trace.plain(step.state, name) + trace.callstack(pid, step.frames)
    for key, value in (("function", function), ("object", step.object)):
        body += trace.annotation(key, value) if value else b""
    return body
