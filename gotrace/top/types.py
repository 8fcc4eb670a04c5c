"""What `gotrace top` shows: places where goroutines wait, and requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from gotrace.profile.types import Target
from gotrace.profile.types import Window as Traced


@dataclass(frozen=True)
class Place:
    """Where goroutines wait, and for what. `name`, `file` and `line` are of the innermost frame of the program, else of the first that is
    not the runtime's. `object` is the peer or the file, "" if there is none. `idle`: the wait is one for work or for a time."""

    name: str
    file: str
    line: int
    state: str
    reason: str
    object: str
    idle: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Row:
    """The figures of one place in a window. They include waits in progress but for `rate_per_s`, which counts those that have ended;
    `waiting_now` is how many are in progress, None if that can't be told now. `share` is the fraction of the time of all rows. `trend`
    is the time of the waits that ended in each of the last seconds, the latest last."""

    place: Place
    waiting_now: int | None
    rate_per_s: float
    total_ns: int
    share: float
    p50_ns: int
    p99_ns: int
    max_ns: int
    trend: tuple[int, ...] = ()


@dataclass(frozen=True)
class RequestRow:
    """Calls of one span function that have ended in a window, of which they were traced for `traced_ns`: the rate is of that time. Where
    that was in several `windows` since the start, the figures are estimates, and `cut_off` had not ended with theirs: they are in no
    percentile, but in the rate. `at_least`: percentiles and maximum of all, by name as in JSON, of which those in progress or cut off are
    taken to end now; {} if that is not known. `in_progress_before`: how many of those `in_progress` had begun before the trace, None if
    that is not known and they are not among them. `cause` is what most of the slowest percent's time went to in the end, "" if it is not
    known, and `cause_share` its share of that time."""

    span: str
    count: int
    in_progress: int
    rate_per_s: float
    p50_ns: int
    p90_ns: int
    p99_ns: int
    max_ns: int
    traced_ns: int
    cause: str = ""
    cause_share: float = 0.0
    windows: int = 1
    cut_off: int = 0
    at_least: dict[str, int] = field(default_factory=dict)
    in_progress_before: int | None = 0


@dataclass(frozen=True)
class Screen:
    """Everything at one moment. `span_ns` is how long the window is that the rows are of. `cost` is the estimate of what tracing costs, as
    a fraction of the CPU time that the target uses for itself, or of one CPU if that is more; None if it is not known yet. `losses` is
    how many losses there were. `unseen`: why it can't be told now what is in progress, "" if it can."""

    target: Target
    traced: Traced
    span_ns: int
    rows: list[Row]
    requests: list[RequestRow]
    states: dict[str, int]
    intervals_per_s: float = 0.0
    cost: float | None = None
    losses: int = 0
    unseen: str = ""
