"""gotrace dump: every goroutine of a process, now."""

from __future__ import annotations

import sys

import click

from gotrace.cli.targets import target, target_options


@click.command()
@click.argument("pid", metavar="[PID]", type=click.IntRange(min=1), required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@target_options
def dump(pid: int | None, as_json: bool, name: str, container: str, cgroup: str) -> None:
    """Show every goroutine's state, wait reason and stack, without stopping the process.

    Read from the process's memory: no probe, no signal. How long a goroutine has waited is known, to a cycle of the
    garbage collector, only where the collector has met it waiting.
    """
    from gotrace.dump.reading import dump as read
    from gotrace.dump.text import dump_json, print_dump

    found = read(target(pid, name, container, cgroup, "dump"))
    if as_json:
        sys.stdout.write(dump_json(found))
    else:
        from rich.console import Console

        print_dump(found, Console(highlight=False))
    sys.stdout.flush()
