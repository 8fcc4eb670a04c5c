"""A stretch of what is kept in short: its states, requests, hot spots and largest places, for the page."""

from __future__ import annotations

from typing import Any

from gotrace.profile.frames import plain_name
from gotrace.profile.groups import grouped
from gotrace.profile.hotspots import idle_by_design
from gotrace.profile.types import Profile, StackStat
from gotrace.render.text import sanitize
from gotrace.top.view import frame_in

_MOST = 12
_LONGEST = 200


def overview(profile: Profile) -> dict[str, Any]:
    """As JSON; names are shortened, and have no control characters. Waits that are idle by design are left out of states and places."""
    groups = [group.stack for group in grouped(profile.stacks)]
    busy = [stack for stack in groups if not idle_by_design(stack)]
    states: dict[str, int] = {}
    for stack in busy:
        states[stack.state.value] = states.get(stack.state.value, 0) + stack.distribution.total_ns
    places = busy[:_MOST]
    return {
        "window": {"start": profile.window.start, "duration_ns": profile.window.duration_ns, "attached_ns": profile.window.attached_ns},
        "states": states,
        "requests": [
            {
                "span": _text(plain_name(span.function)), "count": span.latency.count, "in_progress": span.in_progress,
                "rate_per_s": span.latency.count * 1e9 / span.traced_ns if span.traced_ns else 0.0,
                "p50_ns": span.latency.percentile_ns(0.5), "p99_ns": span.latency.percentile_ns(0.99), "max_ns": span.latency.max_ns,
            }
            for span in profile.requests[:_MOST]
        ],
        "hotspots": [_place(profile.stacks[spot.stack]) | {"why": _text(spot.why)} for spot in profile.hotspots[:_MOST]],
        "places": [_place(stack) for stack in places],
        "losses": {loss.value: count for loss, count in profile.losses.items() if count},
        "notes": [_text(note) for note in profile.notes],
    }


def _place(stack: StackStat) -> dict[str, Any]:
    at = frame_in(stack.frames)
    d = stack.distribution
    return {
        "place": _text(plain_name(at.name)) if at is not None else "(no stack)", "state": stack.state.value, "reason": _text(stack.reason),
        "count": d.count, "total_ns": d.total_ns, "p99_ns": d.percentile_ns(0.99), "max_ns": d.max_ns, "in_progress": stack.in_progress,
    }


def _text(text: str) -> str:
    return sanitize(text, _LONGEST)
