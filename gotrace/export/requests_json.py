"""Requests in the summary's JSON: a public contract, so keys are only ever added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gotrace.profile.requests import Band, Cause, Exemplar, PathStep, Span, shown_bands
from gotrace.profile.types import Distribution, Frame, Profile, StackKey, StackStat


def frame_dict(frame: Frame) -> dict[str, Any]:
    """One frame as plain values."""
    return {
        "name": frame.name,
        "file": frame.file,
        "line": frame.line,
        "kind": frame.kind.value,
        "inlined": frame.inlined,
    }


def requests_list(profile: Profile) -> list[dict[str, Any]]:
    """The requests of each span function as plain dicts and lists. ``stack`` is an index of ``stacks``; ``explained_ns`` is how much of
    a band's time ``causes`` explain, which is an estimate from the ``followed`` requests. With several targets there is also ``pid``.

    Requests in progress are in no figure but those whose name says so, and in ``at_least``: the percentiles of all, of which those in
    progress are taken to end with the window. ``doing`` is what their goroutines did then, and how many did that.

    Where only some requests are shown (``--band``, ``--slower-than``) bands and exemplars are of those, the other figures of all.
    """
    numbers = {stack.key: number for number, stack in enumerate(profile.stacks)}
    stacks = {stack.key: stack for stack in profile.stacks}
    several = len(profile.targets) > 1
    return [_span(span, profile.window.duration_ns, numbers, stacks, several) for span in profile.requests]


def _span(
    span: Span, window_ns: int, numbers: Mapping[StackKey, int], stacks: dict[StackKey, StackStat], several: bool
) -> dict[str, Any]:
    d = span.latency
    return {
        **({"pid": span.pid} if several else {}),
        "span": span.function,
        "count": d.count,
        "in_progress": span.in_progress,
        "in_progress_before": span.in_progress_before,
        "in_progress_max_ns": span.lasting.max_ns,
        "doing": [{"what": what, "count": count} for what, count in sorted(span.doing.items(), key=lambda item: -item[1])],
        "at_least": percentiles(span.at_least),
        "begun_before": span.begun_before,
        "traced_ns": span.traced_ns,
        "windows": span.windows,
        "cut_off": span.cut.count,
        "rate_per_s": span.rate(window_ns),
        "total_ns": d.total_ns,
        **percentiles(d),
        "bands": [_band(band, numbers, stacks) for band in shown_bands(span)],
        "exemplars": [_exemplar(exemplar) for exemplar in span.exemplars],
    }


def percentiles(d: Distribution) -> dict[str, int]:
    """The percentiles and the maximum of requests, in ns."""
    fractions = {"p50_ns": 0.50, "p90_ns": 0.90, "p99_ns": 0.99, "p999_ns": 0.999}
    return {name: d.percentile_ns(fraction) for name, fraction in fractions.items()} | {"max_ns": d.max_ns}


def _band(band: Band, numbers: Mapping[StackKey, int], stacks: dict[StackKey, StackStat]) -> dict[str, Any]:
    ranked = sorted(band.waits.items(), key=lambda item: (-item[1].total_ns, numbers[item[0]]))
    return {
        "from": band.low,
        "to": band.high,
        "count": band.count,
        "total_ns": band.total_ns,
        "cpu_ns": band.cpu_ns,
        "by_state": {state.value: ns for state, ns in band.by_state(stacks).items()},
        "by_reason": band.by_reason(stacks),
        "stacks": [
            {"stack": numbers[key], "total_ns": wait.total_ns, "count": wait.count} for key, wait in ranked if wait.total_ns or wait.count
        ],
        "followed": band.followed,
        "explained_ns": band.explained_ns,
        "causes": [_cause(cause, ns, band.total_ns) for cause, ns in band.causes.items() if ns],
    }


def _cause(cause: Cause, total_ns: int, whole_ns: int) -> dict[str, Any]:
    return {
        "cause": cause.text,
        "frames": [frame_dict(frame) for frame in cause.frames],
        "state": cause.state,
        "reason": cause.reason,
        "object": cause.object,
        "total_ns": total_ns,
        "share": total_ns / whole_ns if whole_ns else 0.0,
    }


def _exemplar(exemplar: Exemplar) -> dict[str, Any]:
    return {
        "start_ns": exemplar.start_ns,
        "duration_ns": exemplar.duration_ns,
        "goid": exemplar.goid,
        "labels": exemplar.labels,
        "what": exemplar.what,
        "in_progress": exemplar.in_progress,
        "begun_before": exemplar.begun_before,
        "path": [_step(step) for step in exemplar.path],
    }


def _step(step: PathStep) -> dict[str, Any]:
    return {
        "goid": step.goid,
        "from_ns": step.start_ns,
        "to_ns": step.start_ns + step.duration_ns,
        "state": step.state,
        "reason": step.reason,
        "frames": [frame_dict(frame) for frame in step.frames],
        "object": step.object,
    }
