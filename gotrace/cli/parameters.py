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
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kMGT]?)(?:i?B)?")
_POWERS = {"": 0, "k": 10, "M": 20, "G": 30, "T": 40}
_BAND = re.compile(r"p(\d+(?:\.\d+)?)(?:\.\.p(\d+(?:\.\d+)?))?")
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


class Size(_IntType):
    """``32MB``, ``1GB``: powers of 1024. The value is int bytes."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Returns int bytes; fails for anything else."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        if not match:
            self.fail(f"{value!r} is not a size (500kB, 32MB, 1GB)", param, ctx)
        return int(float(match[1]) * (1 << _POWERS[match[2]]))


if TYPE_CHECKING:
    _BandType = click.ParamType[tuple[float, float]]
else:
    _BandType = click.ParamType


class Band(_BandType):
    """``p99`` (from there on) or ``p50..p90``. The value is a pair of fractions, the lower one first."""

    name = "band"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        """Fails for anything else."""
        if isinstance(value, tuple):
            return value
        match = _BAND.fullmatch(str(value).strip())
        low, high = (float(match.group(1)), float(match.group(2) or 100)) if match else (1.0, 0.0)
        if not 0 <= low < high <= 100:
            self.fail(f"{value!r} is no band of percentiles (p99, p50..p90)", param, ctx)
        return low / 100, high / 100


DURATION = Duration()
SIZE = Size()
BAND = Band()
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


def request_options(command: _Command) -> _Command:
    """The flags that say which calls are requests: `requests` (``auto`` or ``off``) and `spans`."""
    command = click.option("--span", "spans", multiple=True, metavar="FUNCTION",
                           help="Every call of this function is a request, too: its full name; it may not be inlined. Repeatable.")(command)
    return click.option("--requests", type=click.Choice(["auto", "off"]), default="auto", show_default=True,
                        help="auto: calls of the functions by which net/http, gRPC and net/rpc serve, where the program has "
                             "them, are requests.")(command)


def request_filters(command: _Command) -> _Command:
    """The flags that choose among requests: `slower_than` (ns, 0: all) and `band` (see `Band`; None: all)."""
    command = click.option("--slower-than", type=DURATION, default="0s",
                           help="Outputs have only requests of at least this length.")(command)
    return click.option("--band", type=BAND, metavar="PERCENTILES",
                        help="Outputs have only requests between these percentiles of the duration: p99 (the slowest 1 %), "
                             "p50..p90.")(command)


def thresholds(hot_p99: int, hot_jitter: int, hot_share: float) -> Thresholds:
    """The values of `hot_options`."""
    return Thresholds(hot_p99, hot_jitter, hot_share / 100)
