"""Makes durations and shares readable."""

from __future__ import annotations

_UNITS = ((1_000, "µs"), (1_000_000, "ms"), (1_000_000_000, "s"))
_MINUTE = 60 * 1_000_000_000
_HOUR = 60 * _MINUTE


def format_duration(duration_ns: int) -> str:
    """Three significant digits and a unit: ``870 ns``, ``1.23 ms``, ``30.0 s``, ``12.5 min``, ``3.40 h``."""
    if duration_ns >= 2 * _HOUR:
        return f"{_three_digits(duration_ns / _HOUR)} h"
    if duration_ns >= 10 * _MINUTE:
        return f"{_three_digits(duration_ns / _MINUTE)} min"
    if duration_ns < 1_000:
        return f"{duration_ns} ns"
    for scale, unit in _UNITS:
        # 999,500 thousandths of a unit would round to "1000": it belongs to the next unit.
        if duration_ns < 999.5 * scale:
            return f"{_three_digits(duration_ns / scale)} {unit}"
    return f"{duration_ns / 1_000_000_000:.0f} s"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def format_share(part: int, whole: int) -> str:
    """`part` of `whole` in per cent, ``12.3 %``; ``<0.1 %`` rather than a zero that is not one."""
    if not whole:
        return "0.0 %"
    percent = 100 * part / whole
    return "<0.1 %" if 0 < percent < 0.05 else f"{percent:.1f} %"
