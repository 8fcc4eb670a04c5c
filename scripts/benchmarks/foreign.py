"""What the tracepoints on threads cost for another process's thread: they run for the whole machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

from gobuild import build
from rich.table import Table
from workload import Workload

from benchmarks.accounts import between, programs, programs_of
from benchmarks.generator import GO_VERSION
from benchmarks.paired import spread
from benchmarks.tracers import Gotrace, Sites
from gotrace.kernel.stats import close, enable_stats

_PROGRAMS = ("on_switch", "on_waking", "on_data_ready")
_OTHERS = """
import os, socket
os.sched_setaffinity(0, {%d})
ours, theirs = socket.socketpair()
child = os.fork()
while True:
    if not child:
        theirs.recv(1)
        theirs.send(b"x")
    else:
        ours.send(b"x")
        ours.recv(1)
"""


def measure_foreign(rounds: int, window_s: float, say: Callable[[str], None]) -> Table:
    """Two processes of ours switch to and fro while a traced one does nothing: ns per run, medians of `rounds` attaches."""
    binary = build("parked", GO_VERSION, "plain")
    tracer = Gotrace("every", "gotrace", Sites(binary), ["--max-overhead", "0"])
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in _PROGRAMS}
    with Workload(binary, "-goroutines", "10", "-active", "0") as workload:
        others = subprocess.Popen([sys.executable, "-c", _OTHERS % max(os.sched_getaffinity(0))], start_new_session=True)
        try:
            for number in range(rounds):
                say(f"foreign threads, {number + 1} of {rounds}")
                with tracer.attached(SimpleNamespace(pid=workload.pid)) as attachment:
                    timing = enable_stats()
                    try:
                        own, first, start = programs_of(attachment.pid or 0), programs(), time.monotonic()
                        time.sleep(window_s)
                        last, seconds = programs(), time.monotonic() - start
                    finally:
                        close(timing)
                for each in between(first, {key: what for key, what in last.items() if key in own}, seconds):
                    if each.name in found:
                        found[each.name].append((each.runs_per_s, each.ns_per_run))
        finally:
            os.killpg(others.pid, 9)
            others.wait()
    table = Table(title="Tracepoints that find another process's thread or socket", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("program", "runs/s", "ns/run", "low-high"):
        table.add_column(heading, justify="left" if heading == "program" else "right")
    for name, values in found.items():
        if values:
            rate, cost = spread([rate for rate, _ in values]), spread([cost for _, cost in values])
            table.add_row(name, f"{rate.median:,.0f}", f"{cost.median:.0f}", f"{cost.low:.0f}-{cost.high:.0f}")
    return table
