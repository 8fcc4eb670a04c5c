"""gotrace doctor: what this host can do."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from gotrace import __version__
from gotrace.common.errors import EXIT_REFUSED

_ENOUGH = {True: "are enough here", False: "are enough for most kernels (not tried: we do not have them), some ask for CAP_SYS_ADMIN too"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON on stdout.")
def doctor(as_json: bool) -> int:
    """List every capability that gotrace needs or can use here, and how to get those that are missing.

    Exit code 3 if attach could not work.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from gotrace.kernel.host import examine, without_root
    from gotrace.render.text import sanitize

    checks, lesser = examine(), without_root()
    possible = all(check.ok for check in checks if check.needed)
    if as_json:
        findings = {"gotrace": __version__, "attach_possible": possible, "checks": [asdict(check) for check in checks],
                    "without_root": asdict(lesser)}
        sys.stdout.write(json.dumps(findings, indent=2) + "\n")
    else:
        table = Table(box=None, pad_edge=False)
        for heading in ("", "capability", "finding"):
            table.add_column(heading)
        for check in checks:
            mark = ("ok", "green") if check.ok else ("MISSING", "red") if check.needed else ("no", "yellow")
            finding = Text(sanitize(check.why, limit=1000))
            if check.fix:
                finding.append(f"\nfix: {sanitize(check.fix, limit=1000)}", style="bold")
            table.add_row(Text(*mark), Text(check.name), finding)
        console = Console(highlight=False)
        console.print(table)
        console.print(f"\nwithout root: {', '.join(lesser.capabilities)} {_ENOUGH[lesser.tried]}. {lesser.more}.", markup=False)
        for tool, recipe in lesser.recipes.items():
            console.print(f"  {tool}: {sanitize(recipe, limit=1000)}", markup=False, soft_wrap=True)  # one line, to be copied
        console.print()
        console.print("attach can work here" if possible else "attach can't work here: see MISSING above")
    sys.stdout.flush()
    return 0 if possible else EXIT_REFUSED
