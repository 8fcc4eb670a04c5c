"""Whether a process's memory cgroup is at its limit."""

from __future__ import annotations

from pathlib import Path

from gotrace.proc.cgroups import groups_of, mounts

_UNLIMITED = 1 << 62
_NEAR = 1 << 20
"""This close to the limit, a few pages can't be had for a copy: the kernel charges cgroups in batches of 64 pages per CPU."""


def memory_limit(pid: int) -> str:
    """Describes a memory cgroup of the process, or one above it, that is at its limit: "/x is at its limit (60 of 60 MB)". "" if none
    is."""
    for version, name in _groups(pid):
        for top in _mounts(version):
            inside = name
            while True:
                folder = Path(top + inside)
                use, most = _figures(folder, version)
                if most is not None and use is not None and most < _UNLIMITED and use + _NEAR >= most:
                    return f"{inside or '/'} is at its limit ({use >> 20:,} of {most >> 20:,} MB)"
                if not inside.strip("/"):
                    break
                inside = inside.rpartition("/")[0]
    return ""


def _groups(pid: int) -> list[tuple[int, str]]:
    return [(group.version, group.path) for group in groups_of(pid) if group.version == 2 or "memory" in group.controllers]


def _mounts(version: int) -> list[str]:
    return mounts().get("memory" if version == 1 else "", [])


def _figures(folder: Path, version: int) -> tuple[int | None, int | None]:
    if version == 1:
        return _number(folder / "memory.usage_in_bytes"), _number(folder / "memory.limit_in_bytes")
    limits = [limit for limit in (_number(folder / "memory.max"), _number(folder / "memory.high")) if limit is not None]
    return _number(folder / "memory.current"), min(limits, default=None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max": no limit
        return None
