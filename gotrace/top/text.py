"""The live view as plain text and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from gotrace.common.units import format_duration, format_share
from gotrace.common.vocabulary import State
from gotrace.profile.told import UNKNOWN_BEFORE, is_raised
from gotrace.profile.types import Target
from gotrace.render.columns import Column, cells, fitting, heading, sparkline, width_of
from gotrace.render.text import sanitize
from gotrace.top.types import RequestRow, Row, Screen

_WHOLE_NS = 500_000_000
_RAISED = 3
"""Of so many spans it is told that their percentiles are higher."""
_BARS = 10
"""How many characters a trend has at most."""
_LEAST_PLACE = 36
_PLAIN_STATES = (State.WAITING.value, State.SYSCALL.value)
"""States that go without saying beside the reason."""


def short(duration_ns: int) -> str:
    """A duration in at most seven characters."""
    return format_duration(duration_ns).replace(" ", "")


def rate(per_s: float) -> str:
    """A rate in at most seven characters."""
    return f"{per_s:.0f}" if per_s >= 100 or not per_s else f"{per_s:.3g}"


def trend_of(row: Row, width: int = _BARS) -> str:
    """Its trend in at most `width` characters, each for several seconds."""
    per = -(-len(row.trend) // width) or 1
    parts = [sum(row.trend[max(0, end - per) : end]) for end in range(len(row.trend), 0, -per)]
    return sparkline(parts[::-1])


def title_of(row: Row, room: int = 1000) -> str:
    """What it waits for, and where, in at most `room` characters: without the file, the state and the package where there is none for
    them."""
    place = row.place
    where = f"{place.name} {os.path.basename(place.file)}:{place.line}" if place.line else place.name
    reason = place.reason if place.reason and place.state in _PLAIN_STATES else what_of(row).partition(" (")[0]
    brief = place.name.rpartition("/")[2]
    ways = [f"{what}  {name}" for what in (what_of(row), reason) for name in (where, place.name)] + [f"{reason}  {brief}"]
    return sanitize(next((way for way in ways if len(way) <= room), ways[-1]), room)


def what_of(row: Row) -> str:
    """State, reason and object."""
    place = row.place
    what = f"{place.state}: {place.reason}" if place.reason else place.state
    return f"{what} ({place.object})" if place.object else what


ROW_COLUMNS: tuple[Column[Row], ...] = (
    Column("now", 5, 0, lambda row: "?" if row.waiting_now is None else str(row.waiting_now)),
    Column("rate/s", 7, 1, lambda row: rate(row.rate_per_s)),
    Column("total", 7, 0, lambda row: short(row.total_ns)),
    Column("share", 6, 3, lambda row: f"{100 * row.share:.1f}%"),
    Column("p50", 7, 4, lambda row: short(row.p50_ns)),
    Column("p99", 7, 0, lambda row: short(row.p99_ns)),
    Column("max", 7, 2, lambda row: short(row.max_ns)),
    Column("trend", _BARS, 5, trend_of),
)
"""The figures of a place; the place itself has what is left of the line."""
REQUEST_COLUMNS: tuple[Column[RequestRow], ...] = (
    Column("rate/s", 7, 0, lambda row: rate(row.rate_per_s)),
    Column("now", 5, 1, lambda row: str(row.in_progress)),
    Column("p50", 7, 0, lambda row: short(row.p50_ns)),
    Column("p90", 7, 3, lambda row: short(row.p90_ns)),
    Column("p99", 7, 0, lambda row: short(row.p99_ns)),
    Column("max", 7, 2, lambda row: short(row.max_ns)),
)


def cause_of(row: RequestRow, room: int = 1000) -> str:
    """The span, and what its slow calls wait for in the end, in at most `room` characters."""
    cause = f"  {100 * row.cause_share:.0f}% {row.cause}" if row.cause else ""
    whole, brief = sanitize(row.span + cause, 1000), sanitize(row.span.rpartition("/")[2] + cause, 1000)
    shown = whole if len(whole) <= room else brief
    return shown if len(shown) <= room else shown[: max(1, room - 1)] + "…"


def request_notes(screen: Screen) -> list[str]:
    """What is to be said beside the rows of requests: for how long they were traced, if that is less than the window, how many had not
    ended as their tracing did, and which percentiles would be higher with those that have not ended."""
    rows, notes = screen.requests, []
    traced = min((row.traced_ns for row in rows), default=screen.span_ns)
    if screen.span_ns - traced > max(_WHOLE_NS, screen.span_ns // 10):
        notes.append(f"requests were traced for {format_duration(traced)} of {format_duration(screen.span_ns)} (--max-overhead)")
        if any(row.windows > 1 for row in rows):
            notes[-1] += ": the figures are estimates for the rest"
    if cut_off := sum(row.cut_off for row in rows):
        notes.append(f"{cut_off:,} requests had not ended as tracing paused: they are in the rate, and in no percentile")
    raised = [(row, words) for row in rows if row.count and (words := _raised(row))]
    notes += [f"{sanitize(row.span.rpartition('/')[2], 60)}: with those that have not ended {words}" for row, words in raised[:_RAISED]]
    if any(row.in_progress_before is None for row in rows):
        notes.append(UNKNOWN_BEFORE)
    return notes


def _raised(row: RequestRow) -> str:
    figures = (("p50", row.p50_ns), ("p90", row.p90_ns), ("p99", row.p99_ns))
    return ", ".join(
        f"{name} is at least {format_duration(row.at_least[f'{name}_ns'])}" for name, ended_ns in figures
        if is_raised(ended_ns, row.at_least.get(f"{name}_ns", 0))
    )


def screen_json(screen: Screen) -> str:
    """One line of JSON with its line end; ASCII only."""
    return json.dumps({
        "target": asdict(screen.target), "window": asdict(screen.traced) | {"rows_ns": screen.span_ns},
        "rows": [_row_dict(row) for row in screen.rows], "requests": [asdict(row) for row in screen.requests],
        "losses": screen.losses, "overhead": screen.cost, "unseen": screen.unseen or None,
    }) + "\n"


def _row_dict(row: Row) -> dict[str, Any]:
    place = row.place
    return {
        "place": place.name, "file": place.file, "line": place.line, "state": place.state, "reason": place.reason,
        "object": place.object or None, "idle": place.idle, "waiting_now": row.waiting_now, "rate_per_s": row.rate_per_s,
        "total_ns": row.total_ns, "share": row.share, "p50_ns": row.p50_ns, "p99_ns": row.p99_ns, "max_ns": row.max_ns,
    }


def headline(target: Target, screen: Screen) -> str:
    """The process, the window and what tracing costs."""
    parts = [f"{target.comm} (pid {target.pid})", target.go_version, f"{format_duration(screen.span_ns)} window"]
    parts.append(f"{screen.intervals_per_s:,.0f} intervals/s")
    if screen.cost is not None:
        parts.append(f"tracing costs about {100 * screen.cost:.1f} %")
    parts.append(f"{screen.losses:,} lost" if screen.losses else "no losses")
    return " · ".join(parts)


def states_line(states: dict[str, int]) -> str:
    """How the time off the CPU divides."""
    total = sum(states.values())
    return "  ".join(f"{state} {format_share(ns, total)}" for state, ns in states.items())


def print_screen(screen: Screen, rows: Sequence[Row], console: Console, time: str = "") -> None:
    """Prints requests and places as tables."""
    console.print(Text(f"{time}  {sanitize(headline(screen.target, screen))}".strip(), "bold"), soft_wrap=True)
    if screen.states:
        console.print(Text(states_line(screen.states), "dim"), soft_wrap=True)
    if screen.requests:
        _print_table(REQUEST_COLUMNS, screen.requests, cause_of, "request", console)
        for line in request_notes(screen):
            console.print(Text(f"! {line}", "yellow"), soft_wrap=True)
    if rows:
        _print_table(ROW_COLUMNS, rows, title_of, "place", console)
        if screen.unseen:
            console.print(Text(f"! what waits now is not known: {screen.unseen}", "yellow"), soft_wrap=True)
    console.print()


def _print_table(
    columns: Sequence[Column[Any]], rows: Sequence[Any], title: Callable[[Any, int], str], last: str, console: Console
) -> None:
    kept = fitting(columns, console.width - _LEAST_PLACE - 2)
    room = max(_LEAST_PLACE, console.width - width_of(kept) - 2)
    console.print(Text(f"{heading(kept)}  {last}", "bold"), soft_wrap=True)
    for row in rows:
        console.print(Text(f"{cells(kept, row)}  {title(row, room)}"), soft_wrap=True)
