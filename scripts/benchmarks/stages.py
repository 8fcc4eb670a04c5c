"""A profile of load as text: ``10s@2000,10s@4000,5s@max``, or a file with one stage a line. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import click

from gotrace.cli.parameters import DURATION
from gotrace.common.errors import UsageError

MAX_STAGES = 100
MAX_RATE = 1e6
MAX_TOTAL_NS = 3600 * 1_000_000_000


@dataclass(frozen=True)
class Stage:
    """Requests per second for a time; a rate of 0 is a closed loop as fast as answers come. In the `ramp_ns` before it the
    rate grows in a straight line from that of the stage before. What is not `counted` is sent and not told."""

    duration_ns: int
    rate: float = 0.0
    ramp_ns: int = 0
    counted: bool = True

    @property
    def name(self) -> str:
        """As it is written: ``10s@2000``."""
        return f"{self.duration_ns / 1e9:g}s@{f'{self.rate:g}' if self.rate else 'max'}"

    def as_dict(self) -> dict:
        """As the load generator reads it."""
        return asdict(self)


def parse_stages(text: str) -> list[Stage]:
    """The stages of `text`, which stand one a line or between commas; ``#`` begins a comment.

    Raises:
        UsageError: something is no stage, or the whole is out of bounds.
    """
    words = [word.strip() for line in text.splitlines() for word in line.partition("#")[0].split(",")]
    stages = [_parse(word) for word in words if word]
    if not 1 <= len(stages) <= MAX_STAGES:
        raise UsageError(f"{len(stages)} stages: 1 to {MAX_STAGES}", "--stages 10s@2000,10s@4000,5s@max")
    if sum(stage.duration_ns for stage in stages) > MAX_TOTAL_NS:
        raise UsageError("the stages last longer than an hour")
    return stages


def _parse(word: str) -> Stage:
    length, at, rate = word.partition("@")
    try:
        duration_ns = DURATION.convert(length, None, None)
        per_second = 0.0 if rate == "max" else float(rate)
    except (click.BadParameter, ValueError):
        at = ""
    if not at or duration_ns <= 0 or rate != "max" and not 0 < per_second <= MAX_RATE:
        raise UsageError(f"{word!r} is no stage: DURATION@REQUESTS_PER_SECOND, up to {MAX_RATE:.0f} a second, or DURATION@max", "--stages 10s@2000,5s@max")
    return Stage(duration_ns, per_second)


def with_ramps(stages: list[Stage], ramp_ns: int) -> list[Stage]:
    """The same, with a ramp before each stage that has a rate."""
    return [replace(stage, ramp_ns=ramp_ns if stage.rate else 0) for stage in stages]


def unmeasured(stage: Stage, duration_ns: int) -> Stage:
    """Load like that of `stage` which is not counted: a warm-up, or what bridges a gap."""
    return Stage(duration_ns, stage.rate, counted=False)
