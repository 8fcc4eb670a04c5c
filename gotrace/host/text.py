"""The Go processes of a host for people and for scripts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from gotrace.host.listing import GoProcess
from gotrace.render.text import sanitize

_ID_SHOWN = 12
_HEADINGS = ("PID", "NAME", "GO", "CONTAINER", "PROCS/QUOTA", "THREADS", "GOROUTINES", "TRACEABLE")
_NUMBERS = (0, 5, 6)
_ORDERS: dict[str, Callable[[GoProcess], tuple[object, ...]]] = {
    "goroutines": lambda one: (-(one.goroutines if one.goroutines is not None else -1), one.pid),
    "threads": lambda one: (-one.threads, one.pid),
    "pid": lambda one: (one.pid,),
    "name": lambda one: (one.comm, one.pid),
    "version": lambda one: (_version_order(one.go_version), one.pid),
    "container": lambda one: (one.pod, one.container, one.pid),
    "quota": lambda one: (one.procs_against_quota == "", -(one.gomaxprocs or 0), one.pid),
}
SORT_KEYS = tuple(_ORDERS)
"""What processes can be sorted by: numbers from the largest, versions from the oldest, those that disagree with their quota first."""


def in_order(processes: list[GoProcess], key: str) -> list[GoProcess]:
    """The processes sorted by one of `SORT_KEYS`."""
    return sorted(processes, key=_ORDERS[key])


def _version_order(version: str) -> tuple[int, ...]:
    parts = version.removeprefix("go").split(".")
    return tuple(int("".join(char for char in part if char.isdigit()) or 0) for part in parts)


def processes_json(processes: list[GoProcess]) -> str:
    """JSON text with a final newline; ASCII only."""
    return json.dumps([asdict(one) for one in processes], indent=1) + "\n"


def print_processes(processes: list[GoProcess], console: Console) -> None:
    """Prints a table, and what its marks mean where there are any."""
    rows = [_row(one) for one in processes]
    widths = [max(len(row[column]) for row in (_HEADINGS, *rows)) for column in range(len(_HEADINGS))]
    console.print(Text(_line(_HEADINGS, widths), "bold"), soft_wrap=True)
    for one, row in zip(processes, rows, strict=True):
        line = Text(_line(row, widths), "" if one.traceable else "dim")
        if one.procs_against_quota:
            at = sum(widths[:4]) + 2 * 4
            line.stylize("yellow", at, at + widths[4])
        console.print(line, soft_wrap=True)
    marks = {one.procs_against_quota for one in processes}
    if "more" in marks:
        console.print(Text("more: GOMAXPROCS is above the CPU quota: the kernel throttles the process when it is busy", "yellow"))
    if "fewer" in marks:
        console.print(Text("fewer: GOMAXPROCS is below the CPU quota: some of the quota can't be used", "yellow"))


def _row(one: GoProcess) -> tuple[str, ...]:
    procs = "?" if one.gomaxprocs is None else str(one.gomaxprocs)
    quota = "-" if one.cpu_quota is None else f"{one.cpu_quota:.4g}"
    name = os.path.basename(one.exe) if one.exe and not one.exe.endswith("/") else one.comm
    return (
        str(one.pid), sanitize(name, 30), sanitize(one.go_version.removeprefix("go"), 12), sanitize(_container(one), 40),
        f"{procs}/{quota}{' ' if one.procs_against_quota else ''}{one.procs_against_quota}", str(one.threads),
        "?" if one.goroutines is None else str(one.goroutines),
        f"{'yes' if one.traceable else 'no'}{': ' if one.why else ''}{sanitize(one.why, 40)}",
    )


def _container(one: GoProcess) -> str:
    if one.pod:
        return f"pod {one.pod[:8]}/{one.container[:_ID_SHOWN]}" if one.container else f"pod {one.pod}"
    return one.container[:_ID_SHOWN] if len(one.container) == 64 else one.container or "-"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    columns = enumerate(zip(cells, widths, strict=True))
    return "  ".join(cell.rjust(width) if number in _NUMBERS else cell.ljust(width) for number, (cell, width) in columns).rstrip()
