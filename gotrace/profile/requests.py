"""Requests: calls of the functions that serve them (spans), by how long they took, with where their time went and to what in the end.

All durations are int nanoseconds. Requests are summed up by the bucket of their duration (gotrace/common/histogram.py), all that were
completed in the window; percentiles are cut from that afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from gotrace.common.histogram import bucket_of
from gotrace.common.vocabulary import State
from gotrace.profile.types import Distribution, Frame, StackKey, StackStat

RUNNING = "running"
"""In place of a state: with a CPU."""
UNKNOWN_STATE = "unknown"
"""In place of a state: it is not known what went on."""
EDGES = (0.0, 0.5, 0.9, 0.99, 1.0)
"""The percentiles between which the bands of the summary lie."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What time went to in the end. `state` is that of `State`, or `RUNNING`, or `UNKNOWN_STATE`; `text` is one line that says it all.
    Those of one text are one: the frames are an example."""

    text: str
    frames: tuple[Frame, ...] = field(compare=False)
    state: str
    reason: str
    object: str = field(default="", compare=False)


@dataclass(slots=True)
class WaitSum:
    """Waits of one stack inside requests."""

    count: int = 0
    total_ns: int = 0


@dataclass(slots=True)
class SpanBucket:
    """The completed requests whose duration lies in one bucket. `cpu_ns`: running with a CPU, on their own goroutines; `waits`: all else,
    by stack; `other`: waits beyond the number of different ones that is kept of a request, by state and reason. `total_ns` is the sum of
    the three.

    Of `followed` of them, chosen by chance, the path was followed: `causes` divide the time of those for which they stand,
    `followed_ns`, as far as they explain it."""

    count: int = 0
    total_ns: int = 0
    cpu_ns: int = 0
    waits: dict[StackKey, WaitSum] = field(default_factory=dict)
    other: dict[tuple[State, str], WaitSum] = field(default_factory=dict)
    followed: int = 0
    followed_ns: int = 0
    causes: dict[Cause, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PathStep:
    """A stretch of an exemplar's time, and where it went: what goroutine `goid` did. `start_ns` is from the window's start."""

    goid: int
    start_ns: int
    duration_ns: int
    state: str
    reason: str
    frames: tuple[Frame, ...] = ()
    object: str = ""


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One slow request. `what`: method and path, or the gRPC method; None if it was not read. `path` covers it without gaps and overlaps,
    the latest step first; empty if it could not be followed. `in_progress`: it had not ended when the window did; `begun_before`: it began
    before the window, and is told from the window's start on. In either case it takes at least as long."""

    start_ns: int
    duration_ns: int
    goid: int
    what: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    path: tuple[PathStep, ...] = ()
    in_progress: bool = False
    begun_before: bool = False

    @property
    def at_least(self) -> bool:
        """Whether its whole duration is not known."""
        return self.in_progress or self.begun_before


@dataclass(slots=True)
class Span:
    """All calls of one function of one process in the window. `in_progress`: how many had not ended then, and `in_progress_before`: how
    many of these had begun before the window (None: that is not known, and they are not among them); they are in nothing else but
    `exemplars`, which are the slowest first, `lasting`, how long they have lasted so far (without their sum), and `doing`, what their
    goroutines did then and how many did that, empty while the trace runs. `begun_before`: how many ended in it and had begun before it, or
    while their probes were away; they are in nothing else but `exemplars`. `traced_ns`: for how long requests were traced: those that began
    then. Where that was in several `windows`, `cut` are those that had not ended with theirs, and the other figures are estimates for the
    time between. `shown`: between which percentiles those requests lie that are to be shown; the figures are of all."""

    function: str
    pid: int = 0
    latency: Distribution = field(default_factory=Distribution)
    in_progress: int = 0
    buckets: dict[int, SpanBucket] = field(default_factory=dict)
    exemplars: list[Exemplar] = field(default_factory=list)
    shown: tuple[float, float] = (0.0, 1.0)
    begun_before: int = 0
    traced_ns: int = 0
    in_progress_before: int | None = 0
    lasting: Distribution = field(default_factory=Distribution)
    doing: dict[str, int] = field(default_factory=dict)
    windows: int = 1
    cut: Distribution = field(default_factory=Distribution)

    @property
    def at_least(self) -> Distribution:
        """Durations of all, of which those in progress are taken to end with the window: no percentile of the whole durations is lower."""
        whole = Distribution()
        for each in (self.latency, self.cut if self.windows > 1 else self.lasting):
            whole.add(each)
        return whole

    def rate(self, window_ns: int) -> float:
        """How many a second, in the time in which they were traced."""
        traced_ns = self.traced_ns or window_ns
        return (self.latency.count + self.cut.count) * 1e9 / traced_ns if traced_ns else 0.0

    def lasting_over(self, length_ns: int) -> int:
        """How many of those in progress have lasted longer, as far as the histogram tells."""
        return sum(count for bucket, count in self.lasting.histogram.items() if bucket > bucket_of(length_ns))


