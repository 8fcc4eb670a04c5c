"""gotrace diff: two captures compared, without root."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gotrace.common.errors import UsageError
from gotrace.common.vocabulary import State
from gotrace.diff.compare import Per

METHOD = """
\b
Stacks are matched by the names of their functions: not by address, line, socket,
waker or goroutine id, and without the frames of the runtime, of the standard
library's internal packages and of the kernel. Where the build ids differ, the
numbers of closures (func1, func2.1, gowrap3) do not count either.
\b
'*' marks what exceeds the noise:
  count, total  more than 3 standard errors. The error is the larger of two: of
                random arrivals (sqrt(n); for the total sqrt(sum of squares), so
                count and jitter are in it) and of what ended second by second
                (batch means, from 5 seconds on).
  p50, p99      their ranges, by rank n*p +- 3*sqrt(n*p*(1-p)), do not meet. A
                p99 of fewer than about 900 intervals has no upper end.
That is the noise within a capture. What differs between two runs of the same
program (other load, other neighbours) is a change: compare two captures of
BEFORE first to learn how large it is. Of 370 figures, one exceeds by chance.
\b
Examples:
  gotrace diff before.gotrace after.gotrace
  gotrace diff before.gotrace after.gotrace -o change.html
  gotrace diff a.gotrace b.gotrace --per goroutine --match 'main\\.'
  gotrace diff a.gotrace b.gotrace -o - | flamegraph.pl > change.svg
"""


@click.command(epilog=METHOD)
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="Also stacks that changed by no more than noise.")
@click.option("-f", "--force", is_flag=True, help="Overwrite outputs that exist.")
@click.option("--ignore", metavar="REGEX", default="", help="Only stacks in which no function's name matches.")
@click.option("--json", "as_json", is_flag=True, help="The comparison as JSON on stdout.")
@click.option("--match", metavar="REGEX", default="", help="Only stacks in which some function's name matches.")
@click.option("-o", "--output", "outputs", multiple=True, metavar="FILE",
              help="Repeatable; the suffix decides: .html (differential flame graph) .folded (before and after) .json; "
                   "'-' is folded text on stdout.")
@click.option("--per", type=click.Choice([per.value for per in Per]), default=Per.WINDOW.value, show_default=True,
              help="Figures per second of the window, or per second of a goroutine's life.")
@click.option("--reason", "reasons", multiple=True, metavar="NAME", help="Only this wait reason. Repeatable.")
@click.option("--state", "states", multiple=True, type=click.Choice([s.value for s in State]), help="Only this state. Repeatable.")
@click.option("--top", type=click.IntRange(1, 10_000), default=10, show_default=True, help="How many stacks to show.")
def diff(
    before: Path, after: Path, everything: bool, force: bool, ignore: str, as_json: bool, match: str,
    outputs: tuple[str, ...], per: str, reasons: tuple[str, ...], states: tuple[str, ...], top: int,
) -> None:
    """Compare two captures: what grew, what shrank, what is new or gone, and which of it is more than noise.

    Two dumps of goroutines ('gotrace dump PID -o X.json') are compared by the number of goroutines at each place.
    """
    from rich.console import Console

    from gotrace.capture.reader import read_capture
    from gotrace.common.files import check_output, write
    from gotrace.diff.compare import compare
    from gotrace.dump.load import is_dump
    from gotrace.export.diff import format_of_diff, render_diff
    from gotrace.profile.filters import filter_profile
    from gotrace.render.diff import print_diff

    if is_dump(before) and is_dump(after):
        if outputs or ignore or per != Per.WINDOW.value:
            raise UsageError("dumps are compared as text or with --json: -o, --ignore and --per are for captures", "leave them out")
        _compare_dumps(before, after, as_json, (states, reasons, match), top)
        return
    for output in outputs:
        if output != "-":
            format_of_diff(output)
            check_output(Path(output), force)
    if as_json and "-" in outputs:
        raise UsageError("--json and -o - both want stdout", "choose one, or write the JSON with -o FILE.json")
    wanted = tuple(State(state) for state in states)
    found = compare(
        read_capture(before), read_capture(after), Per(per),
        lambda profile: filter_profile(profile, wanted, reasons, match, ignore),
    )
    err = Console(stderr=True, highlight=False)
    for output in outputs:
        if output == "-":
            sys.stdout.write(render_diff(found, ".folded").decode())
        else:
            write(Path(output), render_diff(found, format_of_diff(output)), force)
            err.print(f"Wrote {output}", markup=False, soft_wrap=True)
    if as_json:
        sys.stdout.write(render_diff(found, ".json").decode())
    elif not outputs:
        print_diff(found, Console(highlight=False), top, everything)
    sys.stdout.flush()


def _compare_dumps(
    before: Path, after: Path, as_json: bool, chosen: tuple[tuple[str, ...], tuple[str, ...], str], top: int
) -> None:
    from rich.console import Console

    from gotrace.dump.compare import changes_json, print_changes
    from gotrace.dump.filters import filtered
    from gotrace.dump.load import load_dump

    states, reasons, match = chosen
    dumps = [filtered(load_dump(path), states, reasons, match) for path in (before, after)]
    if as_json:
        sys.stdout.write(changes_json(dumps))
    else:
        print_changes(dumps, Console(highlight=False), top)
    sys.stdout.flush()
