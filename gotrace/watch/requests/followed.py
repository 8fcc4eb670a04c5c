"""Which requests are followed to their causes, and what comes of it: some of each duration by chance, and the slowest."""

from __future__ import annotations

import heapq
import random
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from gotrace.kernel.history import Completed
from gotrace.kernel.records import WorldPause
from gotrace.watch.requests.path import How, Step, follow, with_stops
from gotrace.watch.requests.timelines import Timelines

_OF_EACH_BUCKET = 16
"""Requests of one bucket that are followed after each reading, at most."""
_AT_ONCE = 4
"""So many of each come before more of any."""
_FOLLOW_FOR_NS = 10_000_000
"""What following may take after each reading."""
_AT_THE_END_NS = 200_000_000
"""What it may take when the window is over, of what there was no time for."""
_MOST_CAUSES = 4096
_MOST_LEFT = 16


class RawCause(NamedTuple):
    """What steps are one cause for: all but when and who. `own`: it was the request's own goroutine."""

    how: How
    row: int
    via: int
    what: int
    own: bool


@dataclass(slots=True)
class FollowedBucket:
    """Requests of one bucket that were followed: how many, the time of all for which they stand, and what it went to."""

    count: int = 0
    total_ns: int = 0
    causes: dict[RawCause, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(slots=True)
class _Group:
    """Requests of one bucket that have ended between two readings: the time of all, and those that may be followed, at random. They stand
    for these alone: at other times it may have been otherwise, and more or less of them were followed."""

    total_ns: int
    chosen: list[Completed]
    followed: int = 0
    followed_ns: int = 0
    causes: dict[RawCause, int] = field(default_factory=lambda: defaultdict(int))

    def rest(self) -> Iterable[tuple[int, Completed]]:
        """Those that are yet to be followed, numbered."""
        return enumerate(self.chosen[self.followed :], self.followed)

    def add(self, request: Completed, path: list[Step]) -> None:
        self.followed += 1
        self.followed_ns += request.duration_ns
        for step in path:
            self.causes[RawCause(step.how, step.row, step.via, step.what, step.goid == request.goid and not step.via)] += step.duration_ns


class Slow(NamedTuple):
    """A slow request with its path. If it had `begun_before` the window, it is told from there on."""

    duration_ns: int
    start_ns: int
    goid: int
    request: int
    steps: tuple[Step, ...]
    in_progress: bool = False
    begun_before: bool = False


class Followed:
    """Of one process. `stops`: of the world, up to now, in the order of time. `exemplars`: how many of the `slowest` requests are kept, of
    each function, and of those that began `earlier` than the window and ended in it. `sums_up`: causes are; not while what makes goroutines
    runnable is not traced."""

    def __init__(self, timelines: Timelines, exemplars: int) -> None:
        self.buckets: dict[int, dict[int, FollowedBucket]] = {}
        self.slowest: dict[int, list[Slow]] = {}
        self.earlier: dict[int, list[Slow]] = {}
        self.stops: list[WorldPause] = []
        self.sums_up = True
        self._timelines = timelines
        self._exemplars = exemplars
        self._random = random.Random(0)
        self._left: dict[tuple[int, int], deque[_Group]] = {}

    def take(self, requests: Iterable[Completed]) -> None:
        """Requests that have ended since the last call; the timelines reach at least as far."""
        by_bucket: dict[tuple[int, int], list[Completed]] = defaultdict(list)
        for request in requests:
            by_bucket[request.function, request.bucket].append(request)
        groups = {}
        for key, found in by_bucket.items() if self.sums_up else ():
            chosen = self._random.sample(found, min(len(found), _OF_EACH_BUCKET))
            groups[key] = _Group(sum(request.duration_ns for request in found), chosen)
        self._follow(groups.values(), time.monotonic_ns() + _FOLLOW_FOR_NS)
        for key, group in groups.items():
            self._sum_up(key, group)
            if group.followed < len(group.chosen):
                self._left.setdefault(key, deque(maxlen=_MOST_LEFT)).append(group)
        for function in {request_function for request_function, _ in by_bucket}:
            self._keep_slowest(function, (r for (of, _), found in by_bucket.items() if of == function for r in found))

    def forget(self, before_ns: int) -> None:
        """Makes room for others in place of slow requests that ended before that moment."""
        for function, slowest in self.slowest.items():
            if any(slow.start_ns + slow.duration_ns < before_ns for slow in slowest):
                self.slowest[function] = [slow for slow in slowest if slow.start_ns + slow.duration_ns >= before_ns]
        for function, earlier in self.earlier.items():
            self.earlier[function] = [slow for slow in earlier if slow.start_ns + slow.duration_ns >= before_ns]

    def take_earlier(self, opened_ns: int, ended: Iterable[Completed]) -> None:
        """Requests that have ended since the last call, after they began before the window, which opened then; each record's start is the
        end. The timelines reach at least as far."""
        latest: dict[tuple[int, int], int] = {}
        for record in ended:
            key = record.function, record.goid
            latest[key] = max(record.start_ns, latest.get(key, 0))  # calls within each other: the outermost ends last
        for (function, goid), end_ns in sorted(latest.items(), key=lambda item: -item[1]):
            kept = self.earlier.setdefault(function, [])
            if len([slow for slow in kept if slow.start_ns + slow.duration_ns >= end_ns]) < self._exemplars:
                steps = with_stops(follow(self._timelines, goid, opened_ns, end_ns), self.stops)
                others = (slow for slow in kept if (slow.goid, slow.start_ns) != (goid, opened_ns))
                kept[:] = [*others, Slow(end_ns - opened_ns, opened_ns, goid, 0, tuple(steps), begun_before=True)]
                kept.sort(key=lambda slow: -slow.duration_ns)
                del kept[self._exemplars :]

    def take_left(self) -> None:
        """Follows requests that there was no time for, of which each group has the more to stand for it."""
        left = [(key, group) for key, groups in self._left.items() for group in groups]
        for key, group in left:
            self._sum_up(key, group, -1)
        self._follow([group for _, group in left], time.monotonic_ns() + _AT_THE_END_NS)
        for key, group in left:
            self._sum_up(key, group)
        self._left.clear()

    def _follow(self, groups: Iterable[_Group], until_ns: int) -> None:
        """The slowest first, should time run out, but some of all."""
        rounds = [(at // _AT_ONCE, -request.bucket, request, group) for group in groups for at, request in group.rest()]
        for _, _, request, group in sorted(rounds, key=lambda one: one[:3]):
            if time.monotonic_ns() > until_ns:
                break
            group.add(request, self._path(request))

    def _path(self, request: Completed) -> list[Step]:
        steps = follow(self._timelines, request.goid, request.start_ns, request.start_ns + request.duration_ns)
        return with_stops(steps, self.stops)

    def _sum_up(self, key: tuple[int, int], group: _Group, times: int = 1) -> None:
        if not group.followed:
            return
        function, bucket = key
        sums = self.buckets.setdefault(function, {}).setdefault(bucket, FollowedBucket())
        sums.count += times * group.followed
        sums.total_ns += times * group.total_ns
        for cause, cause_ns in group.causes.items():
            if cause in sums.causes or len(sums.causes) < _MOST_CAUSES:
                sums.causes[cause] += times * (cause_ns * group.total_ns // group.followed_ns)
                if sums.causes[cause] <= 0:
                    del sums.causes[cause]

    def _keep_slowest(self, function: int, requests: Iterable[Completed]) -> None:
        kept = self.slowest.setdefault(function, [])
        least = kept[-1].duration_ns if kept and len(kept) >= self._exemplars else -1
        candidates = heapq.nlargest(self._exemplars, (r for r in requests if r.duration_ns > least), key=lambda r: r.duration_ns)
        kept += [Slow(r.duration_ns, r.start_ns, r.goid, r.request, tuple(self._path(r))) for r in candidates]
        kept.sort(key=lambda slow: -slow.duration_ns)
        del kept[self._exemplars :]
