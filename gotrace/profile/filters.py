"""Keeps only some stacks of a profile."""

from __future__ import annotations

import re

from gotrace.errors import UsageError
from gotrace.profile.types import Profile
from gotrace.vocabulary import State


def filter_profile(profile: Profile, states: tuple[State, ...], reasons: tuple[str, ...], match: str) -> Profile:
    """The profile with only those stacks and their single intervals; raises UsageError if `match` is no regular expression."""
    try:
        pattern = re.compile(match) if match else None
    except re.error as error:
        raise UsageError(f"--match: {match!r} is not a regular expression: {error}") from None
    kept = [
        stack for stack in profile.stacks
        if (not states or stack.state in states)
        and (not reasons or stack.reason in reasons)
        and (pattern is None or any(pattern.search(frame.name) for frame in stack.frames))
    ]
    profile.stacks = kept
    identities = {id(stack) for stack in kept}
    profile.timeline = [part for part in profile.timeline if id(part.stack) in identities]
    return profile
