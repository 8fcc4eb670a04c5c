"""gotrace attach: trace, write, summarise."""

from __future__ import annotations

import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gotrace.cli.parameters import DURATION, hot_options, request_filters, request_options, thresholds
from gotrace.cli.targets import stops, target_options, targets
from gotrace.common.errors import GotraceError, Interrupted, UsageError
from gotrace.common.vocabulary import Mode, State
from gotrace.plan.probes import ProbeSet
from gotrace.watch.sampled import BUSIEST, BUSIEST_AS_ASKED, DEFAULT_RATE_HZ

if TYPE_CHECKING:
    from rich.console import Console

    from gotrace.profile.types import Profile
    from gotrace.run.session import Session

EXAMPLES = """
\b
Examples:
  sudo gotrace attach 4242                       30 s, then a summary, a capture and a flame graph
  sudo gotrace attach 4242 -d 0                  until Ctrl-C
  sudo gotrace attach 4242 -d 5s -o - --min-block 1ms | flamegraph.pl > waits.svg
  sudo gotrace attach 4242 --reason 'chan receive' --match 'main\\.' --json | jq .totals
  sudo gotrace attach --name '^(api|worker)$' -o all.html
  sudo gotrace attach 4242 --mode sample         without a probe: estimates, at hardly any cost to the process
  sudo gotrace attach 4242 -d 5s -o waits.pb.gz -o waits.pftrace    for go tool pprof, and a timeline for Perfetto

\b
Overhead: up to three traps per off-CPU interval (two with --no-wakers), each about half a microsecond in a virtual machine,
and a tracepoint per context switch (none with --no-kernel); the progress line and the summary show what the traps come to,
as a share of the CPU time that the target uses. Nothing is written to the target.
"""


@click.command(epilog=EXAMPLES)
@click.argument("pids", metavar="[PID...]", type=click.IntRange(min=1), nargs=-1)
@click.option("-d", "--duration", type=DURATION, default="30s", show_default=True, help="Length of the trace; 0: until Ctrl-C.")
@click.option("--dry-run", is_flag=True, help="Plan, load and verify everything, attach nothing.")
@click.option("--events-over", type=DURATION, metavar="DURATION",
              help="Also keep each single interval of at least this length in the capture.")
@click.option("--exemplars", type=click.IntRange(0, 1000), default=10, show_default=True, metavar="N",
              help="Keep the N slowest requests one by one, each with where its time went.")
@click.option("-f", "--force", is_flag=True, help="Overwrite outputs that exist.")
@click.option("--goroutine", type=click.IntRange(min=1), metavar="ID", help="Only this goroutine.")
@hot_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout when done.")
@click.option("--label", "labels", multiple=True, metavar="KEY",
              help="Keep goroutines apart by the value of this pprof label, which is a frame at the root of their stacks. Repeatable.")
@click.option("--match", metavar="REGEX", default="", help="Only stacks in which some function's name matches.")
@click.option("--max-overhead", type=click.FloatRange(min=0), metavar="PCT", default=5.0, show_default=True,
              help="Cap on what tracing costs the target, in percent of the CPU time that it uses for itself, at least of one CPU. "
                   "While it costs more, gotrace gives up, in this order: wakers, the kernel's part, short intervals, one of two probes, "
                   "all but short windows, all probes. 0: no cap.")
@click.option("--min-block", type=DURATION, default="0s", help="Ignore shorter intervals.")
@click.option("--mode", type=click.Choice([m.value for m in Mode]), default=Mode.EXACT.value, show_default=True,
              help="exact: probes see every interval; lean: one probe instead of two, the start of a wait is inferred, no wakers; "
                   "sample: no probe, goroutines are read from memory --sample-rate times a second, "
                   "totals are estimates.")
@click.option("--no-kernel", is_flag=True, help="Leave out the kernel's tracepoints: no system calls, CPU waits, files and sockets.")
@click.option("--no-labels", is_flag=True, help="Read no pprof labels, which may be private: not those of slow requests either.")
@click.option("--no-request-names", is_flag=True,
              help="Do not read method, path and profiler labels of slow requests, which may be private.")
@click.option("--no-wakers", is_flag=True, help="Leave out the probes on what makes goroutines runnable: one trap less per wait.")
@click.option("--objects", is_flag=True,
              help="Tell waits apart by what they are for: which channel, lock, file. Of locks also who held them.")
