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


class RawCause(NamedTuple):
    """What steps are one cause for: all but when and who. `own`: it was the request's own goroutine."""

    how: How
    row: int
    via: int
    what: int
    own: bool


@dataclass(slots=True)
class FollowedBucket:
    """Requests of one bucket that were followed: how many, their time, and what it went to."""

    count: int = 0
    total_ns: int = 0
    causes: dict[RawCause, int] = field(default_factory=lambda: defaultdict(int))


class Slow(NamedTuple):
    """A slow request with its path."""

    duration_ns: int
    start_ns: int
    goid: int
    request: int
    steps: tuple[Step, ...]


class Followed:
    """Of one process. `stops`: of the world, up to now, in the order of time. `exemplars`: how many of the slowest requests are kept, of
    each function. `sums_up`: causes are; not while what makes goroutines runnable is not traced."""

    def __init__(self, timelines: Timelines, exemplars: int) -> None:
        self.buckets: dict[int, dict[int, FollowedBucket]] = {}
        self.slowest: dict[int, list[Slow]] = {}
        self.stops: list[WorldPause] = []
        self.sums_up = True
        self._timelines = timelines
        self._exemplars = exemplars
        self._random = random.Random(0)
        self._left: dict[tuple[int, int], deque[Completed]] = {}

    def take(self, requests: Iterable[Completed]) -> None:
        """Requests that have ended since the last call; the timelines reach at least as far."""
        by_bucket: dict[tuple[int, int], list[Completed]] = defaultdict(list)
        for request in requests:
            by_bucket[request.function, request.bucket].append(request)
        chosen = {}
        for key, found in by_bucket.items():
            chosen[key] = self._random.sample(found, min(len(found), _OF_EACH_BUCKET))
        until = time.monotonic_ns() + _FOLLOW_FOR_NS
        # The slowest first, should time run out, but some of all.
        rounds = ((at // _AT_ONCE, -bucket, request) for (_, bucket), found in chosen.items() for at, request in enumerate(found))
        for number, _, request in sorted(rounds) if self.sums_up else ():
            if time.monotonic_ns() <= until:
                self._sum_up(request, self._path(request))
            elif not number:
                self._left.setdefault((request.function, request.bucket), deque(maxlen=_AT_ONCE)).append(request)
        for function in {request_function for request_function, _ in by_bucket}:
            self._keep_slowest(function, (r for (of, _), found in by_bucket.items() if of == function for r in found))

    def take_left(self) -> None:
        """Follows requests that there was no time for, those first of whose duration the fewest were."""
        until = time.monotonic_ns() + _AT_THE_END_NS
        left = [(self._number_of(request) + at, request) for requests in self._left.values() for at, request in enumerate(requests)]
        for _, request in sorted(left):
            if time.monotonic_ns() > until:
                break
            self._sum_up(request, self._path(request))
        self._left.clear()

    def _number_of(self, request: Completed) -> int:
        bucket = self.buckets.get(request.function, {}).get(request.bucket)
        return bucket.count if bucket is not None else 0

    def _path(self, request: Completed) -> list[Step]:
        steps = follow(self._timelines, request.goid, request.start_ns, request.start_ns + request.duration_ns)
        return with_stops(steps, self.stops)

    def _sum_up(self, request: Completed, path: list[Step]) -> None:
        sums = self.buckets.setdefault(request.function, {}).setdefault(request.bucket, FollowedBucket())
        sums.count += 1
        sums.total_ns += request.duration_ns
        for step in path:
            cause = RawCause(step.how, step.row, step.via, step.what, step.goid == request.goid and not step.via)
            if cause in sums.causes or len(sums.causes) < _MOST_CAUSES:
                sums.causes[cause] += step.duration_ns

    def _keep_slowest(self, function: int, requests: Iterable[Completed]) -> None:
        kept = self.slowest.setdefault(function, [])
        least = kept[-1].duration_ns if kept and len(kept) >= self._exemplars else -1
        candidates = heapq.nlargest(self._exemplars, (r for r in requests if r.duration_ns > least), key=lambda r: r.duration_ns)
        kept += [Slow(r.duration_ns, r.start_ns, r.goid, r.request, tuple(self._path(r))) for r in candidates]
        kept.sort(key=lambda slow: -slow.duration_ns)
        del kept[self._exemplars :]
