"""The scheduler of a process for people and for scripts."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from gotrace.common.units import format_duration
from gotrace.render.columns import Column, cells, fitting, heading, sparkline, width_of
from gotrace.render.text import sanitize
from gotrace.sched.types import Latency, Snapshot, ToRun

_HEADING_EVERY = 20
_TREND = 20
"""How many readings the sparkline shows."""
_UNKNOWN = "?"


def snapshot_json(snapshot: Snapshot) -> str:
    """One line of JSON with its line end; ASCII only."""
    return json.dumps(asdict(snapshot)) + "\n"


def _number(value: int | None) -> str:
    return _UNKNOWN if value is None else str(value) if value < 1_000_000 else f"{value / 1e6:.3g}M"


def _duration(value: int | None) -> str:
    return "-" if value is None else format_duration(value).replace(" ", "")


def _calls(snapshot: Snapshot) -> int | None:
    return sum(snapshot.syscall_threads.values()) if snapshot.syscall_threads is not None else None


def _procs(snapshot: Snapshot) -> str:
    return _number(snapshot.gomaxprocs) + ("" if snapshot.cpu_quota is None else f"/{snapshot.cpu_quota:.3g}")


def _local(snapshot: Snapshot) -> int | None:
    return sum(snapshot.local_run_queues) if snapshot.local_run_queues is not None else None


_COLUMNS: tuple[Column[Snapshot], ...] = (
    Column("time", 8, 0, lambda one: one.time[11:19]),
    Column("Ps", 6, 0, _procs),
    Column("idle", 4, 0, lambda one: _number(one.idle_procs)),
    Column("Ms", 5, 1, lambda one: _number(one.threads)),
    Column("run", 4, 2, lambda one: _number(one.running_threads)),
    Column("spin", 4, 3, lambda one: _number(one.spinning_threads)),
    Column("idle", 4, 4, lambda one: _number(one.idle_threads)),
    Column("call", 4, 1, lambda one: _number(_calls(one))),
    Column("cgo", 4, 6, lambda one: _number(one.cgo_threads)),
    Column("queue", 5, 0, lambda one: _number(one.run_queue)),
    Column("local", 5, 0, lambda one: _number(_local(one))),
    Column("Gs", 6, 0, lambda one: _number(one.goroutines.total)),
    Column("ready", 6, 0, lambda one: _number(one.goroutines.runnable)),
    Column("wait", 6, 5, lambda one: _number(one.goroutines.waiting)),
    Column("timers", 6, 6, lambda one: _number(one.timers.count)),
    Column("late", 7, 7, lambda one: _duration(one.timers.overdue_ns)),
    Column("GCs", 6, 3, lambda one: _number(one.gc.cycles) + ("*" if one.gc.running else "")),
    Column("throttled", 9, 4, lambda one: _duration(one.throttled_ns)),
)


class SchedTable:
    """Prints one row for each snapshot, with the columns that fit the terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows = 0
        self._ready: deque[int] = deque(maxlen=_TREND)

    def row(self, snapshot: Snapshot) -> None:
        """Prints a row; a heading before it now and then."""
        columns = fitting(_COLUMNS, self._console.width)
        trend = width_of(columns) + 2 + _TREND <= self._console.width
        if self._rows % _HEADING_EVERY == 0:
            self._console.print(Text(f"{heading(columns)}  {'ready, the trend' if trend else ''}".rstrip(), "bold"), soft_wrap=True)
        self._rows += 1
        self._ready.append(snapshot.goroutines.runnable or 0)
        line = Text(cells(columns, snapshot))
        if trend:
            line.append(f"  {sparkline(list(self._ready))}", "cyan")
        self._console.print(line, soft_wrap=True)


def print_snapshot(name: str, one: Snapshot, console: Console) -> None:
    """Prints all of one reading, a line for each part."""
    console.print(Text(sanitize(name), "bold cyan"), soft_wrap=True)
    for key, text in _parts(one):
        console.print(Text(f"{key:>7}  {text}"), soft_wrap=True)


