"""Requests of two captures compared: how long they take, and what of a request's time grew."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from gotrace.common.vocabulary import FrameKind
from gotrace.diff.identity import stable_name
from gotrace.diff.noise import Delta, apart, exceeds, percentile_range
from gotrace.profile.requests import RUNNING, Band, Cause, Span, bands
from gotrace.profile.told import UNKNOWN_BEFORE, percentile_lines, request_gaps
from gotrace.profile.types import Distribution, Frame, Profile, StackKey, StackStat

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
EDGES = ((0.0, 1.0), (0.99, 1.0))
"""The bands that are compared: all requests, and the slowest hundredth."""
_CODE = frozenset((FrameKind.GO, FrameKind.CGO, FrameKind.SYSCALL))


@dataclass(frozen=True)
class PartChange:
    """What of a request's time went to one cause, or to one state and reason (then `text` is ""): mean ns per request of the band."""

    text: str
    state: str
    reason: str
    object: str
    frames: tuple[Frame, ...]
    before_ns: float
    after_ns: float

    @property
    def change_ns(self) -> float:
        """What it grew by."""
        return self.after_ns - self.before_ns


@dataclass(frozen=True)
class BandChange:
    """The requests between two percentiles on both sides. `mean_ns` is None on a side that has none. `causes` and `times`: first what
    changed most."""

    low: float
    high: float
    count: tuple[int, int]
    mean_ns: tuple[float | None, float | None]
    explained: tuple[float, float]
    """The share of the time that has a cause."""
    causes: list[PartChange] = field(default_factory=list)
    times: list[PartChange] = field(default_factory=list)


@dataclass(frozen=True)
class SpanChange:
    """One span function on both sides; None where it has no requests. `process` is the target's name where there are several."""

    function: str
    process: str
    before: Span | None
    after: Span | None
    rate: Delta
    """Requests per second of the window."""
    percentiles: dict[str, Delta]
    """By the names in `PERCENTILES`; in ns."""
    bands: list[BandChange]
    gaps: tuple[list[str], list[str]]
    """What the requests of either side lack: `request_gaps`, and which percentiles would be higher with those in progress."""

    @property
    def changed(self) -> bool:
        """Some figure differs at all."""
        return any(delta.before != delta.after for delta in (self.rate, *self.percentiles.values()))

    @property
    def exceeds(self) -> bool:
        """Some figure differs by more than noise."""
        return any(delta.exceeds for delta in (self.rate, *self.percentiles.values()))


def compare_requests(before: Profile, after: Profile, exact: bool) -> list[SpanChange]:
    """Every span function of either side, those with most time first. `exact`: the names of functions are compared as they are."""
    several = max(len(before.targets), len(after.targets)) > 1
    sides = [_by_name(profile, exact, several) for profile in (before, after)]
    stacks = [{stack.key: stack for stack in profile.stacks} if profile.requests else {} for profile in (before, after)]
    found = []
    for key in sides[1] | sides[0]:
        pair = sides[0].get(key), sides[1].get(key)
        shown = pair[1] or pair[0]
        assert shown is not None
        distributions = [span.latency if span else Distribution() for span in pair]
        counts = [span.latency.count + span.cut.count if span else 0 for span in pair]
        found.append(SpanChange(
            function=shown.function,
            process=key[0],
            before=pair[0],
            after=pair[1],
            rate=_rate(counts, [_traced_ns(*side) / 1e9 for side in zip((before, after), pair, strict=True)]),
            percentiles={name: _percentile(distributions, fraction) for name, fraction in PERCENTILES.items()},
            bands=[_band(pair, stacks, edges, exact) for edges in EDGES],
            gaps=(_gaps(before, pair[0]), _gaps(after, pair[1])),
        ))
    return sorted(found, key=lambda change: -max(span.latency.total_ns for span in (change.before, change.after) if span))


def _by_name(profile: Profile, exact: bool, several: bool) -> dict[tuple[str, str], Span]:
    comm = {target.pid: target.comm for target in profile.targets} if several else {}
    found: dict[tuple[str, str], Span] = {}
    for span in profile.requests:
        # Of several processes of one name the one with most time.
        found.setdefault((comm.get(span.pid, ""), span.function if exact else stable_name(span.function)), span)
    return found


