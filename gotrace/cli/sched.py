"""gotrace sched: the scheduler of a process, from outside."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from gotrace.cli.parameters import DURATION
from gotrace.cli.targets import say_stops, target, target_options
from gotrace.common.errors import TargetGone, UsageError

if TYPE_CHECKING:
    from gotrace.sched.reading import SchedReader
    from gotrace.sched.types import Snapshot

_SHORTEST_NS = 10_000_000


@click.command()
@click.argument("pid", metavar="[PID]", type=click.IntRange(min=1), required=False)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="How often.  [default: once; with --every until Ctrl-C]")
@click.option("--every", type=DURATION, metavar="DURATION", help="Read again each time that this has passed.  [default: 1s with --count]")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout, one object a line.")
@target_options
def sched(
    pid: int | None, count: int | None, every: int | None, as_json: bool, name: str, container: str, cgroup: str,
) -> None:
    """Show the scheduler of a running process as GODEBUG=schedtrace does, from outside.

    Run queues, Ps, Ms by what they do, goroutines by state, timers, the garbage collector, GOMAXPROCS against the CPU quota. Read from
    the process's memory and from /proc: no probe, no signal, nothing is stopped. What can't be read is null, or ?.
    """
    from rich.console import Console

    from gotrace.sched.reading import SchedReader
    from gotrace.sched.text import SchedTable, print_snapshot, snapshot_json

    if every is not None and every < _SHORTEST_NS:
        raise UsageError("--every is at least 10ms", "--every 100ms")
    times = count if count is not None else 1 if every is None else 0
    chosen = target(pid, name, container, cgroup, "sched")
    say_stops([chosen])
    console = Console(highlight=False)
    reader = SchedReader(chosen)
    try:
        table = SchedTable(console)
        for snapshot in _readings(reader, times, every or 1_000_000_000):
            if as_json:
                sys.stdout.write(snapshot_json(snapshot))
            elif times == 1:
                print_snapshot(reader.name(), snapshot, console)
            else:
                table.row(snapshot)
            sys.stdout.flush()
    finally:
        reader.close()


def _readings(reader: SchedReader, times: int, every_ns: int) -> Iterator[Snapshot]:
    """Yields `times` readings, 0: until Ctrl-C. Ends when the process does, or at Ctrl-C, but for the first one."""
    due, done = time.monotonic(), 0
    yield reader.read()
    while (done := done + 1) != times:
        due = max(due + every_ns / 1e9, time.monotonic())
        try:
            time.sleep(max(0.0, due - time.monotonic()))
            found = reader.read()
        except (KeyboardInterrupt, TargetGone):
            return
        yield found
