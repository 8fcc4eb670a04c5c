"""What is sent: the bodies of requests, each of one profile of one target."""

from __future__ import annotations

import base64
import gzip
import json
import uuid
from collections.abc import Iterable
from dataclasses import replace

from gotrace.common.vocabulary import FrameKind, State
from gotrace.export.otlp import PINNED, render_otlp
from gotrace.export.pprof import render_pprof
from gotrace.profile.types import Distribution, Frame, Profile, StackStat
from gotrace.serve.push.resource import Resource

SAMPLE_LABELS = frozenset(("state", "reason"))
"""Each combination of values is a series of its own in Pyroscope: no wakers, peers and objects."""
FORMATS = {"pyroscope": "pyroscope1", "otlp": f"otlp{PINNED}"}
"""What the body of a request is, by which one that waited since another release is known."""
PROFILE_NAME = "off_cpu"
MOST_STACKS = 10_000
"""Of one profile: Pyroscope takes 16,000 samples."""
_SMALLER = "[smaller stacks]"


def body_of(kind: str, profile: Profile, resource: Resource) -> bytes:
    """The body for an endpoint of that kind.

    Raises:
        Refused: a library is missing.
    """
    profile = trimmed(profile)
    if kind == "otlp":
        return gzip.compress(render_otlp(profile, resource.attributes, resource.dropped), compresslevel=6, mtime=0)
    labels = {"__name__": PROFILE_NAME, **resource.labels()}
    raw = base64.b64encode(render_pprof(profile, SAMPLE_LABELS)).decode()
    series = {
        "labels": [{"name": name, "value": value} for name, value in sorted(labels.items())],
        "samples": [{"ID": str(uuid.uuid4()), "rawProfile": raw}],
    }
    return json.dumps({"series": [series]}, separators=(",", ":")).encode()


def trimmed(profile: Profile, most: int = MOST_STACKS) -> Profile:
    """The same if it has no more than `most` stacks, else with those that have least time put together, by state and reason: all sums
    stay."""
    if len(profile.stacks) <= most:
        return profile
    stacks = sorted(profile.stacks, key=lambda stack: -stack.distribution.total_ns)
    note = f"the {len(stacks) - most:,} stacks with least time are put together as {_SMALLER}"
    return replace(profile, stacks=[*stacks[:most], *_together(stacks[most:])], notes=[*profile.notes, note])


def _together(stacks: Iterable[StackStat]) -> list[StackStat]:
    found: dict[tuple[int, State, str], StackStat] = {}
    for stack in stacks:
        one = found.setdefault((stack.pid, stack.state, stack.reason), StackStat(
            (Frame(_SMALLER, kind=FrameKind.LOST),), stack.state, stack.reason, Distribution(), pid=stack.pid,
        ))
        one.distribution.add(stack.distribution)
    return list(found.values())