@dataclass(slots=True)
class Band:
    """The requests between two percentiles of the duration. `low` and `high` are fractions. `causes`: largest first; together they explain
    `explained_ns` of the band's time, which is an estimate from the requests that were followed."""

    low: float
    high: float
    count: int = 0
    total_ns: int = 0
    cpu_ns: int = 0
    waits: dict[StackKey, WaitSum] = field(default_factory=dict)
    other: dict[tuple[State, str], WaitSum] = field(default_factory=dict)
    followed: int = 0
    causes: dict[Cause, int] = field(default_factory=dict)

    def times(self, stacks: Mapping[StackKey, StackStat]) -> dict[tuple[State, str], int]:
        """Time by state and reason, largest first."""
        found: dict[tuple[State, str], int] = {}
        for key, wait in self.waits.items():
            both = stacks[key].state, stacks[key].reason
            found[both] = found.get(both, 0) + wait.total_ns
        for both, wait in self.other.items():
            found[both] = found.get(both, 0) + wait.total_ns
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def name(self) -> str:
        """``p99-100``."""
        return f"p{round(100 * self.low, 2):g}-{round(100 * self.high, 2):g}"

    @property
    def explained_ns(self) -> int:
        """How much of the time has a cause."""
        return sum(self.causes.values())

    def by_state(self, stacks: Mapping[StackKey, StackStat]) -> dict[State, int]:
        """Time by state, largest first; with `cpu_ns` it is all."""
        return _sums((state, ns) for (state, _), ns in self.times(stacks).items())

    def by_reason(self, stacks: Mapping[StackKey, StackStat]) -> dict[str, int]:
        """Time by reason, largest first."""
        return _sums((reason, ns) for (_, reason), ns in self.times(stacks).items())


_Key = TypeVar("_Key")


def _sums(parts: Iterable[tuple[_Key, int]]) -> dict[_Key, int]:
    found: dict[_Key, int] = {}
    for key, ns in parts:
        found[key] = found.get(key, 0) + ns
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def key_parts(key: StackKey) -> tuple[State, str]:
    """State and reason of the stack that has this `StackStat.key`."""
    _, _, state, reason, *_ = key
    assert isinstance(state, State) and isinstance(reason, str)
    return state, reason


def bands(span: Span, edges: Sequence[float] = EDGES) -> list[Band]:
    """The requests of a span between each two neighbours of `edges`. Those of one bucket, which differ by less than 1/16 in duration, are
    divided evenly where an edge lies among them: the sums over all bands are those over all requests."""
    result = [Band(low, high) for low, high in zip(edges, edges[1:], strict=False)]
    for band in result:
        for _, bucket, offset, share in _between(span, band.low, band.high):
            _add(band, bucket, offset, share)
        band.causes = dict(sorted(band.causes.items(), key=lambda item: -item[1]))
    return result


def shown_bands(span: Span) -> list[Band]:
    """The bands of the summary, as far as their requests are to be shown."""
    low, high = span.shown
    return bands(span, (low, *(edge for edge in EDGES if low < edge < high), high))


def parts(span: Span, low: float, high: float) -> dict[int, Band]:
    """What of each bucket lies between two percentiles. Together that is the band between them."""
    result = {}
    for number, bucket, offset, share in _between(span, low, high):
        result[number] = Band(low, high)
        _add(result[number], bucket, offset, share)
    return result


def _between(span: Span, low: float, high: float) -> Iterator[tuple[int, SpanBucket, int, int]]:
    """The buckets that reach between two percentiles, by number, and of which of their requests on how many lie there."""
    total = sum(bucket.count for bucket in span.buckets.values())
    first, end = round(low * total), round(high * total)
    seen = 0
    for number in sorted(span.buckets):
        bucket = span.buckets[number]
        share = min(seen + bucket.count, end) - max(seen, first)
        if share > 0:
            yield number, bucket, max(seen, first) - seen, share
        seen += bucket.count


def _add(band: Band, bucket: SpanBucket, offset: int, share: int) -> None:
    """Adds requests [offset, offset + share) of a bucket. What rounding takes from one band the next one gets."""

    def part(figure: int) -> int:
        return figure * (offset + share) // bucket.count - figure * offset // bucket.count

    band.count += share
    band.total_ns += part(bucket.total_ns)
    band.cpu_ns += part(bucket.cpu_ns)
    _add_waits(band.waits, bucket.waits, part)
    _add_waits(band.other, bucket.other, part)
    band.followed += part(bucket.followed)
    for cause, cause_ns in bucket.causes.items():
        # Of the followed ones to all, by their time.
        whole = cause_ns * bucket.total_ns // bucket.followed_ns if bucket.followed_ns else 0
        band.causes[cause] = band.causes.get(cause, 0) + part(whole)


def _add_waits(to: dict[_Key, WaitSum], waits: dict[_Key, WaitSum], part: Callable[[int], int]) -> None:
    for key, wait in waits.items():
        found = to.setdefault(key, WaitSum())
        found.count += part(wait.count)
        found.total_ns += part(wait.total_ns)
