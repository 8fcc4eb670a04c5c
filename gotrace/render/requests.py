"""Requests on a terminal: how long they took, where their time went, to what in the end, and the slowest ones."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from gotrace.common.vocabulary import State
from gotrace.profile.frames import place_of, plain_name
from gotrace.profile.requests import RUNNING, Band, Exemplar, PathStep, Span, shown_bands
from gotrace.profile.told import PERCENTILES, in_progress_lines, request_gaps
from gotrace.profile.types import Profile, StackKey, StackStat
from gotrace.render.text import format_duration, format_share, sanitize

CAUSES_SHOWN = 3
EXEMPLARS_SHOWN = 5
REASONS_SHOWN = 3
"""Of one state in one band."""
STEPS_SHOWN = 3
_LEAST_STEP = 0.02
"""Of an exemplar's time."""
_LEAST_SHARE = 0.001
"""Of a band's time: a state or a reason below it is not worth its place in the line."""


def print_requests(profile: Profile, console: Console, top: int = 10) -> None:
    """Prints each span: count, rate and percentiles; the bands with how their time divides and their largest causes; the `top` slowest
    requests. Where only some stacks were chosen, and not by their requests, a span has its figures alone. Nothing where there are no
    requests."""
    stacks = {stack.key: stack for stack in profile.stacks}
    comm = {target.pid: target.comm for target in profile.targets} if len(profile.targets) > 1 else {}
    for span in profile.requests:
        _print_span(span, profile.window.duration_ns, f"{comm.get(span.pid, '?')} ({span.pid})" if comm else "", console)
        for gap in request_gaps(profile, span):
            console.print(Text(f"  ! {gap}", "yellow"), soft_wrap=True)
        if profile.filters and span.shown == (0.0, 1.0):
            _line(Text("  what their time went to: without filters, or with --band", "dim"), console)
            console.print()
            continue
        for band in shown_bands(span):
            if band.count:
                _print_band(band, stacks, console)
        _print_exemplars(span.exemplars[:top], console)
        console.print()


def _print_span(span: Span, window_ns: int, process: str, console: Console) -> None:
    d = span.latency
    heading = Text("Requests: ", "bold")
    heading.append(sanitize(plain_name(span.function), max(20, console.width - 12)), "cyan")
    if process:
        heading.append(f"  {sanitize(process, 60)}", "not bold dim")
    _line(heading, console)
    line = Text("  ")
    line.append(f"{d.count:,}", "bold")
    line.append(f" request{'' if d.count == 1 else 's'} ({_rate(span.rate(window_ns))}/s)")
    if span.in_progress:
        line.append(f", {span.in_progress:,} in progress")
    if span.begun_before:
        line.append(f", {span.begun_before:,} begun before")
    _line(line, console)
    if d.count:
        figures = [f"{name} {format_duration(d.percentile_ns(fraction))}" for name, fraction in PERCENTILES]
        _line(Text("  " + "  ".join((*figures, f"max {format_duration(d.max_ns)}"))), console)
    for words in in_progress_lines(span):
        for number, row in enumerate(textwrap.wrap(sanitize(words, 800), max(20, console.width - 4), break_on_hyphens=False)):
            _line(Text(f"  {'  ' if number else ''}{row}", "yellow"), console)


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.2g}"


def _print_band(band: Band, stacks: dict[StackKey, StackStat], console: Console) -> None:
    title = f"  {band.name:<8} {band.count:,}, mean {format_duration(band.total_ns // band.count)}: "
    words = ", ".join(time_parts(band, stacks)).split(", ")
    for number, row in enumerate(_packed(words, console.width - len(title), console.width - 11)):
        line = Text("" if number else title, "bold")
        line.append((" " * 11 if number else "") + row, "not bold")
        _line(line, console)
    if not band.causes:
        return
    for cause, ns in list(band.causes.items())[:CAUSES_SHOWN]:
        rows = textwrap.wrap(sanitize(cause.text, 400), max(20, console.width - 11), break_on_hyphens=False)
        for number, row in enumerate(rows):
            line = Text(" " * 11 if number else f"    {_percent(ns, band.total_ns):>5}  ", "bold")
            line.append(row, "not bold")
            _line(line, console)
    _line(Text(f"           causes explain {_percent(min(band.explained_ns, band.total_ns), band.total_ns)} of the time", "dim"), console)


