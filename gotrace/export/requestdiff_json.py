"""A comparison of requests as JSON."""

from __future__ import annotations

from typing import Any

from gotrace.diff.noise import Delta
from gotrace.diff.requests import BandChange, PartChange, SpanChange
from gotrace.export.requests_json import frame_dict, percentiles
from gotrace.profile.requests import Span


def delta_dict(delta: Delta) -> dict[str, Any]:
    """A figure on both sides."""
    return {"before": delta.before, "after": delta.after, "exceeds_noise": delta.exceeds}


def request_change(change: SpanChange) -> dict[str, Any]:
    """One span function as plain values: ``before`` and ``after`` as recorded (None where it has no requests), ``change`` normalised, and
    what the time of a request of each band goes to, as mean ns per request. ``grew`` is the cause that grew most, None if none did."""
    return {
        **({"process": change.process} if change.process else {}),
        "span": change.function,
        "before": _side(change.before),
        "after": _side(change.after),
        "change": {
            "rate_per_s": delta_dict(change.rate),
            **{f"{name}_ns": delta_dict(delta) for name, delta in change.percentiles.items()},
        },
        "exceeds_noise": change.exceeds,
        "notes": {"before": change.gaps[0], "after": change.gaps[1]},
        "bands": [_band(band) for band in change.bands],
    }


def _side(span: Span | None) -> dict[str, Any] | None:
    if span is None:
        return None
    d = span.latency
    return {
        "count": d.count, "in_progress": span.in_progress, "total_ns": d.total_ns, "max_ns": d.max_ns, "traced_ns": span.traced_ns,
        "windows": span.windows, "cut_off": span.cut.count, "at_least": percentiles(span.at_least),
    }


def _band(band: BandChange) -> dict[str, Any]:
    grew = next((cause for cause in band.causes if cause.change_ns > 0), None) if None not in band.mean_ns else None
    return {
        "from": band.low,
        "to": band.high,
        "count": {"before": band.count[0], "after": band.count[1]},
        "mean_ns": {"before": band.mean_ns[0], "after": band.mean_ns[1]},
        "explained": {"before": band.explained[0], "after": band.explained[1]},
        "grew": grew.text if grew else None,
        "causes": [
            {"cause": cause.text, "frames": [frame_dict(frame) for frame in cause.frames], "object": cause.object, **_part(cause)}
            for cause in band.causes
        ],
        "times": [_part(part) for part in band.times],
    }


def _part(part: PartChange) -> dict[str, Any]:
    return {"state": part.state, "reason": part.reason, "before_ns": part.before_ns, "after_ns": part.after_ns}