def _gaps(profile: Profile, span: Span | None) -> list[str]:
    if span is None:
        return []
    return [*request_gaps(profile, span), *percentile_lines(span), *([UNKNOWN_BEFORE] if span.in_progress_before is None else [])]


def _traced_ns(profile: Profile, span: Span | None) -> int:
    """For how long these requests were traced."""
    window = profile.window.attached_ns or profile.window.duration_ns
    return max(1, span.traced_ns or window if span is not None else window)


def _rate(counts: list[int], seconds: list[float]) -> Delta:
    values = [count / s for count, s in zip(counts, seconds, strict=True)]
    errors = [math.sqrt(max(0, count)) / s for count, s in zip(counts, seconds, strict=True)]
    return Delta(values[0], values[1], exceeds(values[0], errors[0], values[1], errors[1]))


def _percentile(pair: list[Distribution], fraction: float) -> Delta:
    there = all(d.count for d in pair)
    differs = there and apart(percentile_range(pair[0], fraction), percentile_range(pair[1], fraction))
    return Delta(pair[0].percentile_ns(fraction), pair[1].percentile_ns(fraction), differs)


_Key = tuple[object, ...]
_Part = tuple[_Key, PartChange]


def _band(
    pair: tuple[Span | None, Span | None], stacks: list[dict[StackKey, StackStat]], edges: tuple[float, float], exact: bool
) -> BandChange:
    both = [bands(span, edges)[0] if span else Band(*edges) for span in pair]
    causes = [list(_causes(band, exact)) for band in both]
    times = [list(_times(band, known)) for band, known in zip(both, stacks, strict=True)]
    return BandChange(
        *edges,
        count=(both[0].count, both[1].count),
        mean_ns=(_mean(both[0]), _mean(both[1])),
        explained=(_explained(both[0]), _explained(both[1])),
        causes=_joined(causes[0], causes[1]),
        times=_joined(times[0], times[1]),
    )


def _mean(band: Band) -> float | None:
    return band.total_ns / band.count if band.count else None


def _explained(band: Band) -> float:
    return band.explained_ns / band.total_ns if band.total_ns else 0.0


def _causes(band: Band, exact: bool) -> Iterable[_Part]:
    for cause, ns in band.causes.items():
        yield _identity(cause, exact), PartChange(
            cause.text, cause.state, cause.reason, cause.object, cause.frames, 0.0, ns / max(1, band.count)
        )


def _identity(cause: Cause, exact: bool) -> _Key:
    """What is the same in both captures: no descriptor, no address, no line."""
    code = (frame for frame in cause.frames if frame.kind in _CODE)
    names = (frame.name.partition("(")[0] if frame.kind is FrameKind.SYSCALL else frame.name for frame in code)
    return cause.state, cause.reason, tuple(name if exact else stable_name(name) for name in names)


def _times(band: Band, stacks: dict[StackKey, StackStat]) -> Iterable[_Part]:
    if band.cpu_ns:
        yield (RUNNING, ""), PartChange("", RUNNING, "", "", (), 0.0, band.cpu_ns / max(1, band.count))
    for (state, reason), ns in band.times(stacks).items():
        yield (state.value, reason), PartChange("", state.value, reason, "", (), 0.0, ns / max(1, band.count))


def _joined(before: list[_Part], after: list[_Part]) -> list[PartChange]:
    """`after_ns` of each part of either side, as `before_ns` for the one, by what they have in common."""
    found: dict[_Key, PartChange] = {}
    for key, part in after:
        old = found.get(key)
        found[key] = part if old is None else replace(old, after_ns=old.after_ns + part.after_ns)
    for key, part in before:
        old = found.get(key) or replace(part, after_ns=0.0)
        found[key] = replace(old, before_ns=old.before_ns + part.after_ns)
    return sorted(found.values(), key=lambda part: -abs(part.change_ns))
