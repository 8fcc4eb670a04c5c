"""The summary as JSON (``--json``, ``-o x.json``): a public contract, so keys are only ever added."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from gotrace.common.vocabulary import Loss
from gotrace.export.objects_json import object_dict, objects_list
from gotrace.export.requests_json import frame_dict, requests_list
from gotrace.profile.types import Distribution, Frame, Profile, StackStat

SCHEMA = 1


def summary_dict(profile: Profile) -> dict[str, Any]:
    """The summary as plain dicts and lists. All ``*_ns`` are int nanoseconds; frames are leaf first.

    A hot spot's figures are those of its place in the program: all stacks that differ from ``stack``, the largest of them, only in waker
    and in file or socket. With several targets there are also ``targets``, and ``pid`` in each stack; ``target`` is then the first.
    With ``--label`` there are ``labels`` in the stacks of goroutines that have such, and ``totals.by_label``.
    """
    several, objects = len(profile.targets) > 1, profile.has_objects
    return _outline(profile) | {"stacks": [_stack(stack, several, objects) for stack in profile.stacks]}


def _outline(profile: Profile) -> dict[str, Any]:
    """All but the stacks; their list is empty."""
    total = profile.total()
    result: dict[str, Any] = {
        "gotrace": profile.version,
        "schema": SCHEMA,
        "target": asdict(profile.targets[0]) if profile.targets else None,
        "window": asdict(profile.window),
        "totals": {
            "intervals": profile.intervals,
            "off_cpu_ns": total.total_ns,
            "goroutines": profile.goroutines,
            "by_state": {state.value: _weights(d) for state, d in profile.by_state().items()},
            "by_reason": {reason: _weights(d) for reason, d in profile.by_reason().items()},
            "running_ns": profile.running_ns,
            "cpu_ns": profile.cpu_ns,
            "stopped_ns": sum(stack.stopped_ns for stack in profile.stacks),
            "late_ns": sum(stack.late_ns for stack in profile.stacks),
            "long_runs": sum(stack.long_runs for stack in profile.stacks),
            **({"by_label": by_label} if (by_label := _by_label(profile)) else {}),
            "pauses": {reason: _weights(d) for reason, d in profile.pauses_by_reason().items()},
        },
        "pauses": [asdict(pause) for pause in profile.pauses],
        "losses": {loss.value: profile.losses.get(loss, 0) for loss in Loss},
        "overhead": asdict(profile.overhead) | {"governor": _governor(profile)},
        "hotspots": [asdict(hotspot) for hotspot in profile.hotspots],
        **({"requests": requests_list(profile)} if profile.requests else {}),
        **({"objects": objects_list(profile)} if profile.has_objects else {}),
        **({"verdicts": _verdicts(profile)} if profile.verdicts else {}),
        "stacks": [],
        "filters": profile.filters,
        "complete": profile.complete,
        "missing": [asdict(missing) for missing in profile.missing],
        "notes": profile.notes,
    }
    if len(profile.targets) > 1:
        result["targets"] = [asdict(target) for target in profile.targets]
    return result


def _verdicts(profile: Profile) -> list[dict[str, Any]]:
    several = len(profile.targets) > 1
    return [({"pid": pid} if several else {}) | asdict(verdict) for pid, verdict in profile.verdicts]


def render_json(profile: Profile) -> str:
    """`summary_dict` as JSON text with a final newline; ASCII only, so it can't control a terminal that shows it."""
    return "".join(json_parts(profile))


def json_parts(profile: Profile) -> Iterator[str]:
    """What `render_json` returns, stack by stack: as one tree, thousands of stacks would be hundreds of megabytes."""
    # No string contains an end of line, which JSON escapes: this is the only key of that name at this depth.
    before, key, after = json.dumps(_outline(profile), indent=1).partition('\n "stacks": [')
    yield before + key
    several, objects, frames = len(profile.targets) > 1, profile.has_objects, dict[Frame, str]()
    for number, stack in enumerate(profile.stacks):
        for frame in stack.frames:
            if frame not in frames:
                frames[frame] = "\n" + _indented(json.dumps(frame_dict(frame), indent=1), 4)
        text = _indented(json.dumps(_stack(stack, several, objects, with_frames=False), indent=1), 2)
        own, frames_key, rest = text.partition('\n   "frames": [')
        yield (",\n" if number else "\n") + own + frames_key + ",".join(frames[frame] for frame in stack.frames)
        yield ("\n   " if stack.frames else "") + rest
    yield ("\n " if profile.stacks else "") + after + "\n"


def _indented(text: str, depth: int) -> str:
    return " " * depth + text.replace("\n", "\n" + " " * depth)


def _governor(profile: Profile) -> dict[str, Any] | None:
    """None without a cap. `standard_error_ns` is that of ``totals.off_cpu_ns``, None if no interval was sampled."""
    if profile.governor is None:
        return None
    margin = profile.margin_ns
    return asdict(profile.governor) | {"standard_error_ns": None if margin is None else round(margin / 1.96)}


def _by_label(profile: Profile) -> dict[str, dict[str, dict[str, int]]]:
    return {
        key: {value: _weights(d) for value, d in values.items() if value is not None} for key, values in profile.by_label().items()
    }


def _weights(distribution: Distribution) -> dict[str, int]:
    return {
        "count": distribution.count,
        "total_ns": distribution.total_ns,
        "p50_ns": distribution.percentile_ns(0.50),
        "p90_ns": distribution.percentile_ns(0.90),
        "p99_ns": distribution.percentile_ns(0.99),
        "max_ns": distribution.max_ns,
    }


def _stack(stack: StackStat, several: bool, objects: bool, with_frames: bool = True) -> dict[str, Any]:
    return {
        **({"pid": stack.pid} if several else {}),
        **({"goid": stack.goid} if stack.goid is not None else {}),
        **({"labels": dict(stack.labels)} if stack.labels else {}),
        "frames": [frame_dict(frame) for frame in stack.frames] if with_frames else [],
        "state": stack.state.value,
        "reason": stack.reason,
        **({"object": object_dict(stack.waited)} if objects else {}),
        **_weights(stack.distribution),
        "jitter_ns": stack.distribution.jitter_ns,
        "goroutines": stack.goroutines,
        "in_progress": stack.in_progress,
        "stopped_ns": stack.stopped_ns,
        "halted_ns": stack.halted_ns,
        "late_ns": stack.late_ns,
        "long_runs": stack.long_runs,
        "long_run_max_ns": stack.long_run_max_ns,
        "margin_ns": stack.margin_ns,
    }
