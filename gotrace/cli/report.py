"""gotrace report: a capture again, without root."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gotrace.errors import UsageError
from gotrace.vocabulary import State


@click.command()
@click.argument("capture", type=click.Path(path_type=Path))
@click.option("-f", "--force", is_flag=True, help="Overwrite outputs that exist.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON on stdout.")
@click.option("--match", metavar="REGEX", default="", help="Only stacks in which some function's name matches.")
@click.option("-o", "--output", "outputs", multiple=True, metavar="FILE",
              help="Repeatable; the suffix decides: .html .svg .folded .pb.gz (pprof) .speedscope.json .pftrace (Perfetto) .json; "
                   "'-' is folded text on stdout.")
@click.option("--reason", "reasons", multiple=True, metavar="NAME", help="Only this wait reason. Repeatable.")
@click.option("--state", "states", multiple=True, type=click.Choice([s.value for s in State]), help="Only this state. Repeatable.")
@click.option("--top", type=click.IntRange(1, 10_000), default=10, show_default=True, help="How many stacks to show.")
def report(
    capture: Path, force: bool, as_json: bool, match: str, outputs: tuple[str, ...], reasons: tuple[str, ...],
    states: tuple[str, ...], top: int,
) -> None:
    """Render a capture that 'gotrace attach' wrote: a summary by default, files with -o."""
    from rich.console import Console

    from gotrace.capture.reader import read_capture
    from gotrace.export import NEEDS_TIMELINE, RENDERERS, format_of, render
    from gotrace.export.perfetto import require_timeline
    from gotrace.files import check_output, write
    from gotrace.profile.filters import filter_profile
    from gotrace.render.summary import print_summary

    for output in outputs:
        if output == "-":
            continue
        if format_of(output) == ".gotrace":
            raise UsageError(f"{output}: a report does not write captures", "give it another suffix: " + " ".join(sorted(RENDERERS)))
        check_output(Path(output), force)
    if as_json and "-" in outputs:
        raise UsageError("--json and -o - both want stdout", "choose one")
    profile = read_capture(capture)
    if any(output != "-" and format_of(output) == NEEDS_TIMELINE for output in outputs):
        require_timeline(profile)
    profile = filter_profile(profile, tuple(State(state) for state in states), reasons, match)
    err = Console(stderr=True, highlight=False)
    for output in outputs:
        if output == "-":
            sys.stdout.write(render(profile, ".folded").decode())
        else:
            write(Path(output), render(profile, format_of(output)), force)
            err.print(f"Wrote {output}", markup=False, soft_wrap=True)
    if as_json:
        sys.stdout.write(render(profile, ".json").decode())
    elif not outputs:
        print_summary(profile, Console(highlight=False), top)
    sys.stdout.flush()
