"""Keeps only some stacks of a profile, or only some frames of its stacks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from shlex import quote

from gotrace.common.errors import UsageError
from gotrace.common.vocabulary import State
from gotrace.profile.frames import folded_frames, plain_name
from gotrace.profile.inrequests import filter_requests, parse_band, without_stacks
from gotrace.profile.types import Profile, StackStat

__all__ = ("filter_profile", "filter_requests", "parse_band", "without_runtime")


def filter_profile(
    profile: Profile, states: tuple[State, ...] = (), reasons: tuple[str, ...] = (), match: str = "", ignore: str = "",
    labels: tuple[str, ...] = (),
) -> Profile:
    """Returns a profile with only those stacks; `profile` itself is unchanged.

    `match`: some frame's name matches, as it is or as in the source (`plain_name`); `ignore`: none does. Hot spots keep their figures and
    point to the new indexes of their stacks; single intervals of other stacks are dropped; `filters` names the filters. How many distinct
    goroutines the stacks have together is not recorded: `goroutines` is then an upper bound. Requests stay; the time of other stacks in
    them is given by state and reason.

    Raises:
        UsageError: `match` or `ignore` is not a regular expression.
    """
    wanted = [label.partition("=") for label in labels]
    matches, ignored = _matcher("--match", match), _matcher("--ignore", ignore)
    index_of: dict[int, int] = {}
    kept: list[StackStat] = []
    for index, stack in enumerate(profile.stacks):
        if (states and stack.state not in states) or (reasons and stack.reason not in reasons):
            continue
        if match and not any(matches(frame.name) for frame in stack.frames):
            continue
        if ignore and any(ignored(frame.name) for frame in stack.frames):
            continue
        if not all(_has(stack, *label) for label in wanted):
            continue
        index_of[index] = len(kept)
        kept.append(stack)
    texts = [f"state {state.value}" for state in states] + [f"reason {reason}" for reason in reasons]
    texts += [f"stacks matching {match}"] if match else []
    texts += [f"stacks not matching {ignore}"] if ignore else []
    texts += [f"label {label}" for label in labels]
    goroutines = profile.goroutines
    if len(kept) < len(profile.stacks):
        goroutines = min(goroutines, sum(stack.goroutines for stack in kept))
    present = {id(stack) for stack in kept}
    requests = profile.requests
    if requests and len(kept) < len(profile.stacks):
        requests = without_stacks(requests, {stack.key for stack in kept})
    flags = [f"--state {state.value}" for state in states] + [f"--reason {quote(reason)}" for reason in reasons]
    flags += [f"{flag} {quote(pattern)}" for flag, pattern in (("--match", match), ("--ignore", ignore)) if pattern]
    flags += [f"--label {quote(label)}" for label in labels]
    selected = profile.selected
    if flags:
        flags = [profile.selected[0], *flags] if profile.selected is not None else flags
        selected = " ".join(flags), profile.selected[1] if profile.selected is not None else len(profile.stacks)
    return replace(
        profile,
        stacks=kept,
        hotspots=[replace(spot, stack=index_of[spot.stack]) for spot in profile.hotspots if spot.stack in index_of],
        goroutines=goroutines,
        timeline=[interval for interval in profile.timeline if id(interval.stack) in present],
        filters=list(dict.fromkeys([*profile.filters, *texts])),
        requests=requests,
        selected=selected,
    )


def without_runtime(profile: Profile) -> Profile:
    """Returns a profile in whose stacks the runtime's frames are folded away (`folded_frames`); the figures stay the same."""
    return replace(profile, stacks=[replace(stack, frames=folded_frames(stack.frames)) for stack in profile.stacks])


def _has(stack: StackStat, key: str, equals: str, value: str) -> bool:
    found = dict(stack.labels)
    return key in found and (not equals or found[key] == value)


def _matcher(flag: str, pattern: str) -> Callable[[str], bool]:
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise UsageError(f"{flag}: {pattern!r} is not a regular expression: {error}") from None
    known: dict[str, bool] = {}  # 100,000 stacks share a few thousand names

    def matches(name: str) -> bool:
        found = known.get(name)
        if found is None:
            found = known[name] = search(name) is not None or search(plain_name(name)) is not None
        return found

    return matches
