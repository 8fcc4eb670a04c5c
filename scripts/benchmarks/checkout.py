"""Other revisions of gotrace, to run beside this one."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bootstrap import ROOT


@contextlib.contextmanager
def checkout_of(revision: str) -> Iterator[Path]:
    """A work tree of `revision` in a temporary folder, with this checkout's environment and caches."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "gotrace"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", tree, revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)
