"""gotrace dump: every goroutine of a process, now."""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gotrace.cli.parameters import DURATION
from gotrace.cli.targets import target, target_options
from gotrace.common.errors import UsageError
from gotrace.common.vocabulary import State

if TYPE_CHECKING:
    from rich.console import Console

    from gotrace.dump.types import Dump

_STATES = [*(state.value for state in State), "running", "no thread"]


@click.command()
@click.argument("pid", metavar="[PID]", type=click.IntRange(min=1), required=False)
@click.option("--count", type=click.IntRange(2, 1000), default=None, metavar="N", help="How many dumps with --every (default 6).")
@click.option("--every", type=DURATION, default=None, metavar="DURATION", help="Repeat, and say which groups of goroutines grew.")
@click.option("-f", "--force", is_flag=True, help="Overwrite outputs that exist.")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.option("--label", "labels", multiple=True, metavar="KEY[=VALUE]",
              help="Only goroutines with this pprof label. Repeatable: with all of them.")
@click.option("--leaks", is_flag=True,
              help="Search the memory for who can still reach the channels and locks for which goroutines wait. Takes seconds.")
@click.option("--match", metavar="REGEX", default="", help="Only goroutines in whose stacks some function's name matches.")
@click.option("--no-labels", is_flag=True, help="Read no pprof labels, which may be private.")
@click.option("-o", "--output", "outputs", multiple=True, metavar="FILE",
              help="Repeatable; the suffix decides: .html .folded .pb.gz (pprof) .json; '-' is folded text on stdout.")
@click.option("--reason", "reasons", multiple=True, metavar="NAME", help="Only this wait reason. Repeatable.")
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="Only this state. Repeatable.")
@target_options
def dump(
    pid: int | None, count: int | None, every: int | None, force: bool, as_json: bool, labels: tuple[str, ...], leaks: bool, match: str,
    no_labels: bool, outputs: tuple[str, ...], reasons: tuple[str, ...], states: tuple[str, ...], name: str, container: str, cgroup: str,
) -> None:
    """Show every goroutine's state, wait reason, stack and what it waits for, without stopping the process.

    Read from the process's memory: no probe, no signal. First come verdicts: deadlocks, leaks and other trouble. How long a
    goroutine has waited is known, to a cycle of the garbage collector, only where the collector has met it waiting.
    """
    from rich.console import Console

    from gotrace.common.files import check_output
    from gotrace.dump.compare import changes_json, print_changes
    from gotrace.dump.filters import filtered
    from gotrace.dump.formats import format_of_dump
    from gotrace.dump.reading import dump as read
    from gotrace.dump.text import json_parts, print_dump, print_verdicts
    from gotrace.verdicts.judge import judge, judge_series

    for output in outputs:
        if format_of_dump(output) and output != "-":
            check_output(Path(output), force)
    if as_json and "-" in outputs:
        raise UsageError("--json and -o - both want stdout", "choose one, or write the JSON with -o FILE.json")
    if count is not None and every is None:
        raise UsageError("--count says how often --every repeats", "gotrace dump PID --every 10s --count 6")
    if labels and no_labels:
        raise UsageError("--label and --no-labels contradict each other", "leave one out")
    chosen = target(pid, name, container, cgroup, "dump")
    err = Console(stderr=True, highlight=False)

    def one() -> Dump:
        gc.disable()  # there may be millions of records, in which there are no cycles
        found = read(chosen, leaks, not no_labels)
        found.verdicts = judge(found)
        return filtered(found, states, reasons, match, labels)

    series = [one()]
    for number in range(2, (count or 6) + 1) if every is not None else ():
        time.sleep((every or 0) / 1e9)
        series.append(one())
        err.print(f"{number} of {count or 6}: {len(series[-1].goroutines):,} goroutines", markup=False)
    last = series[-1]
    if every is not None:
        last.verdicts = judge_series(series)
    _write(last, outputs, force, err)
    console = Console(highlight=False)
    if as_json:
        sys.stdout.writelines(json_parts(last) if every is None else [changes_json(series, last.verdicts)])
    elif every is not None:
        print_verdicts(last.verdicts, console)
        print_changes(series, console)
    elif not outputs:
        print_dump(last, console)
    sys.stdout.flush()


def _write(last: Dump, outputs: tuple[str, ...], force: bool, err: Console) -> None:
    from gotrace.common.files import write
    from gotrace.dump.formats import RENDERERS, format_of_dump

    for output in outputs:
        content = RENDERERS[format_of_dump(output)](last)
        if output == "-":
            sys.stdout.write(content.decode())
        else:
            write(Path(output), content, force)
            err.print(f"Wrote {output}", markup=False, soft_wrap=True)
