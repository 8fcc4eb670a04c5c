"""Cgroups with a CPU quota."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from faults import remove_cgroup
from prerequisites import unavailable


@contextlib.contextmanager
def fifth_of_a_cpu() -> Iterator[Path]:
    """A cgroup that may use a fifth of a CPU; its folder."""
    for root, files in (
        (Path("/sys/fs/cgroup/cpu"), {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "20000"}),
        (Path("/sys/fs/cgroup"), {"cpu.max": "20000 100000"}),
    ):
        folder = root / f"gotrace-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            if root == Path("/sys/fs/cgroup"):
                (root / "cgroup.subtree_control").write_text("+cpu")
            folder.mkdir()
            for name, text in files.items():
                (folder / name).write_text(text)
            yield folder
            (root / "cgroup.procs").write_text(str(os.getpid()))
            remove_cgroup(folder)
            return
    unavailable("no cgroup with a CPU quota can be made (remedy: mount the cpu controller writable)")
