"""gotrace probes: the plan for a process or a file, without attaching."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import click

from gotrace.cli.parameters import request_options
from gotrace.cli.targets import say_stops, target, target_options
from gotrace.common.errors import GotraceError
from gotrace.plan.probes import ProbeSet

if TYPE_CHECKING:
    from gotrace.gobin.binary import GoBinary


@click.command()
@click.argument("what", metavar="[PID-or-BINARY]", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.option("--probes", "probe_set", type=click.Choice([p.value for p in ProbeSet]), default=ProbeSet.COMPLETE.value,
              show_default=True, help="The set of start probes to plan for.")
@request_options
@target_options
def probes(
    what: str | None, as_json: bool, probe_set: str, requests: str, spans: tuple[str, ...], name: str, container: str, cgroup: str,
) -> None:
    """Show what was learnt of a Go binary and where it would be probed.

    For a PID the plan is also checked against the live process.
    """
    from gotrace.render.plan import plan_dict, print_plan
    from gotrace.watch.probed import ProbedProcess

    chosen = ProbeSet(probe_set)
    if what is None or name or container or cgroup:
        what = str(target(int(what) if what is not None and what.isdigit() else None, name, container, cgroup, "probes"))
    if what.isdigit() and not os.path.exists(what):
        say_stops([int(what)])
        process = ProbedProcess.prepare(int(what), chosen, verb="probes", requests=requests == "auto", spans=spans)
        process.close()
        binary, plan, verified = process.binary, process.plan, True
    else:
        from gotrace.plan.makeplan import make_plan

        binary, verified = _open(what), False
        plan = make_plan(binary, chosen, requests=requests == "auto", spans=spans)
    if as_json:
        sys.stdout.write(json.dumps(plan_dict(binary, plan, verified), indent=2) + "\n")
    else:
        from rich.console import Console

        print_plan(binary, plan, verified, Console(highlight=False))
    sys.stdout.flush()


def _open(path: str) -> GoBinary:
    from gotrace.gobin.binary import GoBinary
    from gotrace.gobin.image import read_file

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise GotraceError(f"{path} can't be opened: {error.strerror}", "give a PID, or the path of a Go executable") from None
    try:
        return GoBinary(read_file(fd, path))
    finally:
        os.close(fd)