@click.option("-o", "--output", "outputs", multiple=True, metavar="FILE",
              help="Repeatable; the suffix decides: .gotrace .html .svg .folded .pb.gz (pprof) .speedscope.json .pftrace (Perfetto) "
                   ".parquet .json; '-' is folded text on stdout.")
@click.option("--per-goroutine", is_flag=True, help="Keep goroutines apart, and every single interval in the capture.")
@click.option("--probes", "probe_set", type=click.Choice([p.value for p in ProbeSet if p not in (ProbeSet.LEAN, ProbeSet.READY)]),
              default=ProbeSet.COMPLETE.value, show_default=True,
              help="Start probes: every way off the CPU; runtime.schedule alone; runtime.gopark alone (waits only).")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary, only errors.")
@click.option("--reason", "reasons", multiple=True, metavar="NAME",
              help="Only this wait reason ('chan receive', 'IO wait', ...). Repeatable.")
@request_filters
@request_options
@click.option("--runtime", is_flag=True, help="Keep the runtime's frames in flame graphs and in the summary.")
@click.option("--sample-period", type=DURATION, default="0s",
              help="Duration-proportional sampling: all intervals of at least this length, shorter ones by chance, weighted. 0: exact.")
@click.option("--sample-rate", type=click.FloatRange(0.1, 1000), metavar="HZ",
              help=f"With --mode sample: samples of all goroutines per second, as long as they take at most "
                   f"{BUSIEST_AS_ASKED:.0%} of a CPU.  "
                   f"[default: {DEFAULT_RATE_HZ:g}, at most {BUSIEST:.0%} of a CPU]")
@click.option("--state", "states", multiple=True, type=click.Choice([s.value for s in State]), help="Only this state. Repeatable.")
@click.option("--syscalls", type=click.Choice(["auto", "tracepoints", "uprobes", "none"]), default="auto", show_default=True,
              help="Where system calls are seen: the kernel's tracepoints, or where those may not be used two uprobes per call.")
@target_options
@click.option("-v", "--verbose", count=True, help="Say more about what is done.")
def attach(
    pids: tuple[int, ...], band: tuple[float, float] | None, duration: int, dry_run: bool, events_over: int | None, exemplars: int,
    force: bool, goroutine: int | None, hot_jitter: int, hot_p99: int, hot_share: float, as_json: bool, labels: tuple[str, ...], match: str,
    max_overhead: float, min_block: int, mode: str, no_kernel: bool, no_labels: bool, no_request_names: bool, no_wakers: bool,
    objects: bool, outputs: tuple[str, ...], per_goroutine: bool, probe_set: str, quiet: bool, reasons: tuple[str, ...], requests: str,
    runtime: bool, sample_period: int, sample_rate: float | None, slower_than: int, spans: tuple[str, ...], states: tuple[str, ...],
    syscalls: str, verbose: int, name: str, container: str, cgroup: str,
) -> None:
    """Trace where the goroutines of running Go processes wait.

    Without -o, a capture (.gotrace) and a flame graph (.html) are written to the current directory.
    """
    from rich.console import Console

    from gotrace.kernel.host import preflight
    from gotrace.render.progress import Ticker
    from gotrace.render.terminal import NOBODY_READS, lasting
    from gotrace.run.options import AttachOptions, check_labels, check_mode
    from gotrace.run.session import Session, default_outputs

    # If the terminal goes away, the trace ends normally (SIGHUP); if a reader of our messages does, it goes on.
    err = Console(file=lasting(sys.stderr, NOBODY_READS), stderr=True, highlight=False, soft_wrap=False)
    if as_json and "-" in outputs:
        raise UsageError("--json and -o - both want stdout", "choose one, or write the JSON with -o FILE.json")
    pids = targets(pids, name, container, cgroup, "attach")
    options = AttachOptions(
        pids=pids, duration_ns=duration, outputs=outputs, force=force, min_block_ns=min_block,
        sample_period_ns=sample_period, probe_set=ProbeSet(probe_set), reasons=reasons,
        states=tuple(State(state) for state in states), goid=goroutine or 0, match=match, per_goroutine=per_goroutine,
        events_over_ns=events_over, syscalls="none" if no_kernel else syscalls, wakers=not no_wakers, runtime=runtime,
        mode=Mode(mode), sample_rate_hz=sample_rate, hot=thresholds(hot_p99, hot_jitter, hot_share), max_overhead=max_overhead,
        requests=requests == "auto", spans=spans, slower_than_ns=slower_than, band=band, exemplars=exemplars,
        request_names=not no_request_names, objects=objects, verdicts=True, labels=tuple(dict.fromkeys(labels)), no_labels=no_labels,
    )
    check_mode(options)
    check_labels(options)
    _check_pattern(match)
    stopped = stops(pids)
    try:
        with Session(options) as session:
            handle_signals(session)
            if options.mode is not Mode.SAMPLE:
                preflight()
            session.prepare()
            if session.obstacle and not quiet:
                err.print(f"note: system calls are seen by uprobes: {session.obstacle}", markup=False, soft_wrap=True)
            if dry_run:
                return _say_ready(session, stopped, err)
            if not outputs:
                session.use_outputs(default_outputs(session.processes[0], datetime.now()))
            ticker = Ticker(err, [process.describe() for process in session.processes], duration, quiet, verbose)
            with ticker:
                update = ticker.update if ticker.shows_updates else None
                profile = session.run(lambda told: ticker.started([*told, *stopped]), update, ticker.notice)
    except KeyboardInterrupt:
        raise _interruption(session) from None
    _hand_out(profile, session, err, as_json, quiet)
    if session.failure is not None:
        raise session.failure


