"""gotrace top: where the goroutines of a process wait, live."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

import click

from gotrace.cli.attach import handle_signals
from gotrace.cli.parameters import DURATION, request_options
from gotrace.cli.targets import say_stops, target, target_options
from gotrace.common.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from gotrace.top.history import Window
    from gotrace.top.view import LiveView

_ONCE_NS = 10_000_000_000
_SHORTEST_NS = 1_000_000_000
_WINDOWS = ("start", "10s", "fading")


@click.command()
@click.argument("pid", metavar="[PID]", type=click.IntRange(min=1), required=False)
@click.option("--batch", is_flag=True, help="Print a table on stdout each --interval.")
@click.option("-d", "--duration", type=DURATION, help="How long; 0: until Ctrl-C.  [default: 10s with --once, else 0]")
@click.option("--idle/--no-idle", "idle", default=None,
              help="With or without waits for work or for a time.  [default: --no-idle in tables, --idle with --json]")
@click.option("--interval", type=DURATION, default="2s", show_default=True, help="With --batch, how often; at least 1s.")
@click.option("--json", "as_json", is_flag=True, help="With --once or --batch: as JSON on stdout, one object a line.")
@click.option("--max-overhead", type=click.FloatRange(min=0), metavar="PCT", default=2.0, show_default=True,
              help="Cap on what tracing costs the target, in percent of the CPU time that it uses for itself, as for attach. 0: no cap.")
@click.option("--once", is_flag=True, help="Trace for --duration, print the result on stdout, and end.")
@click.option("--rows", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many places a table has.")
@click.option("--window", type=click.Choice(_WINDOWS), default=_WINDOWS[0], show_default=True,
              help="start: all since the start; 10s: the last ten seconds; fading: older waits count less, by half each 10 s.")
@request_options
@target_options
def top(
    pid: int | None, batch: bool, duration: int | None, idle: bool | None, interval: int, as_json: bool, max_overhead: float, once: bool,
    rows: int, window: str, requests: str, spans: tuple[str, ...], name: str, container: str, cgroup: str,
) -> None:
    """Show live where the goroutines of a process wait, and its requests.

    A row is a place in the program with what is waited for there: how many goroutines wait now, how often waits end, the time in the
    window with its percentiles. The process is traced as by attach, under a cap on the cost. On a full screen, with keys that ? lists;
    --batch and --once need no terminal.
    """
    if batch and once:
        raise UsageError("--once and --batch are both given", "choose one")
    if not (batch or once) and (as_json or not (sys.stdin.isatty() and sys.stderr.isatty())):
        raise UsageError("the full screen needs a terminal", "--batch, or --once --json")
    if interval < _SHORTEST_NS:
        raise UsageError("--interval is at least 1s", "--interval 1s")
    from rich.console import Console

    from gotrace.kernel.host import preflight
    from gotrace.render.terminal import HUNG_UP, NOBODY_READS, lasting
    from gotrace.run.options import AttachOptions
    from gotrace.run.session import Session
    from gotrace.top.history import Window
    from gotrace.top.view import LiveView

    chosen = target(pid, name, container, cgroup, "top")
    say_stops([chosen])
    length = duration if duration is not None else _ONCE_NS if once else 0
    if once and not length:
        raise UsageError("--once needs an end", "--duration 10s")
    options = AttachOptions((chosen,), duration_ns=length, max_overhead=max_overhead, requests=requests == "auto", spans=spans)
    err = Console(file=lasting(sys.stderr, NOBODY_READS), stderr=True, highlight=False)
    out = Console(file=lasting(sys.stdout, HUNG_UP), highlight=False)
    shown = as_json if idle is None else idle
    printing = _Printing(out, Window(window), rows, shown, as_json)
    view = LiveView()
    if batch:
        view = LiveView(lambda: printing.due(view, interval))
    with Session(options) as session:
        handle_signals(session)
        preflight()
        session.sinks.append(view)
        session.prepare()
        if batch or once:
            session.run(None, None, lambda text: err.print(f"  {text}", markup=False, soft_wrap=True))
            if once or not printing.printed:
                printing.print(view)
        else:
            from gotrace.top.running import run_on_screen

            run_on_screen(session, view, Window(window), shown)
    if session.failure is not None:
        raise session.failure


class _Printing:
    """Prints what a view has, when it is due."""

    def __init__(self, console: Console, window: Window, rows: int, idle: bool, as_json: bool) -> None:
        self._console = console
        self._window = window
        self._rows = rows
        self._idle = idle
        self._as_json = as_json
        self._next = 0.0
        self.printed = False

    def due(self, view: LiveView, interval_ns: int) -> None:
        """Called about once a second."""
        now = time.monotonic()
        self._next = self._next or now + interval_ns / 1e9 - 1
        if now >= self._next - 0.5:  # the nearest of the moments at which there is something new
            self._next = max(self._next + interval_ns / 1e9, now)
            self.print(view)

    def print(self, view: LiveView) -> None:
        """Prints all."""
        from gotrace.top.text import print_screen, screen_json

        screen = view.screen(self._window, self._idle)
        if screen is None:
            return
        self.printed = True
        if self._as_json:
            self._console.file.write(screen_json(screen))
        else:
            print_screen(screen, screen.rows[: self._rows], self._console, f"{datetime.now():%H:%M:%S}")
        self._console.file.flush()
