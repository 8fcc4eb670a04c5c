"""How gotrace's cost grows with the number of goroutines and of distinct stacks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from benchmarks.accounts import between, programs, programs_of
from benchmarks.paired import spread
from benchmarks.runner import Settings
from benchmarks.tracers import Gotrace, Sites
from benchmarks.workloads import KINDS, Kind, running
from gotrace.kernel.stats import close, enable_stats

GOROUTINES = (100, 10_000, 100_000, 1_000_000)
STACKS = (10, 500, 5_000)
_FLAGS = ["--max-overhead", "0"]


def _kinds() -> list[Kind]:
    known = {kind.arguments: kind for kind in KINDS}
    found = []
    for name, sizes, title in (("goroutines", GOROUTINES, "{:,} goroutines, 1 % active"), ("stacks", STACKS, "{:,} distinct stacks")):
        for size in sizes:
            own = known.get((name, str(size))) or Kind(f"{name}-{size}", "", "round trips", (name, str(size)))
            found.append(replace(own, title=title.format(size)))
    return found


def measure_scale(program: Path, pairs: int, settings: Settings, say: Callable[[str], None]) -> Table:
    """A line for each size: what the programs take per hit of a probe of an interval and per round trip, what a round trip costs the
    target in all, traced and untraced, and what the agent takes. Medians of `pairs` attaches."""
    table = Table(title="Cost by size: gotrace, every stage, no governor", title_justify="left", title_style="bold", box=None, pad_edge=False)
    headings = ("", "programs ns/hit", "programs ns/round trip", "CPU ns/round trip", "untraced", "live", "gone", "files", "peak MB")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    tracer = Gotrace("every", "gotrace", Sites(program), _FLAGS)
    for kind in _kinds():
        rows = []
        with running(kind, program) as target:
            for number in range(pairs):
                say(f"scale: {kind.title}, {number + 1} of {pairs}")
                untraced = target.measure(settings.warm_s, settings.window_s)
                with tracer.attached(target) as attachment, attachment.unwatched():
                    target.measure(settings.settle_s, 0.1)
                    timing = enable_stats()
                    try:
                        own, first, start = programs_of(attachment.pid or 0), programs(), time.monotonic()
                        window = target.measure(0, settings.window_s)
                        last, seconds = programs(), time.monotonic() - start
                    finally:
                        close(timing)
                figures = between(first, {key: what for key, what in last.items() if key in own}, seconds)
                hits = sum(each.runs_per_s for each in figures if each.name not in ("on_switch", "on_waking"))
                taken = sum(each.runs_per_s * each.ns_per_run for each in figures if each.name not in ("on_switch", "on_waking"))
                done = window.rate * settings.window_s / seconds
                agent = attachment.figures
                rows.append((taken / hits, taken / done, window.cpu_ns, untraced.cpu_ns, agent.live_s, agent.gone_s, agent.files_s, agent.peak_bytes))
        middle = [spread([value for value in column if value is not None]) for column in zip(*rows)]
        cells = [each.median if each else None for each in middle]
        table.add_row(kind.title, *(f"{cell:,.0f}" for cell in cells[:4]), *("" if cell is None else f"{cell:.2f} s" for cell in cells[4:7]),
                      "" if cells[7] is None else f"{cells[7] / 1e6:.0f}")
    return table
