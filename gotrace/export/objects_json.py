"""What was waited for in the summary's JSON: a public contract, so keys are only ever added."""

from __future__ import annotations

from typing import Any

from gotrace.export.requests_json import frame_dict
from gotrace.profile.holders import LockHolders
from gotrace.profile.things import Waited
from gotrace.profile.types import Profile
from gotrace.profile.waited import waits_by_object


def object_dict(waited: Waited | None) -> dict[str, Any] | None:
    """What was waited for as plain values, as in a dump; None if there is no such thing."""
    if waited is None:
        return None
    return {
        "kind": waited.kind,
        "address": None if waited.address is None else f"{waited.address:#x}",
        "detail": {"text": waited.text} if waited.text else {},
    }


def objects_list(profile: Profile) -> list[dict[str, Any]]:
    """The waits of each object, those with the largest total first. ``stacks`` are indexes of the summary's ``stacks``. With several
    targets there is also ``pid``."""
    several = len(profile.targets) > 1
    locks = {(lock.pid, lock.waited): lock for lock in profile.locks}
    return [
        {
            **({"pid": one.pid} if several else {}),
            **(object_dict(one.waited) or {}),
            "count": one.distribution.count,
            "total_ns": one.distribution.total_ns,
            "p50_ns": one.distribution.percentile_ns(0.50),
            "p90_ns": one.distribution.percentile_ns(0.90),
            "p99_ns": one.distribution.percentile_ns(0.99),
            "max_ns": one.distribution.max_ns,
            "goroutines": one.goroutines,
            "in_progress": one.in_progress,
            "stacks": one.stacks,
            **_held(locks.get((one.pid, one.waited))),
        }
        for one in waits_by_object(profile)
    ]


def _held(lock: LockHolders | None) -> dict[str, Any]:
    """Who held a lock: ``frames`` are the stack of the unlock, leaf first; ``held_ns`` is an upper bound, of which
    ``sure_ns`` is so as far as unlocks tell."""
    if lock is None:
        return {}
    return {
        "contended_ns": lock.contended_ns,
        "explained_ns": lock.explained_ns,
        "holders": [
            {
                "frames": [frame_dict(frame) for frame in one.frames],
                "function": one.place,
                "reading": one.reading,
                "held_ns": one.held_ns,
                "sure_ns": one.sure_ns,
                "share": one.held_ns / lock.contended_ns if lock.contended_ns else 0.0,
                "count": one.count,
                "waits": [{"text": wait.text, "total_ns": wait.total_ns} for wait in one.waits],
            }
            for one in lock.holders
        ],
    }
