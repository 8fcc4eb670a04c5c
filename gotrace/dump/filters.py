"""Keeps only some goroutines of a dump."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from gotrace.common.errors import UsageError
from gotrace.dump.objects import objects_of
from gotrace.dump.types import Dump, GoroutineState
from gotrace.profile.frames import plain_name


def filtered(
    dump: Dump, states: Sequence[str] = (), reasons: Sequence[str] = (), match: str = "", labels: Sequence[str] = ()
) -> Dump:
    """The dump with only those goroutines. `match`: some frame's name matches; `labels`: each ``KEY`` or ``KEY=VALUE`` is among the
    goroutine's. Verdicts stay if any of their goroutines does; objects count only the goroutines that are left.

    Raises:
        UsageError: `match` is not a regular expression.
    """
    if not (states or reasons or match or labels):
        return dump
    try:
        search = re.compile(match).search
    except re.error as error:
        raise UsageError(f"--match: {match!r} is not a regular expression: {error}") from None
    wanted = [label.partition("=") for label in labels]

    def keeps(one: GoroutineState) -> bool:
        return (
            (not states or one.state in states)
            and (not reasons or one.reason in reasons)
            and (not match or any(search(frame.name) or search(plain_name(frame.name)) for frame in one.frames))
            and all(key in one.labels and (not equals or one.labels[key] == value) for key, equals, value in wanted)
        )

    kept = [one for one in dump.goroutines if keeps(one)]
    ids = {one.id for one in kept}
    verdicts = [verdict for verdict in dump.verdicts if not verdict.goroutines or ids & set(verdict.goroutines)]
    note = f"{len(kept):,} of {len(dump.goroutines):,} goroutines are shown"
    return replace(dump, goroutines=kept, objects=objects_of(kept), verdicts=verdicts, notes=[*dump.notes, note])