def time_parts(band: Band, stacks: dict[StackKey, StackStat]) -> list[str]:
    """How a band's time divides, largest first: ``running 12.0 %``, ``waiting 80.0 % (select 79.0 %, IO wait 1.0 %)``."""
    by_state: dict[str, list[tuple[str, int]]] = {}
    if band.cpu_ns:
        by_state[RUNNING] = [("", band.cpu_ns)]
    for (kind, reason), ns in band.times(stacks).items():
        by_state.setdefault(kind.value, []).append((reason, ns))
    sums = {state: sum(ns for _, ns in reasons) for state, reasons in by_state.items()}
    least = _LEAST_SHARE * band.total_ns
    found = []
    for state in sorted(sums, key=lambda state: -sums[state]):
        if sums[state] < least:
            continue
        reasons = [(reason, ns) for reason, ns in by_state[state] if reason and reason != state and ns >= least][:REASONS_SHOWN]
        words = f"{state} {format_share(sums[state], band.total_ns)}"
        if len(by_state[state]) == 1 and reasons:
            words += f" ({sanitize(reasons[0][0], 60)})"
        elif reasons:
            words += " (" + ", ".join(f"{sanitize(reason, 60)} {format_share(ns, band.total_ns)}" for reason, ns in reasons) + ")"
        found.append(words)
    return found


def _print_exemplars(exemplars: list[Exemplar], console: Console) -> None:
    if not exemplars:
        return
    _line(Text("  The slowest:" if len(exemplars) > 1 else "  The slowest one:"), console)
    for rank, exemplar in enumerate(exemplars[:EXEMPLARS_SHOWN], 1):
        line = Text(f"  {rank:>2}. ")
        line.append("at least " if exemplar.at_least else "")
        line.append(format_duration(exemplar.duration_ns), "bold")
        line.append("  ")
        if exemplar.what is not None:
            line.append(sanitize(exemplar.what, 100), "cyan")
            line.append("  ")
        when = "begun before the window" if exemplar.begun_before else f"at {format_duration(max(0, exemplar.start_ns))}"
        line.append(f"{when}, goroutine {exemplar.goid}", "dim")
        if exemplar.in_progress:
            line.append(", in progress", "yellow")
        labels = ", ".join(f"{name}={value}" for name, value in exemplar.labels.items())
        if labels:
            line.append(f"  {sanitize(labels, 120)}", "magenta")
        _line(line, console)
        for row in _packed(largest_steps(exemplar), console.width - 6, console.width - 6):
            _line(Text("      " + row), console)
    if len(exemplars) > EXEMPLARS_SHOWN:
        more = len(exemplars) - EXEMPLARS_SHOWN
        _line(Text(f"      {more} more, and whole paths: in the page, the Perfetto trace and --json", "dim"), console)


def largest_steps(exemplar: Exemplar) -> list[str]:
    """In words, the `STEPS_SHOWN` largest of what the request's time went to, steps of the same taken together; no small ones but the
    first."""
    sums: dict[tuple[int, str], int] = {}
    for step in exemplar.path:
        key = step.goid, step_words(step)
        sums[key] = sums.get(key, 0) + step.duration_ns
    ranked = sorted(sums.items(), key=lambda item: -item[1])[:STEPS_SHOWN]
    ranked = [item for item in ranked if item[1] >= _LEAST_STEP * exemplar.duration_ns] or ranked[:1]
    return [
        f"{format_duration(ns)} {words}" + (f" (goroutine {goid})" if goid != exemplar.goid else "") for (goid, words), ns in ranked
    ]


def step_words(step: PathStep) -> str:
    """``fdatasync fd 8 → /var/db``, ``chan receive in main.get``, ``running main.work``."""
    name = plain_name(step.frames[place_of(step.frames)].name) if step.frames else ""
    if step.state == RUNNING:
        return sanitize(f"running {name}".rstrip(), 120)
    words = step.reason or step.state
    if step.state in (State.RUNNABLE.value, State.RUNQUEUE.value) and step.reason:
        words = f"{step.state} ({step.reason})"
    if step.object:
        return sanitize(f"{words} {step.object}", 120)
    return sanitize(f"{words} in {name}" if name else words, 120)


def _packed(parts: Iterable[str], first: int, then: int) -> list[str]:
    """As many parts in a row as there is room for, with commas between."""
    rows, row, room = [], "", first
    for part in parts:
        if row and len(row) + 3 + len(part) > room:  # with a comma behind
            rows.append(row + ",")
            row, room = "", then
        row += (", " if row else "") + part
    return [*rows, row] if row else rows


def _percent(part: int, whole: int) -> str:
    percent = 100 * part / whole if whole else 0.0
    return "<1 %" if 0 < percent < 0.5 else f"{percent:.0f} %"


def _line(line: Text, console: Console) -> None:
    line.rstrip()
    console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
