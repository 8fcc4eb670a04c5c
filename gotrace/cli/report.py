"""gotrace report: a capture again, without root."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gotrace.cli.parameters import hot_options, request_filters, thresholds
from gotrace.common.errors import UsageError
from gotrace.common.vocabulary import State

HOT_SPOTS = """
\b
Hot spots are places whose waits are suspicious, not just large; the three --hot
thresholds say from where on. Waits for a lock, a full channel, a system call, a P
or a CPU are judged by their length; waits that may be for work or for a time
(channel receive, select, network, sleep) only where their p99 is also at least 10
times their p50. Waits for work that last the whole window, and those in the loop of
a goroutine's first function, are idle by design and no hot spots.
"""


@click.command(epilog=HOT_SPOTS)
@click.argument("capture", type=click.Path(path_type=Path))
@click.option("-f", "--force", is_flag=True, help="Overwrite outputs that exist.")
@hot_options
@click.option("--ignore", metavar="REGEX", default="", help="Only stacks in which no function's name matches.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON on stdout.")
@click.option("--label", "labels", multiple=True, metavar="KEY[=VALUE]",
              help="Only goroutines with this pprof label, of those given to 'attach --label'. Repeatable: with all of them.")
@click.option("--match", metavar="REGEX", default="", help="Only stacks in which some function's name matches.")
@click.option("-o", "--output", "outputs", multiple=True, metavar="FILE",
              help="Repeatable; the suffix decides: .html .svg .folded .pb.gz (pprof) .speedscope.json .pftrace (Perfetto) .parquet .json; "
                   "'-' is folded text on stdout.")
@click.option("--reason", "reasons", multiple=True, metavar="NAME", help="Only this wait reason. Repeatable.")
@request_filters
@click.option("--runtime", is_flag=True, help="Keep the runtime's frames in flame graphs, summary and tree.")
@click.option("--state", "states", multiple=True, type=click.Choice([s.value for s in State]), help="Only this state. Repeatable.")
@click.option(
    "--top", type=click.IntRange(1, 10_000), default=10, show_default=True, help="How many stacks to show, or branches of a fork."
)
@click.option("--tree", is_flag=True, help="The stacks as a tree from their roots on, with the hottest path marked.")
def report(
    capture: Path, band: tuple[float, float] | None, force: bool, hot_jitter: int, hot_p99: int, hot_share: float, ignore: str,
    as_json: bool, labels: tuple[str, ...], match: str, outputs: tuple[str, ...], reasons: tuple[str, ...], runtime: bool, slower_than: int,
    states: tuple[str, ...], top: int, tree: bool,
) -> None:
    """Render a capture that 'gotrace attach' wrote: a summary by default, files with -o."""
    from rich.console import Console

    from gotrace.capture.reader import read_capture
    from gotrace.common.files import check_output, write
    from gotrace.export import NEEDS_TIMELINE, RENDERERS, format_of, render
    from gotrace.export.perfetto import require_timeline
    from gotrace.export.summary_json import json_parts
    from gotrace.profile.filters import filter_profile, filter_requests
    from gotrace.profile.hotspots import find_hotspots
    from gotrace.render.summary import print_summary, print_told
    from gotrace.render.tree import print_tree

    for output in outputs:
        if output == "-":
            continue
        if format_of(output) == ".gotrace":
            raise UsageError(f"{output}: a report does not write captures", "give it another suffix: " + " ".join(sorted(RENDERERS)))
        check_output(Path(output), force)
    if as_json and "-" in outputs:
        raise UsageError("--json and -o - both want stdout", "choose one")
    if tree and (as_json or "-" in outputs):
        raise UsageError("--tree is for people: it can't share stdout with --json or -o -", "choose one")
    profile = read_capture(capture)
    if any(output != "-" and format_of(output) == NEEDS_TIMELINE for output in outputs):
        require_timeline(profile)
    profile = filter_requests(profile, band, slower_than)
    # Before the other filters: what is suspicious in these requests, and how large a share is, does not depend on what is selected.
    profile.hotspots = find_hotspots(profile, thresholds(hot_p99, hot_jitter, hot_share))
    profile = filter_profile(profile, tuple(State(state) for state in states), reasons, match, ignore, labels)
    err = Console(stderr=True, highlight=False)
    for output in outputs:
        if output == "-":
            sys.stdout.write(render(profile, ".folded", runtime).decode())
        else:
            write(Path(output), render(profile, format_of(output), runtime), force)
            err.print(f"Wrote {output}", markup=False, soft_wrap=True)
    if as_json:
        sys.stdout.writelines(json_parts(profile))
    elif tree:
        console = Console(highlight=False)
        print_told(profile, console)
        print_tree(profile, console, top, runtime)
    elif not outputs:
        print_summary(profile, Console(highlight=False), top, runtime)
    sys.stdout.flush()