def _say_ready(session: Session, stopped: list[str], err: Console) -> None:
    from gotrace.render.text import TOLD_LIMIT, sanitize

    for process in session.processes:
        err.print(f"PID {process.process.pid}: {process.ready()}; nothing attached", markup=False)
    for note in stopped:
        err.print(sanitize(note, TOLD_LIMIT), markup=False, soft_wrap=True)


def _interruption(session: Session) -> GotraceError:
    """What a second Ctrl-C, or one before the window, leaves behind."""
    if session.capture is not None:
        what = "interrupted while the outputs were being made: not all are there"
        return GotraceError(what, f"gotrace report {session.capture.path} has what was committed")
    return Interrupted("interrupted before anything was recorded" if not session.running else "interrupted: outputs are missing")


def _hand_out(profile: Profile, session: Session, err: Console, as_json: bool, quiet: bool) -> None:
    """Prints what was asked for on stdout, and what was written where."""
    from rich.console import Console

    from gotrace.export import render
    from gotrace.export.summary_json import json_parts
    from gotrace.render.summary import print_summary
    from gotrace.render.terminal import HUNG_UP, lasting

    outputs, runtime = session.options.outputs, session.options.runtime
    if "-" in outputs:
        sys.stdout.write(render(profile, ".folded", runtime).decode())
        sys.stdout.flush()
    if as_json:
        sys.stdout.writelines(json_parts(profile))
        sys.stdout.flush()
    if quiet:
        return
    out = err if as_json or "-" in outputs else Console(file=lasting(sys.stdout, HUNG_UP), highlight=False)
    print_summary(profile, out, runtime=runtime)
    for path in session.written:
        err.print(f"Wrote {path}" + _how_to_open(path), markup=False, soft_wrap=True)
    for remark in session.remarks:
        err.print(f"note: {remark}", markup=False, soft_wrap=True)


def _check_pattern(match: str) -> None:
    import re

    try:
        re.compile(match)
    except re.error as error:
        raise UsageError(f"--match: {match!r} is not a regular expression: {error}") from None


def handle_signals(session: Session) -> None:
    """The first Ctrl-C, SIGTERM or SIGHUP ends the trace normally, the second one at once."""
    from gotrace.cli.interrupts import told_to_end

    def stop(number: int, _frame: object) -> None:
        told_to_end()
        if session.stopping or session.ending:
            if number == signal.SIGINT:  # a second Ctrl-C, or the first as the trace ends: do not wait for outputs; the probes end with us
                raise KeyboardInterrupt
            return
        session.stop()
        if not session.running:
            raise KeyboardInterrupt  # not an exception that something on the way might take for a failed check

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


_HOW_TO_OPEN = {
    ".html": "open: xdg-open {}",
    ".svg": "open: xdg-open {}",
    ".gotrace": "again: gotrace report {}",
    ".pb.gz": "open: go tool pprof -http=: {}",
    ".speedscope.json": "open: drop it on https://www.speedscope.app",
    ".parquet": "open: duckdb -c \"SELECT * FROM '{}'\"",
    ".pftrace": "open: drop it on https://ui.perfetto.dev",
}


def _how_to_open(path: Path) -> str:
    how = next((text for suffix, text in _HOW_TO_OPEN.items() if path.name.lower().endswith(suffix)), "")
    return f"   ({how.format(path)})" if how else ""
