"""Lets a script run with any python3: it continues in the checkout's own environment. Standard library only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def enter_environment() -> None:
    """Makes .venv if there is none, runs the script again with its Python unless it already does, and puts the
    checkout and its test helpers on the path."""
    python = ROOT / ".venv/bin/python"
    if Path(sys.prefix) != python.parent.parent.resolve() and Path(sys.prefix) != python.parent.parent:
        if not python.exists():
            subprocess.run(["bash", "-c", ". scripts/lib.sh; ensure_packages python3-bpfcc python3-venv; ensure_venv"], cwd=ROOT, check=True)
        os.execv(python, [str(python), *sys.argv])
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
    # Programs started from here on use this checkout too.
    os.environ["PYTHONPATH"] = str(ROOT)


def exit_with(error: Exception) -> None:
    """Ends the script as gotrace does: one line, a hint, the exit code of the kind of error."""
    print(f"error: {error}", file=sys.stderr)
    if getattr(error, "hint", None):
        print(f"hint: {error.hint}", file=sys.stderr)
    sys.exit(getattr(error, "exit_code", 1))
