"""What is known of the requests in progress where a window ends, or now: kept, as the timelines go on and the tables are cleared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gotrace.common.histogram import bucket_of
from gotrace.kernel.history import PartRecord
from gotrace.kernel.spans import OpenRequest
from gotrace.profile.types import Distribution
from gotrace.watch.requests.earlier import Served
from gotrace.watch.requests.followed import Slow
from gotrace.watch.requests.path import Step, follow
from gotrace.watch.requests.summing import Summing
from gotrace.watch.requests.timelines import Timelines


@dataclass
class OngoingRequests:
    """Those of one function. `lasting` and `doing` are as in `Span`; `shown` are some of the longest, where a window ends with their
    paths."""

    count: int = 0
    before: int = 0
    lasting: Distribution = field(default_factory=Distribution)
    doing: dict[str, int] = field(default_factory=dict)
    shown: list[Slow] = field(default_factory=list)

    def add(self, slow: Slow) -> None:
        """One more."""
        self.count += 1
        self.before += slow.begun_before
        add_duration(self.lasting, slow.duration_ns)


class RequestsInProgress:
    """Finds them. `functions`: the names of those that serve requests, by number; `exemplars`: how many are `shown` of each, at most."""

    def __init__(self, timelines: Timelines, summing: Summing, functions: Sequence[str], exemplars: int) -> None:
        self._timelines = timelines
        self._summing = summing
        self._functions = functions
        self._exemplars = exemplars

    def now(
        self, opened: Iterable[OpenRequest], earlier: Iterable[Served], opened_ns: int, now_ns: int,
    ) -> dict[int, OngoingRequests]:
        """Those in progress, by function: of the `opened`, and those that began `earlier` than the window, which opened at `opened_ns`.
        What they wait for is not known yet."""
        return {number: self._of(requests) for number, requests in _by_function(opened, earlier, opened_ns, now_ns).items()}

    def at_the_end(
        self, opened: Iterable[OpenRequest], earlier: Iterable[Served], opened_ns: int, end_ns: int,
    ) -> dict[int, OngoingRequests]:
        """The same where the window ends, with what they wait for; the timelines have the last waits."""
        found = {}
        for number, requests in _by_function(opened, earlier, opened_ns, end_ns).items():
            ongoing = found[number] = self._of(requests)
            for slow in requests:
                what = self._summing.doing(self._last(slow), self._functions[number])
                ongoing.doing[what] = ongoing.doing.get(what, 0) + 1
            ongoing.shown = [slow._replace(steps=self._path(slow)) for slow in ongoing.shown]
        return found

    def _of(self, requests: Sequence[Slow]) -> OngoingRequests:
        ongoing = OngoingRequests()
        for slow in requests:
            ongoing.add(slow)
        ongoing.shown = self._longest(requests)
        return ongoing

    def _longest(self, requests: Sequence[Slow]) -> list[Slow]:
        """The longest, but first one of each that waits for something else."""
        rows: set[int] = set()
        first: list[Slow] = []
        others: list[Slow] = []
        for slow in sorted(requests, key=lambda slow: -slow.duration_ns):
            last = self._last(slow)
            row = last.row if last is not None else 0
            (others if row in rows else first).append(slow)
            rows.add(row)
        return [*first, *others][: self._exemplars]

    def _last(self, slow: Slow) -> PartRecord | None:
        return self._timelines.last(slow.goid, slow.start_ns + slow.duration_ns)

    def _path(self, slow: Slow) -> tuple[Step, ...]:
        return tuple(follow(self._timelines, slow.goid, slow.start_ns, slow.start_ns + slow.duration_ns))


def _by_function(opened: Iterable[OpenRequest], earlier: Iterable[Served], opened_ns: int, now_ns: int) -> dict[int, list[Slow]]:
    found: dict[int, list[Slow]] = defaultdict(list)
    for served in earlier:
        found[served.function].append(_lasting(served.goid, opened_ns, now_ns, begun_before=True))
    for request in opened:
        if not request.over_ns:
            found[request.function].append(_lasting(request.goid, request.start_ns, now_ns, request.request))
    return found


def _lasting(goid: int, since_ns: int, now_ns: int, request: int = 0, begun_before: bool = False) -> Slow:
    return Slow(max(0, now_ns - since_ns), since_ns, goid, request, (), True, begun_before)


def add_duration(to: Distribution, duration_ns: int) -> None:
    """Adds one whose end is not known: its time is in no sum."""
    to.add(Distribution(1, 0, duration_ns, 0, {bucket_of(duration_ns): 1}))
