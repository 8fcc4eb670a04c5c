"""Control groups that a test makes, and removes whatever happens."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from faults import remove_cgroup
from prerequisites import unavailable

_V1, _V2 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup")


@contextlib.contextmanager
def group(path: str, controller: str, settings: dict[str, str] | None = None) -> Iterator[Path]:
    """The folder of the group `path` (as /proc/PID/cgroup has it) in the hierarchy with that controller. `settings` are contents of files:
    of version 1 or 2, whichever is there."""
    own_hierarchy = (_V1 / controller).is_dir()
    top = _V1 / controller if own_hierarchy else _V2
    folder = top
    made = []
    try:
        for part in path.strip("/").split("/"):
            folder = folder / part
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
            if not own_hierarchy and folder != top / path.strip("/"):
                (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        for name, value in (settings or {}).items():
            if (folder / name).exists():
                (folder / name).write_text(value)
        yield folder
    except OSError as error:
        unavailable(f"no control group can be made: {error} (remedy: mount the {controller} controller writable)")
    finally:
        for each in reversed(made):
            for pid in (each / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    (top / "cgroup.procs").write_text(pid)
            remove_cgroup(each)


def enter(folder: Path, *pids: int) -> None:
    """Moves processes into a group."""
    for pid in pids or (os.getpid(),):
        (folder / "cgroup.procs").write_text(str(pid))
