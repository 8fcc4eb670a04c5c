"""A comparison of requests on a terminal: how long they take, and what of their time grew."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from gotrace.diff.noise import Delta
from gotrace.diff.requests import BandChange, PartChange, SpanChange
from gotrace.profile.frames import plain_name
from gotrace.profile.requests import Band
from gotrace.render.deltas import amount, both, print_line, relative, style
from gotrace.render.text import sanitize

PARTS_SHOWN = 3
_LEAST = 0.005
"""Of the larger mean: what changed by less is not shown."""
_NAMES = {"p50": "p50", "p90": "p90", "p99": "p99", "p999": "p99.9"}


def print_request_changes(changes: list[SpanChange], console: Console) -> None:
    """Prints each span: its rate and percentiles before and after, then, for all requests and for the slowest hundredth, what a request
    takes and which causes and waits of that changed most."""
    for change in changes:
        heading = Text("Requests: ", "bold")
        heading.append(sanitize(plain_name(change.function), max(20, console.width - 12)), "cyan")
        if change.process:
            heading.append(f"  {sanitize(change.process, 40)}", "not bold dim")
        print_line(heading, console)
        for side, gaps in zip(("before", "after"), change.gaps, strict=True):
            for gap in gaps:
                console.print(Text(f"  ! {side}: {gap}", "yellow"), soft_wrap=True)
        new, gone = change.before is None, change.after is None
        line = Text(f"  rate   {_rate(change.rate)}  ")
        line.append(relative(change.rate, new, gone), style(change.rate))
        print_line(line, console)
        for name, delta in change.percentiles.items():
            line = Text(f"  {_NAMES[name]:<6} {both(delta)}  ")
            line.append(relative(delta, new, gone), style(delta))
            print_line(line, console)
        for band in change.bands:
            _print_band(band, console)
        console.print()


def _rate(delta: Delta) -> str:
    return f"{delta.before:,.4g}/s → {delta.after:,.4g}/s"


def band_words(band: BandChange) -> str:
    """``a request, 4.84 ms → 9.31 ms``, or ``a request of p99-100, ...``."""
    which = "" if (band.low, band.high) == (0.0, 1.0) else f" of {Band(band.low, band.high).name}"
    means = " → ".join("-" if mean is None else amount(mean) for mean in band.mean_ns)
    return f"a request{which}: {means}"


def _print_band(band: BandChange, console: Console) -> None:
    if None in band.mean_ns:
        return
    print_line(Text(f"  {band_words(band)}"), console)
    least = _LEAST * max(mean or 0.0 for mean in band.mean_ns)
    for title, parts in (("causes", band.causes), ("its own goroutine", band.times)):
        shown = [part for part in parts if abs(part.change_ns) >= least][:PARTS_SHOWN]
        if shown:
            explained = f" ({100 * band.explained[0]:.0f} % → {100 * band.explained[1]:.0f} % explained)" if title == "causes" else ""
            print_line(Text(f"    {title}{explained}", "dim"), console)
        for part in shown:
            change, figures = f"    {_signed(part.change_ns):>10}  ", f"  {amount(part.before_ns)} → {amount(part.after_ns)}"
            line = Text(change, "red" if part.change_ns > 0 else "blue")
            # The figures are worth more than the end of a long cause.
            line.append(sanitize(part_words(part), max(20, console.width - len(change) - len(figures))), "not red not blue")
            line.append(figures, "dim not red not blue")
            print_line(line, console)


def part_words(part: PartChange) -> str:
    """The cause, or state and reason."""
    if part.text:
        return sanitize(part.text, 400)
    return sanitize(f"{part.state}: {part.reason}" if part.reason and part.reason != part.state else part.state, 80)


def _signed(ns: float) -> str:
    return ("+" if ns >= 0 else "-") + amount(abs(ns))


def request_notes(changes: list[SpanChange]) -> list[str]:
    """What the requests of either side lack, a line each."""
    return [
        f"{sanitize(plain_name(change.function), 200)}, {side}: {gap}"
        for change in changes for side, gaps in zip(("before", "after"), change.gaps, strict=True) for gap in gaps
    ]


def request_tables(changes: list[SpanChange]) -> list[dict[str, object]]:
    """Tables as the page of a comparison shows them (`gotrace.render.pagedata`); none where there are no requests."""
    if not changes:
        return []
    rows, parts = [], []
    for change in changes:
        name = sanitize(plain_name(change.function)) + (f", {sanitize(change.process, 40)}" if change.process else "")
        cells = [name, f"{change.rate.before:,.4g}", f"{change.rate.after:,.4g}", relative(change.rate).rstrip()]
        for delta in change.percentiles.values():
            cells += [amount(delta.before), amount(delta.after), relative(delta).rstrip()]
        rows.append(cells)
        for band in change.bands:
            for part in (*band.causes[:10], *band.times[:10]):
                kind = "cause" if part.text else "own time"
                parts.append([
                    f"{name}, {Band(band.low, band.high).name}, {kind}: {part_words(part)}", amount(part.before_ns), amount(part.after_ns),
                    _signed(part.change_ns),
                ])
    heads = ["requests/s", *_NAMES.values()]
    return [
        {
            "title": "Requests", "columns": ["span", *(cell for head in heads for cell in (f"{head} before", "after", "change"))],
            "rows": rows, "marked": [index for index, change in enumerate(changes) if change.exceeds],
        },
        {"title": "What a request’s time goes to", "columns": ["", "before", "after", "change"], "rows": parts, "marked": []},
    ]
