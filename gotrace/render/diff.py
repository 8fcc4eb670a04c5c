"""A comparison of two captures on a terminal, in 80 columns."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gotrace.diff.compare import Change, Diff, Per, Side
from gotrace.profile.frames import place_of, plain_name
from gotrace.render.deltas import MARK, amount, both, print_line, relative, style
from gotrace.render.requestdiff import print_request_changes
from gotrace.render.text import format_duration, sanitize

FRAMES_SHOWN = 5
REASONS_SHOWN = 15
WIDE = 120
NOISE = (
    f"{MARK} exceeds the noise: by more than 3 standard errors (from count, jitter and the figures second by second), or, for "
    "percentiles, by their ranks"
)
_DIVIDED = {Per.WINDOW: "second of the window", Per.GOROUTINE: "goroutine-second"}


def print_diff(diff: Diff, console: Console, top: int = 10, everything: bool = False) -> None:
    """Prints both sides, requests, the totals, states, reasons and the `top` stacks that changed by more than noise (`everything`: by
    anything). All figures are per second of the window or per goroutine-second; a total per second of the window is also the number of
    goroutines that wait there on average."""
    for name, side in (("before", diff.before), ("after", diff.after)):
        print_line(_side(name, side), console)
    for note in diff.notes:
        console.print(Text(f"! {sanitize(note, 400)}", "yellow"))
    if diff.empty:
        if diff.stacks or not diff.before.profile.stacks:  # if not, no stack was chosen, as the notes say
            console.print(Text("\nNo difference.", "green"))
        return
    other = Per.GOROUTINE if diff.per is Per.WINDOW else Per.WINDOW
    console.print()
    print_request_changes(diff.requests, console)
    for per, delta in ((diff.per, diff.total.total), (other, diff.total.other_total)):
        line = Text(f"off the CPU per {_DIVIDED[per]}: ".ljust(39))
        line.append(f"{amount(delta.before)} → {amount(delta.after)}  ")
        line.append(relative(delta), style(delta))
        print_line(line, console)
    if diff.per is Per.WINDOW:
        print_line(Text("(seconds per second: so many goroutines are off the CPU on average)", "dim"), console)
    console.print()
    for title, changes in (("state", diff.states), ("reason", diff.reasons[:REASONS_SHOWN])):
        if changes:
            console.print(_table(title, changes, console.width))
            if title == "reason" and len(diff.reasons) > REASONS_SHOWN:
                console.print(Text(f"and {len(diff.reasons) - REASONS_SHOWN} more reasons", "dim"))
            console.print()
    _print_stacks(diff, console, top, everything)
    console.print(Text(NOISE, "dim"))


def _side(name: str, side: Side) -> Text:
    profile = side.profile
    line = Text(f"{name + ':':8}")
    for index, target in enumerate(profile.targets[:4]):
        line.append(", " if index else "")
        line.append(sanitize(target.comm, 40), "bold cyan")
        line.append(f" ({target.pid}) {sanitize(target.go_version, 30)}")
    goroutines = f" · {profile.goroutines:,} goroutines" if profile.complete else ""
    start = sanitize(profile.window.start[5:19].replace("T", " "), 14)
    line.append(f" · {format_duration(profile.window.duration_ns)}{goroutines} · {start}")
    return line


def _table(title: str, changes: list[Change], width: int) -> Table:
    wide = width >= WIDE
    # The figures need up to 62 columns.
    room = min(60, max(11, width - (98 if wide else 64)))
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(title, no_wrap=True, overflow="ellipsis", min_width=min(room, 10))
    headings = ["before/s", "after/s", "total", "count", *(("p50", "", "p99", "") if wide else ("p50", "p99"))]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for change in changes:
        name = (change.state.value if change.state else change.reason) or "(none)"
        cells = [Text(amount(change.total.before)), Text(amount(change.total.after))]
        cells += [Text(relative(delta), style(delta)) for delta in (change.total, change.count)]
        for delta in (change.p50, change.p99):
            if wide:
                cells.append(Text(f"{amount(delta.before)} → {amount(delta.after)}"))
            cells.append(Text(relative(delta), style(delta)))
        table.add_row(Text(sanitize(name, room), "cyan"), *cells)
    return table


def delta_cells(change: Change) -> list[str]:
    """Name, then before, after and change of total, count, p50 and p99: a row of a table that is not limited to a width."""
    cells = [sanitize((change.state.value if change.state else change.reason) or "(none)")]
    for delta, text in ((change.total, amount), (change.count, "{:,.4g}".format), (change.p50, amount), (change.p99, amount)):
        cells += [text(delta.before), text(delta.after), relative(delta).rstrip()]
    return cells


def _print_stacks(diff: Diff, console: Console, top: int, everything: bool) -> None:
    changed = [change for change in diff.stacks if change.changed]
    beyond = [change for change in changed if change.exceeds]
    shown = (changed if everything else beyond)[:top]
    new, gone = sum(change.new for change in beyond), sum(change.vanished for change in beyond)
    heading = Text(f"{len(beyond):,} of {len(diff.stacks):,} stacks changed beyond the noise", "bold")
    largest = ":" if 0 < len(shown) < top else f"; the {len(shown):,} largest:" if shown else ""
    heading.append(f" ({new:,} new, {gone:,} vanished)" + largest, "not bold")
    print_line(heading, console)
    for rank, change in enumerate(shown, 1):
        _print_stack(rank, change, diff, console)
    console.print()


def _print_stack(rank: int, change: Change, diff: Diff, console: Console) -> None:
    delta = change.total
    line = Text(f"{rank:>2}. ")
    sign = "+" if delta.change >= 0 else "-"
    line.append(f"{sign}{amount(abs(delta.change))}/s  ", f"bold {style(delta)}".strip())
    line.append(relative(delta, new=change.new, gone=change.vanished), style(delta))
    line.append(f"  {change.state.value if change.state else ''}", "cyan")
    if change.reason and (change.state is None or change.reason != change.state.value):
        line.append(f": {sanitize(change.reason, 60)}", "cyan")
    if change.idle:
        line.append("  (idle by design)", "dim")
    if change.process:
        line.append(f"  {sanitize(change.process, 40)}", "dim")
    print_line(line, console)
    counts = f"count/s {change.count.before:,.4g} → {change.count.after:,.4g} {relative(change.count)}".rstrip()
    figures = [f"total/s {both(delta)}", counts]
    for name, percentile in (("p50", change.p50), ("p99", change.p99)):
        figures.append(f"{name} {both(percentile)} {relative(percentile) if not (change.new or change.vanished) else ''}".rstrip())
    figures.append(f"per {'goroutine' if diff.per is Per.WINDOW else 'window'}-s {both(change.other_total)}")
    room, row = console.width - 4, ""
    for figure in figures:
        if row and len(row) + 2 + len(figure) > room:
            print_line(Text(f"    {row}"), console)
            row = ""
        row += ("  " if row else "") + figure
    print_line(Text(f"    {row}"), console)
    place = place_of(change.frames)
    start = max(0, place - FRAMES_SHOWN + 2)
    for index, frame in enumerate(change.frames[start : start + FRAMES_SHOWN], start):
        print_line(Text(f"      {sanitize(plain_name(frame.name), max(20, console.width - 6))}", "bold" if index == place else ""), console)
    rest = len(change.frames) - start - FRAMES_SHOWN
    if rest > 0:
        print_line(Text(f"      … {rest} more towards the root", "dim"), console)
