"""gotrace dump: every goroutine of a process, now."""

from __future__ import annotations

import sys

import click


@click.command()
@click.argument("pid", type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def dump(pid: int, as_json: bool) -> None:
    """Show every goroutine's state, wait reason and stack, without stopping the process.

    Read from the process's memory: no probe, no signal. How long a goroutine has waited is known, to a cycle of the
    garbage collector, only where the collector has met it waiting.
    """
    from gotrace.dump.reading import dump as read
    from gotrace.dump.text import dump_json, print_dump

    found = read(pid)
    if as_json:
        sys.stdout.write(dump_json(found))
    else:
        from rich.console import Console

        print_dump(found, Console(highlight=False))
    sys.stdout.flush()
