"""TARGET on the command line: a pid, or the flags that select processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., object])


def target_options(command: _Command) -> _Command:
    """The flags that select processes: `name`, `container` and `cgroup`, "" if not given. `targets` turns them into pids."""
    for flag, value, text in (
        ("--cgroup", "PATH", "the Go processes of this control group and those below it."),
        ("--container", "ID", "the Go processes of the container whose id, or whose pod's uid, begins so; at least 8 characters."),
        ("--name", "REGEX", "the Go processes whose name, or whose executable's, matches."),
    ):
        command = click.option(flag, metavar=value, default="", help=f"In place of a PID: {text}")(command)
    return command


def targets(pids: tuple[int, ...], name: str, container: str, cgroup: str, verb: str) -> tuple[int, ...]:
    """The pids that are meant; raises as `gotrace.host.choice.chosen`."""
    from gotrace.host.choice import Wanted, chosen

    return chosen(Wanted(pids, name, container, cgroup), verb, several=True)


def target(pid: int | None, name: str, container: str, cgroup: str, verb: str) -> int:
    """The one pid that is meant; raises as `gotrace.host.choice.chosen`."""
    from gotrace.host.choice import Wanted, chosen

    return chosen(Wanted((pid,) if pid is not None else (), name, container, cgroup), verb)[0]


def stops(pids: Iterable[int]) -> list[str]:
    """``note: …`` for each of them that is stopped: by what."""
    from gotrace.proc.stopped import note_of_stop

    return [f"note: {note}" for pid in pids if (note := note_of_stop(pid))]


def say_stops(pids: Iterable[int]) -> None:
    """Says on stderr which of them are stopped, and by what."""
    from gotrace.render.text import TOLD_LIMIT, sanitize

    for note in stops(pids):
        print(sanitize(note, TOLD_LIMIT), file=sys.stderr)
