"""Words for a figure on two sides."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from gotrace.diff.noise import Delta
from gotrace.render.text import format_duration

MARK = "*"
"""Stands behind a change that exceeds the noise."""


def both(delta: Delta) -> str:
    """``1.20 s → 3.40 s``."""
    return f"{amount(delta.before)} → {amount(delta.after)}"


def amount(ns: float) -> str:
    """A duration, also one of less than a nanosecond."""
    return "0" if not ns else "<1 ns" if ns < 1 else format_duration(round(ns))


def relative(delta: Delta, new: bool = False, gone: bool = False) -> str:
    """``+12 %``, ``×3.4``, ``new``, ``gone``, with `MARK` where it exceeds the noise."""
    before, after = delta.before, delta.after
    if before == after:
        return "="
    if new or not before:
        text = "new"
    elif gone or not after:
        text = "gone"
    elif after >= 2 * before:
        ratio = after / before
        text = f"×{ratio:.3g}" if ratio < 1_000 else f"×{ratio:,.0f}" if ratio < 1_000_000 else "×>10⁶"
    else:
        percent = 100 * (after - before) / before
        text = f"{percent:+.0f} %" if abs(percent) >= 0.5 else "+0 %" if percent > 0 else "-0 %"
    return text + (f" {MARK}" if delta.exceeds else "  ")


def style(delta: Delta) -> str:
    """The colour of a change that exceeds the noise."""
    if not delta.exceeds:
        return ""
    return "red" if delta.after > delta.before else "blue"


def print_line(line: Text, console: Console) -> None:
    """Prints one line, as much of it as there is room for."""
    line.rstrip()
    console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
