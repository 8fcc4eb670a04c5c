"""gotrace sched: the scheduler of a process, from outside."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from gotrace.cli.parameters import DURATION
from gotrace.cli.targets import say_stops, target, target_options
from gotrace.common.errors import TargetGone, UsageError

if TYPE_CHECKING:
    from gotrace.sched.reading import SchedReader
    from gotrace.sched.types import Latency, Snapshot

_SHORTEST_NS = 10_000_000
_LATENCY_NS = 10_000_000_000


@click.command()
@click.argument("pid", metavar="[PID]", type=click.IntRange(min=1), required=False)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="How often.  [default: once; with --every until Ctrl-C]")
@click.option("-d", "--duration", type=DURATION, help="With --latency, how long; 0: until Ctrl-C.  [default: 10s]")
@click.option("--every", type=DURATION, metavar="DURATION", help="Read again each time that this has passed.  [default: 1s with --count]")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout, one object a line.")
@click.option("--latency", is_flag=True, help="Trace for a while how long goroutines wait for a P, and threads for a CPU.")
@click.option("--max-overhead", type=click.FloatRange(min=0), metavar="PCT", default=2.0, show_default=True,
              help="With --latency, cap on what tracing costs the target, in percent of the CPU time that it uses for itself. 0: no cap.")
@target_options
def sched(
    pid: int | None, count: int | None, duration: int | None, every: int | None, as_json: bool, latency: bool, max_overhead: float,
    name: str, container: str, cgroup: str,
) -> None:
    """Show the scheduler of a running process as GODEBUG=schedtrace does, from outside.

    Run queues, Ps, Ms by what they do, goroutines by state, timers, the garbage collector, GOMAXPROCS against the CPU quota. Read from
    the process's memory and from /proc: no probe, no signal, nothing is stopped. What can't be read is null, or ?. With --latency the
    process is traced by probes, under a cap on the cost, and the reading at the end has the distributions of waits to run.
    """
    from rich.console import Console

    from gotrace.sched.reading import SchedReader
    from gotrace.sched.text import SchedTable, print_latency, print_snapshot, snapshot_json

    if every is not None and every < _SHORTEST_NS:
        raise UsageError("--every is at least 10ms", "--every 100ms")
    if latency and (count is not None or every is not None):
        raise UsageError("--latency is one trace: --count and --every do not go with it", "gotrace sched PID --latency -d 10s")
    if duration is not None and not latency:
        raise UsageError("--duration is for --latency", "gotrace sched PID --latency -d 10s")
    times = count if count is not None else 1 if every is None else 0
    chosen = target(pid, name, container, cgroup, "sched")
    say_stops([chosen])
    console = Console(highlight=False)
    reader, shown = SchedReader(chosen), False
    try:
        table = SchedTable(console)
        if latency:
            found = [_after_trace(reader, _latency(chosen, _LATENCY_NS if duration is None else duration, max_overhead))]
        for snapshot in found if latency else _readings(reader, times, every or 1_000_000_000):
            if as_json:
                sys.stdout.write(snapshot_json(snapshot))
            elif times == 1:
                print_snapshot(reader.name(), snapshot, console)
                if snapshot.latency is not None:
                    print_latency(snapshot.latency, console)
            else:
                table.row(snapshot)
            sys.stdout.flush()
            shown = True
    except KeyboardInterrupt:
        if not shown:
            raise
    finally:
        reader.close()


def _after_trace(reader: SchedReader, latency: Latency) -> Snapshot:
    """A reading with what a trace has seen; if the process has ended meanwhile, nothing else is known."""
    try:
        return replace(reader.read(), latency=latency)
    except TargetGone:
        return replace(reader.nothing(), latency=latency)


def _latency(pid: int, duration_ns: int, max_overhead: float) -> Latency:
    """Traces the process."""
    from rich.console import Console

    from gotrace.cli.attach import handle_signals
    from gotrace.kernel.host import preflight
    from gotrace.plan.probes import ProbeSet
    from gotrace.render.terminal import NOBODY_READS, lasting
    from gotrace.run.options import AttachOptions
    from gotrace.run.session import Session
    from gotrace.sched.latency import latency_of

    err = Console(file=lasting(sys.stderr, NOBODY_READS), stderr=True, highlight=False)
    options = AttachOptions((pid,), duration_ns=duration_ns, max_overhead=max_overhead, probe_set=ProbeSet.READY, requests=False)
    with Session(options) as session:
        handle_signals(session)
        preflight()
        session.prepare()
        profile = session.run(None, None, lambda text: err.print(f"  {text}", markup=False, soft_wrap=True))
    if session.failure is not None:
        raise session.failure
    return latency_of(profile)


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