def print_latency(latency: Latency, console: Console) -> None:
    """Prints how long goroutines waited for a P and threads for a CPU: percentiles and a histogram by powers of two."""
    length = latency.duration_ns
    for name, what, waits, traced_ns in (
        ("runnable", "goroutines that were made ready, until a P ran them", latency.runnable, latency.runnable_traced_ns),
        ("preempted", "goroutines that had to stop or gave way, until a P ran them again", latency.preempted, latency.runnable_traced_ns),
        ("runqueue", "threads with a goroutine, until the kernel ran them", latency.runqueue, latency.runqueue_traced_ns),
    ):
        console.print()
        line = Text(name, "bold cyan")
        line.append(f"  {what}", "not bold default")
        if traced_ns < length - length // 50:
            line.append(f" (seen for {format_duration(traced_ns)} of {format_duration(length)})", "not bold yellow")
        console.print(line, soft_wrap=True)
        if waits is None:
            console.print(Text("  this host can't show it", "yellow"), soft_wrap=True)
        else:
            _print_waits(waits, console)
    for note in latency.notes:
        console.print(Text(f"! {sanitize(note, 1000)}", "yellow"), soft_wrap=True)


def _print_waits(waits: ToRun, console: Console) -> None:
    figures = "  ".join(
        f"{name} {format_duration(value)}" for name, value in (
            ("p50", waits.p50_ns), ("p90", waits.p90_ns), ("p99", waits.p99_ns), ("p99.9", waits.p999_ns), ("max", waits.max_ns),
        )
    )
    total = f"  {waits.count:,} waits, {format_duration(waits.total_ns)}"
    console.print(Text(f"{total}  {figures}" if waits.count else total), soft_wrap=True)
    most, width = max(waits.histogram.values(), default=0), max(10, min(40, console.width - 40))
    for low, count in waits.histogram.items():
        line = Text(f"  {format_duration(low):>8} to {format_duration(2 * low or 1):>8} {count:>12,} ")
        line.append("█" * max(1, round(width * count / most)), "cyan")
        console.print(line, soft_wrap=True)


def _parts(one: Snapshot) -> tuple[tuple[str, str], ...]:
    quota = "no CPU quota" if one.cpu_quota is None else f"CPU quota {one.cpu_quota:.4g}"
    throttled = f", throttled for {_duration(one.throttled_ns)}" if one.throttled_ns is not None else ""
    g, gc, timers = one.goroutines, one.gc, one.timers
    return (
        ("Ps", f"{_number(one.gomaxprocs)} (GOMAXPROCS), {_number(one.idle_procs)} idle; {quota}{throttled}"),
        ("Ms", f"{_number(one.threads)} threads: {_number(one.running_threads)} run Go code, {_number(one.spinning_threads)} spinning, "
               f"{_number(one.idle_threads)} idle, {_number(one.cgo_threads)} in C code"),
        ("calls", _by_name(one.syscall_threads)),
        ("queues", f"{_number(one.run_queue)} in the global one, {_local_queues(one.local_run_queues)}"),
        ("Gs", f"{_number(g.total)} goroutines: {_number(g.running)} running, {_number(g.runnable)} runnable, "
               f"{_number(g.waiting)} waiting, {_number(g.syscall)} in system calls or C code"),
        ("timers", f"{_number(timers.count)}, the next in {_duration(timers.next_ns)}, "
                   f"the most overdue late by {_duration(timers.overdue_ns)}"),
        ("GC", f"{gc.phase or _UNKNOWN}, {_number(gc.cycles)} cycles, {_duration(gc.pause_total_ns)} of pauses"),
    )


def _by_name(calls: dict[str, int] | None) -> str:
    if calls is None:
        return _UNKNOWN
    return ", ".join(f"{sanitize(name, 40)} {count}" for name, count in calls.items()) or "none"


def _local_queues(lengths: list[int] | None) -> str:
    if lengths is None:
        return f"{_UNKNOWN} in those of the Ps"
    longest = f" (the longest has {max(lengths)})" if any(lengths) else ""
    return f"{sum(lengths)} in those of the Ps{longest}"
