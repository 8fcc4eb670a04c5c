"""Types of command-line values."""

from __future__ import annotations

import re

import click

_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)?")
_LONGEST_NS = 7 * 24 * 3600 * 1_000_000_000


class Duration(click.ParamType):
    """``250us``, ``10ms``, ``1.5s``, ``2m``; a bare number is seconds. The value is int ns."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """int ns; fails for anything else, or over a week."""
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
