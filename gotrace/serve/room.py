"""How much captures may take on disk, and which of them are deleted first."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from gotrace.common.files import as_invoking_user

ASKED = ("request", "signal")
"""Kinds of captures that somebody has asked for: they make room before those of triggers and alerts, and have it in their name."""
_OURS = re.compile(
    r"(gotrace-.{1,64}-\d{1,10}-(\d{8}T\d{6}(?:\.\d)?)(-request|-signal)?)\.(?:gotrace|html|dump\.json|gotrace-wal|gotrace-shm)"
)


def make_room(folder: Path, most_bytes: int, lacking: int = 0, latest: Collection[str] = ()) -> int:
    """Deletes the oldest captures, with what belongs to them, until the rest is small enough, and at least `lacking` bytes are deleted;
    those that somebody has asked for first. That with a file of `latest` stays, else the latest one: by its name, which has the local time,
    it need not be the last. Returns how many captures were deleted."""
    sets: dict[str, tuple[tuple[bool, bool, str], int, list[Path]]] = {}
    deleted = freed = 0
    with as_invoking_user(folder):
        for entry in os.scandir(folder):
            match = _OURS.fullmatch(entry.name)
            if match is None:
                continue
            with suppress(FileNotFoundError):  # somebody else has deleted it
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    (stays, _, _), size, paths = sets.get(match[1], ((False, False, ""), 0, []))
                    order = stays or entry.name in latest, match[3] is None, match[2]
                    sets[match[1]] = order, size + status.st_blocks * 512, [*paths, Path(entry.path)]
        oldest = sorted(sets.values(), key=lambda one: one[0])
        total = sum(size for _, size, _ in oldest)
        for _, size, paths in oldest[:-1]:
            if total <= most_bytes and freed >= lacking:
                break
            for path in paths:
                path.unlink(missing_ok=True)
            total -= size
            freed += size
            deleted += 1
    return deleted


def free_bytes(folder: Path) -> int:
    """How much may be written to its disk; a lot where that is not known."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return 1 << 62
    return found.f_bavail * found.f_frsize
