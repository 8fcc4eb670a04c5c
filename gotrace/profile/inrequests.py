"""What lies inside requests: which of the spans a wait belongs to, and a profile of nothing but the requests of a band."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from gotrace.common.errors import UsageError
from gotrace.common.histogram import bucket_of, bucket_range
from gotrace.common.units import format_duration
from gotrace.profile.requests import Band, Exemplar, Span, SpanBucket, WaitSum, key_parts, parts, shown_bands
from gotrace.profile.types import Distribution, Profile, StackKey, StackStat, TimelineInterval

_BAND = re.compile(r"p(\d+(?:\.\d+)?)(?:\.\.p?(\d+(?:\.\d+)?))?")


def parse_band(text: str) -> tuple[float, float]:
    """``p99`` is (0.99, 1.0), ``p50..p90`` is (0.5, 0.9). Raises `UsageError` for anything else."""
    match = _BAND.fullmatch(text.strip())
    low, high = (float(match[1]), float(match[2] or 100)) if match else (0.0, 0.0)
    if not 0 <= low < high <= 100:
        raise UsageError(f"--band: {text!r} is no band of percentiles", "as p99, the slowest hundredth, or p50..p90")
    return round(low / 100, 9), round(high / 100, 9)


def outermost(profile: Profile) -> dict[StackKey, int]:
    """For each stack that has time inside requests the span that it belongs to, as an index of `Profile.requests`: where the calls of
    several span functions enclose each other, the outermost; so no time is counted twice."""
    found: dict[StackKey, int] = {}
    depth: dict[StackKey, int] = {}
    frames = {stack.key: stack.frames for stack in profile.stacks}
    for number, span in enumerate(profile.requests):
        for key in {key for bucket in span.buckets.values() for key in bucket.waits}:
            names = [frame.name for frame in frames.get(key, ())]
            # Where the frames towards the root are missing it is none of them: any other comes first.
            at = len(names) - 1 - names[::-1].index(span.function) if span.function in names else -1
            if key not in found or at > depth[key]:
                found[key], depth[key] = number, at
    return found


def by_band(profile: Profile) -> dict[StackKey, list[tuple[Span, Band, WaitSum]]]:
    """For each stack what of its time lies in requests, by the bands that are shown: of the outermost span, and never more than the
    stack has."""
    owner = outermost(profile)
    found: dict[StackKey, list[tuple[Span, Band, WaitSum]]] = {}
    left = {stack.key: [stack.distribution.count, stack.distribution.total_ns] for stack in profile.stacks if stack.key in owner}
    for number, span in enumerate(profile.requests):
        for band in shown_bands(span):
            for key, wait in band.waits.items():
                if owner[key] != number or key not in left:
                    continue
                rest = left[key]
                part = WaitSum(min(wait.count, rest[0]), min(wait.total_ns, rest[1]))
                if part.count or part.total_ns:
                    found.setdefault(key, []).append((span, band, part))
                    left[key] = [rest[0] - part.count, rest[1] - part.total_ns]
    return found


def without_stacks(requests: list[Span], kept: Collection[StackKey]) -> list[Span]:
    """The requests of a profile that has only the stacks `kept`: the time in others is told by state and reason alone."""
    return [replace(span, buckets={n: _without(bucket, kept) for n, bucket in span.buckets.items()}) for span in requests]


def _without(bucket: SpanBucket, kept: Collection[StackKey]) -> SpanBucket:
    if all(key in kept for key in bucket.waits):
        return bucket
    other = {both: WaitSum(wait.count, wait.total_ns) for both, wait in bucket.other.items()}
    for key, wait in bucket.waits.items():
        if key not in kept:
            found = other.setdefault(key_parts(key), WaitSum())
            found.count += wait.count
            found.total_ns += wait.total_ns
    return replace(bucket, waits={key: wait for key, wait in bucket.waits.items() if key in kept}, other=other)


def filter_requests(profile: Profile, band: tuple[float, float] | None = None, slower_than_ns: int = 0) -> Profile:
    """A profile of what happened inside requests between two percentiles of the duration (fractions), or of at least `slower_than_ns`;
    `profile` itself stays as it is, and so does the result without either.

    Stacks have the count and the total that they have inside those requests; percentiles, maximum and jitter are from the means of
    the requests of about the same duration. The figures of `Profile.requests` stay those of all; `Span.shown` says which are to be
    shown, and exemplars are of those. Of single intervals those are left that lie in the path of an exemplar. `filters` says all this.

    Raises:
        UsageError: there are no requests.
    """
    if band is None and not slower_than_ns:
        return profile
    flag = "--band" if band is not None else "--slower-than"
    if not profile.requests:
        raise UsageError(f"{flag}: there are no requests here", "gotrace attach --span FUNCTION makes calls of a function requests")
    owner = outermost(profile)
    found: dict[StackKey, Distribution] = {}
    requests = []
    for number, span in enumerate(profile.requests):
        low, high = _limits(span, band, slower_than_ns)
        pieces = parts(span, low, high)
        for piece in pieces.values():
            _add_waits(found, piece, number, owner)
        exemplars = [exemplar for exemplar in span.exemplars if _is_of(exemplar, pieces, high, slower_than_ns)]
        requests.append(replace(span, exemplars=exemplars, shown=(low, high)))
    stacks: list[tuple[int, StackStat]] = []
    for number, stack in enumerate(profile.stacks):
        inside = found.get(stack.key)
        if inside is not None and (inside.count or inside.total_ns):
            stacks.append((number, _narrowed(stack, inside)))
    stacks.sort(key=lambda item: -item[1].distribution.total_ns)
    index_of = {number: place for place, (number, _) in enumerate(stacks)}
    kept = {stack.key: stack for _, stack in stacks}
    flags = [f"--band p{100 * band[0]:g}..p{100 * band[1]:g}"] if band is not None else []
    flags += [f"--slower-than {slower_than_ns}ns"] if slower_than_ns else []
    return replace(
        profile,
        stacks=list(kept.values()),
        hotspots=[replace(spot, stack=index_of[spot.stack]) for spot in profile.hotspots if spot.stack in index_of],
        goroutines=min(profile.goroutines, sum(stack.goroutines for stack in kept.values())),
        timeline=_in_exemplars(profile.timeline, requests, kept),
        filters=[*profile.filters, _told(band, slower_than_ns)],
        requests=without_stacks(requests, kept),
        selected=(" ".join(flags), len(profile.stacks)),
    )


def _told(band: tuple[float, float] | None, slower_than_ns: int) -> str:
    words = []
    if band is not None:
        words.append(f"between p{100 * band[0]:g} and p{100 * band[1]:g}")
    if slower_than_ns:
        words.append(f"of at least {format_duration(slower_than_ns)}")
    return f"inside requests {' and '.join(words)} (percentiles are from means)"


def _limits(span: Span, band: tuple[float, float] | None, slower_than_ns: int) -> tuple[float, float]:
    """As percentiles of this span. Requests of one bucket are taken to be spread evenly over it."""
    low, high = band or (0.0, 1.0)
    total = sum(bucket.count for bucket in span.buckets.values())
    if not slower_than_ns or not total:
        return low, high
    faster = 0
    for number, bucket in span.buckets.items():
        first, end = bucket_range(number)
        faster += bucket.count * min(max(slower_than_ns - first, 0), end - first) // (end - first)
    return min(high, max(low, faster / total)), high


def _is_of(exemplar: Exemplar, pieces: dict[int, Band], high: float, slower_than_ns: int) -> bool:
    if exemplar.duration_ns < slower_than_ns:
        return False
    bucket = bucket_of(exemplar.duration_ns)
    if exemplar.in_progress:  # it takes at least so long
        return high == 1 and (not pieces or bucket >= min(pieces))
    return bucket in pieces


def _add_waits(found: dict[StackKey, Distribution], piece: Band, number: int, owner: dict[StackKey, int]) -> None:
    for key, wait in piece.waits.items():
        if owner[key] == number and (wait.count or wait.total_ns):
            mean_ns = wait.total_ns // max(1, wait.count)
            found.setdefault(key, Distribution()).add(Distribution(
                wait.count, wait.total_ns, mean_ns, wait.count * (mean_ns >> 8) ** 2, {bucket_of(mean_ns): wait.count} if wait.count else {}
            ))


def _narrowed(stack: StackStat, inside: Distribution) -> StackStat:
    """Figures that are not known of the part inside requests are 0."""
    return StackStat(
        stack.frames, stack.state, stack.reason, inside, goroutines=min(stack.goroutines, inside.count), goid=stack.goid, pid=stack.pid,
        margin_ns=None if stack.margin_ns is None else min(stack.margin_ns, inside.total_ns), waited=stack.waited, labels=stack.labels,
    )


def _in_exemplars(timeline: list[TimelineInterval], requests: list[Span], kept: dict[StackKey, StackStat]) -> list[TimelineInterval]:
    """What single intervals are known to lie in the path of a request that is shown."""
    if not timeline:
        return []
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for pid, exemplar in ((span.pid, exemplar) for span in requests for exemplar in span.exemplars):
        for step in exemplar.path:
            steps.setdefault((pid, step.goid), []).append((step.start_ns, step.start_ns + step.duration_ns))

    def inside(interval: TimelineInterval) -> bool:
        end_ns = interval.start_ns + interval.duration_ns
        of_goroutine = steps.get((interval.stack.pid, interval.goid), ())
        return any(interval.start_ns < to_ns and from_ns < end_ns for from_ns, to_ns in of_goroutine)

    return [
        replace(interval, stack=kept.get(interval.stack.key, interval.stack)) for interval in timeline if inside(interval)
    ]
