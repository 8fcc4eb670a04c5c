"""gotrace ps: the Go processes of this host."""

from __future__ import annotations

import os
import sys

import click

_KEYS = ("goroutines", "threads", "pid", "name", "version", "container", "quota")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.option("--sort", "key", type=click.Choice(_KEYS), default=_KEYS[0], show_default=True,
              help="Numbers from the largest, versions from the oldest; quota: those whose GOMAXPROCS disagrees with it first.")
def ps(as_json: bool, key: str) -> None:
    """List every Go process of this host.

    With its Go version, its container or pod, GOMAXPROCS against its CPU quota, threads, goroutines (the runtime's own included), whether
    it can be traced and if not why, and what keeps it from running. Read from /proc and from the processes' memory; nothing is stopped.
    """
    from rich.console import Console

    from gotrace.host.listing import Host
    from gotrace.host.text import in_order, print_processes, processes_json

    host = Host()
    processes = in_order(host.go_processes(), key)
    if as_json:
        sys.stdout.write(processes_json(processes))
    else:
        print_processes(processes, Console(highlight=False))
    sys.stdout.flush()
    if host.refused:
        count = len(host.refused)
        remedy = ": sudo gotrace ps" if os.geteuid() else ""
        print(f"note: {count} process{'es' * (count > 1)} may not be examined, Go's or not{remedy}", file=sys.stderr)
