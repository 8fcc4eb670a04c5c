"""How much CPU time a process's control groups allow it."""

from __future__ import annotations

import contextlib
from pathlib import Path

_DEEPEST = 64


def cpu_quota(pid: int) -> float | None:
    """How many CPUs' time the process's control groups allow, the least of them all; None without a limit, or where the groups' files can't
    be found from here (cgroup v2: cpu.max; v1: cpu.cfs_quota_us)."""
    found = []
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text(errors="replace").splitlines()[:_DEEPEST]:
            _, controllers, path = [*line.split(":", 2), "", ""][:3]
            if controllers and "cpu" not in controllers.split(","):
                continue
            root = Path("/sys/fs/cgroup/cpu" if controllers else "/sys/fs/cgroup")
            folder = root / path.lstrip("/")
            for _ in range(_DEEPEST):
                if (quota := _quota(folder)) is not None:
                    found.append(quota)
                if folder == root or root not in folder.parents:
                    break
                folder = folder.parent
    return min(found, default=None)


def _quota(folder: Path) -> float | None:
    for name in ("cpu.max", "cpu.cfs_quota_us"):
        try:
            words = (folder / name).read_text().split()
            if name == "cpu.cfs_quota_us":
                words.append((folder / "cpu.cfs_period_us").read_text().strip())
            if len(words) == 2 and int(words[0]) > 0 and int(words[1]) > 0:
                return int(words[0]) / int(words[1])
        except (OSError, ValueError):
            continue
    return None
