"""Windows of a workload with and without a tracer, in pairs, and their results. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Window:
    """One measured window: operations per second, CPU time of the target per operation (ns), latencies (ns, by name: p50_ns,
    p99_ns, p999_ns, ...; empty where an operation has none). `others` is the share of the machine's CPU time that processes
    with no part in it took; None if not measured."""

    rate: float
    cpu_ns: float
    latency: dict[str, int] = field(default_factory=dict)
    others: float | None = None


@dataclass(frozen=True)
class Pair:
    """A window with a tracer between two without, in the given round."""

    round: int
    traced: Window
    before: Window
    after: Window

    @property
    def rate_ratio(self) -> float:
        """Traced throughput over untraced."""
        return _over(self.traced.rate, (self.before.rate + self.after.rate) / 2)

    @property
    def cpu_ratio(self) -> float:
        """CPU time per operation, traced over untraced."""
        return _over(self.traced.cpu_ns, (self.before.cpu_ns + self.after.cpu_ns) / 2)

    def latency_ratio(self, name: str) -> float:
        """A latency, traced over untraced; 0 where it was not measured."""
        both = [window.latency.get(name, 0) for window in (self.before, self.after)]
        return _over(self.traced.latency.get(name, 0), sum(both) / 2)


def _over(value: float, base: float) -> float:
    return value / base if base else 0.0


@dataclass(frozen=True)
class Spread:
    """The median of some values with the smallest and the largest."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread | None:
    """The spread, None if there are no values."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def against(pairs: list[Pair], base: list[Pair]) -> Spread | None:
    """Throughput under one tracer over that under another: of each round that has both, each first over its own untraced
    windows, so that drift of the machine cancels out."""
    by_round = {pair.round: pair.rate_ratio for pair in base}
    return spread([pair.rate_ratio / by_round[pair.round] for pair in pairs if by_round.get(pair.round)])


def order_of(count: int, number: int) -> list[int]:
    """The order of `count` tracers in round `number`: odd rounds run in reverse, so that none gains from its place."""
    forward = list(range(count))
    return forward[::-1] if number % 2 else forward
