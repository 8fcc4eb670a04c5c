"""Types of command-line values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from gotrace.common.units import format_duration
from gotrace.profile.hotspots import Thresholds

_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)?")
_LONGEST_NS = 7 * 24 * 3600 * 1_000_000_000


_Command = TypeVar("_Command", bound=Callable[..., object])

if TYPE_CHECKING:
    _IntType = click.ParamType[int]
else:
    _IntType = click.ParamType  # not generic in all releases of click


class Duration(_IntType):
    """``250us``, ``10ms``, ``1.5s``, ``2m``; a bare number is seconds. The value is int ns."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Returns int ns; fails for anything else, or over a week."""
        if isinstance(value, int):
            return value
        match = _DURATION.fullmatch(str(value).strip())
        if not match:
            self.fail(f"{value!r} is not a duration (250us, 10ms, 1.5s, 2m)", param, ctx)
        ns = round(float(match.group(1)) * _UNITS[match.group(2) or "s"])
        if ns > _LONGEST_NS:
            self.fail(f"{value!r} is longer than a week", param, ctx)
        return ns


DURATION = Duration()
_HOT = Thresholds()


def _default(duration_ns: int) -> str:
    return format_duration(duration_ns).replace(".0 ", " ").replace(" ", "")


HOT_OPTIONS = (
    click.option("--hot-jitter", type=DURATION, default=_default(_HOT.jitter_ns), show_default=True, metavar="DURATION",
                 help="Hot spots: a standard deviation above this in three sub-windows in a row; 0: off."),
    click.option("--hot-p99", type=DURATION, default=_default(_HOT.p99_ns), show_default=True, metavar="DURATION",
                 help="Hot spots: a p99 above this, a tenth of it in waits for a P or a CPU; 0: off."),
    click.option("--hot-share", type=click.FloatRange(0, 100), default=100 * _HOT.share, show_default=True, metavar="PERCENT",
                 help="Hot spots: a share above this of the off-CPU time that is not idle by design; 0: off."),
)


def hot_options(command: _Command) -> _Command:
    """The flags of the hot spots' thresholds; `thresholds` makes them one value."""
    for option in reversed(HOT_OPTIONS):
        command = option(command)
    return command


def thresholds(hot_p99: int, hot_jitter: int, hot_share: float) -> Thresholds:
    """The values of `hot_options`."""
    return Thresholds(hot_p99, hot_jitter, hot_share / 100)
