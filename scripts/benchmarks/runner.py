"""Runs the tracers on the workloads: in rounds, each tracer's window between two without a tracer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.accounts import between, busy_ns, programs, programs_of
from benchmarks.paired import Pair, Window, order_of
from benchmarks.results import AgentFigures, Measured, ProgramFigures, Table
from benchmarks.tracers import OVERDUE, Gotrace, Tracer
from benchmarks.workloads import Kind, Target, running
from gotrace.common.errors import GotraceError
from gotrace.kernel.stats import close, enable_stats
from gotrace.watch.target import cpu_time_ns


@dataclass(frozen=True)
class Settings:
    """`window_s` of load are measured, after `settle_s` of load with a tracer (gotrace times its programs in its first second, and a
    governor needs time to act) or `warm_s` without."""

    pairs: int
    window_s: float
    settle_s: float
    warm_s: float = 0.2


FULL = Settings(pairs=5, window_s=1.0, settle_s=1.3)
QUICK = Settings(pairs=1, window_s=0.5, settle_s=0.3)


def measure_workload(kind: Kind, program: Path, tracers: list[Tracer], settings: Settings, say: Callable[[str], None]) -> Table:
    """The table of one workload. A tracer that fails, or does not end in time, is not tried again; its note says so."""
    table = Table(kind.name, kind.title, kind.unit, {tracer.key: Measured(tracer.title) for tracer in tracers})
    with running(kind, program) as target:
        table.title += f" ({target.detail})" if target.detail else ""
        for number in range(settings.pairs):
            before = _untraced(target, settings)
            for index in order_of(len(tracers), number):
                tracer = tracers[index]
                own = table.tracers[tracer.key]
                if own.note:
                    continue
                say(f"{kind.name}, round {number + 1} of {settings.pairs}: {tracer.title}")
                traced = _guarded(own, lambda tracer=tracer: _traced(tracer, target, settings))
                after = _untraced(target, settings)
                if traced is not None:
                    own.pairs.append(Pair(number, traced[0], before, after))
                    own.agents.append(traced[1])
                    if traced[1].note.startswith(OVERDUE):
                        own.note = f"killed: it {traced[1].note}"
                before = after
        for tracer in tracers:
            own = table.tracers[tracer.key]
            if isinstance(tracer, Gotrace) and own.pairs and not own.note:
                say(f"{kind.name}, attached to under load: {tracer.title}")
                found = _guarded(own, lambda tracer=tracer: _under_load(tracer, target, settings))
                if found is not None:
                    own.under_load, own.programs = found
    return table


def _guarded(own: Measured, measure: Callable):
    """The result of `measure`; None if the tracer failed, which is noted."""
    try:
        return measure()
    except (GotraceError, OSError) as error:  # TimeoutError is an OSError
        own.note = f"failed: {error}"
        return None


def _untraced(target: Target, settings: Settings) -> Window:
    start, busy, own = time.monotonic(), busy_ns(), sum(map(cpu_time_ns, target.pids))
    window = target.measure(settings.warm_s, settings.window_s)
    others = busy_ns() - busy - (sum(map(cpu_time_ns, target.pids)) - own)
    return replace(window, others=max(0.0, others / 1e9 / (time.monotonic() - start) / (os.cpu_count() or 1)))


def _traced(tracer: Tracer, target: Target, settings: Settings) -> tuple[Window, AgentFigures]:
    with tracer.attached(target) as attachment, attachment.unwatched():
        start, cpu = time.monotonic(), cpu_time_ns(attachment.pid) if attachment.pid else 0
        window = target.measure(settings.settle_s, settings.window_s)
        if attachment.pid:
            attachment.figures.cpu = (cpu_time_ns(attachment.pid) - cpu) / 1e9 / (time.monotonic() - start)
    return window, attachment.figures


def _under_load(tracer: Tracer, target: Target, settings: Settings) -> tuple[AgentFigures, list[ProgramFigures]]:
    with target.loaded(), tracer.attached(target) as attachment:
        time.sleep(settings.settle_s)
        timing = enable_stats()
        try:
            own, first, start = programs_of(attachment.pid or 0), programs(), time.monotonic()
            time.sleep(settings.window_s)
            last, seconds = programs(), time.monotonic() - start
        finally:
            close(timing)
    return attachment.figures, between(first, {number: what for number, what in last.items() if number in own}, seconds)


def host(go_version: str) -> dict[str, str]:
    """The machine of the measurement."""
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {"kernel": f"Linux {os.uname().release.split('-')[0]}", "cpus": f"{os.cpu_count()} CPUs", "model": model, "go": f"Go {go_version}",
            "date": time.strftime("%Y-%m-%d", time.gmtime())}
