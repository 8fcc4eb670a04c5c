"""What figures of a trace have gained since an earlier state of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gotrace.common.histogram import bucket_range
from gotrace.common.vocabulary import State
from gotrace.profile.requests import Cause, SpanBucket, WaitSum
from gotrace.profile.types import Distribution, GovernorReport, StackKey

_GOVERNOR_SUMS = (
    "wakers_off_ns", "kernel_off_ns", "sampled_ns", "lean_ns", "looked_ns", "paused_ns", "windows", "unlooked_windows", "cost_ns",
)


def difference(new: Distribution, old: Distribution) -> Distribution:
    """What `new` has more than `old`, an earlier state of it. Its maximum is known to a bucket of the histogram."""
    buckets = new.histogram.keys() | old.histogram.keys()
    more = {bucket: gained for bucket in buckets if (gained := new.histogram.get(bucket, 0) - old.histogram.get(bucket, 0))}
    grown = [bucket for bucket, count in more.items() if count > 0]
    highest = bucket_range(max(grown))[1] - 1 if grown else 0
    most = new.max_ns if new.max_ns > old.max_ns else min(new.max_ns, highest)
    return Distribution(new.count - old.count, new.total_ns - old.total_ns, most, new.squares - old.squares, more)


def copied(one: Distribution) -> Distribution:
    """The same as of now: `one` may grow."""
    return Distribution(one.count, one.total_ns, one.max_ns, one.squares, dict(one.histogram))


def governor_sums(reports: Iterable[GovernorReport]) -> dict[str, int]:
    """The sums of what governors gave up and cost, by the name of the field of `GovernorReport`."""
    found = dict.fromkeys(_GOVERNOR_SUMS, 0)
    for report in reports:
        for name in _GOVERNOR_SUMS:
            found[name] += getattr(report, name)
    return found


def governor_gained(new: GovernorReport | None, old: GovernorReport | None) -> GovernorReport | None:
    """What a report has gained since an earlier one of the same trace."""
    if new is None or old is None:
        return new
    gained = {name: max(0, getattr(new, name) - getattr(old, name)) for name in _GOVERNOR_SUMS}
    more = new.steps_dropped + len(new.steps) - old.steps_dropped - len(old.steps)
    return replace(new, **gained, steps=new.steps[max(0, len(new.steps) - more):], steps_dropped=max(0, more - len(new.steps)))


def bucket_gained(new: SpanBucket, old: SpanBucket | None) -> SpanBucket | None:
    """What a bucket of requests has gained, None if nothing."""
    if old is None:
        return new
    if new.count == old.count and new.followed == old.followed:
        return None
    gained = SpanBucket(
        max(0, new.count - old.count), max(0, new.total_ns - old.total_ns), max(0, new.cpu_ns - old.cpu_ns),
        _waits_gained(new.waits.items(), old.waits), _waits_gained(new.other.items(), old.other),
        max(0, new.followed - old.followed), max(0, new.followed_ns - old.followed_ns),
    )
    causes: dict[Cause, int] = {}
    for cause, ns in new.causes.items():
        more = ns - old.causes.get(cause, 0)
        if more > 0:
            causes[cause] = more
    gained.causes = causes
    return gained


def _waits_gained(new: Iterable[tuple[StackKey, WaitSum]] | Iterable[tuple[tuple[State, str], WaitSum]], old: dict) -> dict:  # type: ignore[type-arg]
    found = {}
    for key, wait in new:
        before = old.get(key)
        count, total_ns = (wait.count - before.count, wait.total_ns - before.total_ns) if before else (wait.count, wait.total_ns)
        if count > 0 or total_ns > 0:
            found[key] = WaitSum(max(0, count), max(0, total_ns))
    return found


def add_bucket(to: SpanBucket, more: SpanBucket) -> None:
    """Adds what a bucket has gained."""
    to.count += more.count
    to.total_ns += more.total_ns
    to.cpu_ns += more.cpu_ns
    to.followed += more.followed
    to.followed_ns += more.followed_ns
    for into, waits in ((to.waits, more.waits), (to.other, more.other)):
        for key, wait in waits.items():
            found = into.setdefault(key, WaitSum())  # type: ignore[arg-type]
            found.count += wait.count
            found.total_ns += wait.total_ns
    for cause, ns in more.causes.items():
        to.causes[cause] = to.causes.get(cause, 0) + ns
