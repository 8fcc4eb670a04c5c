"""Goroutines that become more and more and never end, in a series of dumps."""

from __future__ import annotations

from collections.abc import Sequence

from gotrace.dump.compare import Change, changes
from gotrace.dump.types import Dump, Verdict
from gotrace.profile.frames import plain_name

LEAK = "leak"
_LEAST_DUMPS = 3
_STAY = 0.9
_LIBRARY = ("runtime.", "sync.", "internal/")


def leaks(series: Sequence[Dump]) -> list[Verdict]:
    """Places at which there were more goroutines in each dump than in the one before, and where those of the first dump still are.

    Goroutines that come with a connection each, such as those of an HTTP server, are left out: they are as many as there are clients.
    """
    if len(series) < _LEAST_DUMPS:
        return []
    found = changes(series)
    connections = {change.place.created_by for change in found if change.growth > 0 and change.place.reason == "IO wait"}
    first = [{one.id for one in dump.goroutines} for dump in series[:1]][0]
    verdicts = []
    for change in found:
        place = change.place
        rising = all(before < after for before, after in zip(change.counts, change.counts[1:], strict=False))
        if not rising or place.state != "waiting" or place.reason == "IO wait" or place.created_by in connections:
            continue
        stayed = len(first & set(change.ids))
        if stayed < _STAY * change.counts[0]:
            continue
        verdicts.append(_verdict(change, len(series)))
    return verdicts


def never_reached(dump: Dump, known: frozenset[int]) -> list[Verdict]:
    """Goroutines at channels and locks to which only they have a reference, by place; without those of `known`, which have a verdict."""
    search = dump.unreachable
    if search is None:
        return []
    members: dict[tuple[str, str, str], list[int]] = {}
    for one in dump.goroutines:
        if one.id in search.goroutines - known:
            function = next((plain_name(frame.name) for frame in one.frames if not frame.name.startswith(_LIBRARY)), "")
            members.setdefault((function, one.reason, one.created_by), []).append(one.id)
    verdicts = []
    for (function, reason, creator), ids in sorted(members.items(), key=lambda item: -len(item[1])):
        who = "1 goroutine waits" if len(ids) == 1 else f"{len(ids):,} goroutines wait"
        text = f"{who} in {function} ({reason}), created by {plain_name(creator)}: nobody else has a reference to what they wait for"
        evidence: dict[str, object] = {
            "function": function, "reason": reason, "created_by": creator, "searched_bytes": search.searched, "rounds": search.rounds,
        }
        verdicts.append(Verdict(LEAK, text.replace("they wait", "it waits") if len(ids) == 1 else text, ids, evidence, True))
    return verdicts


def _verdict(change: Change, dumps: int) -> Verdict:
    place = change.place
    function = next((plain_name(frame.name) for frame in place.frames if not frame.name.startswith(_LIBRARY)), "")
    text = (
        f"{change.counts[-1]:,} goroutines wait in {function} ({place.reason}), created by {plain_name(place.created_by)}: "
        f"{' → '.join(f'{count:,}' for count in change.counts)}, more in each of {dumps} dumps, and those of the first are still there"
    )
    evidence: dict[str, object] = {
        "counts": list(change.counts), "reason": place.reason, "object": place.kind, "created_by": place.created_by,
        "function": function, "oldest_wait_ns": change.oldest_ns,
    }
    return Verdict(LEAK, text, list(change.ids), evidence, False)
