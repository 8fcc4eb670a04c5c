"""What every test of a fault comes back to: a refusal is one line, a capture is valid, the target goes on unharmed."""

from __future__ import annotations

import errno
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attach import probes_of
from gobuild import build
from restricted import CHECKOUT
from workload import Workload

from gotrace.capture.reader import read_capture
from gotrace.profile.types import Profile


@contextmanager
def unharmed_churn(*before: str) -> Iterator[Workload]:
    """A busy program, started behind the command `before`, that checks its own work; at the end it must say that all went well,
    and no probe may be left in it."""
    with Workload(*before, str(build("churn", "1.27.3", "stripped"))) as workload:
        yield workload
        assert not probes_of(workload.pid)
        code, rest = workload.finish()
        assert code == 0 and rest.startswith("ok"), rest


def remove_cgroup(folder: Path) -> None:
    """Once those that were in it are gone; a cgroup of version 2 stays busy for some time after the last is listed."""
    deadline = time.monotonic() + 20
    while True:
        try:
            folder.rmdir()
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def one_line(result: subprocess.CompletedProcess[str], *texts: str, code: int = 3) -> None:
    """It was refused with these words, in one line and a hint at most."""
    lines = result.stderr.splitlines()
    assert result.returncode == code, result.stderr
    assert len(lines) <= 2 and lines[0].startswith("error: "), result.stderr
    assert all(text in result.stderr for text in texts), result.stderr


def is_complete(capture: Path) -> Profile:
    """The capture of a trace of `churn` that came to its end."""
    profile = read_capture(capture)
    assert profile.complete
    assert sum(stack.distribution.count for stack in profile.stacks) > 100
    assert all(0 <= stack.distribution.max_ns <= profile.window.duration_ns for stack in profile.stacks)
    return profile


def checkout_with(folder: Path, file: str = "exec.c", old: str = "", new: str = "") -> dict[str, str]:
    """The environment in which gotrace runs from a copy whose C differs, and which nothing was compiled from yet."""
    for name in ("gotrace", "bpf"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("compiled", "__pycache__"))
    text = (folder / "bpf" / file).read_text()
    assert old in text
    (folder / "bpf" / file).write_text(text.replace(old, new, 1))
    return {"PYTHONPATH": str(folder), "TMPDIR": str(folder)}
