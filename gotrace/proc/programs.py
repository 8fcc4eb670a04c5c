"""Other programs of a process that is not a Go program itself: what a loader runs in it, and its descendants."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import struct
import time
from collections.abc import Iterator

from gotrace.proc.memory import Mapping, mappings

_BUILD_INFO = b"\xff Go buildinf:"
_LARGEST = 1 << 30
_DEPTH, _PROCESSES, _PATIENCE_S = 8, 512, 2.0
_PT_LOAD, _PT_INTERP, _PF_X = 1, 3, 1
_ET_EXEC = 2


def loaded_program(pid: int, exe_fd: int) -> tuple[int, str, int] | None:
    """The Go program that the process runs through its executable, a dynamic loader: (open file, path, bias). The caller closes the
    file."""
    own, seen = os.fstat(exe_fd), set()
    for mapping in mappings(pid):
        if "x" not in mapping.flags or not mapping.inode or mapping.inode == own.st_ino or (mapping.device, mapping.inode) in seen:
            continue
        seen.add((mapping.device, mapping.inode))
        fd = _open_mapped(pid, mapping)
        if fd is None:
            continue
        bias = _bias(fd, mapping) if _is_go(fd) else None
        if bias is not None:
            return fd, mapping.path.removesuffix(" (deleted)"), bias
        os.close(fd)
    return None


def go_descendants(pid: int) -> list[tuple[int, str]]:
    """(pid, name) of the descendants that run Go programs, nearest first."""
    found: list[tuple[int, str]] = []
    deadline, asked = time.monotonic() + _PATIENCE_S, 0
    generation = [pid]
    for _ in range(_DEPTH):
        generation = [child for parent in generation for child in _children(parent)]
        for child in generation:
            asked += 1
            if asked > _PROCESSES or time.monotonic() > deadline:
                return found
            with contextlib.suppress(OSError):
                fd = os.open(f"/proc/{child}/exe", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if _is_go(fd):
                        found.append((child, os.path.basename(os.readlink(f"/proc/{child}/exe").removesuffix(" (deleted)"))))
                finally:
                    os.close(fd)
    return found


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                yield from map(int, file.read(1 << 16).split()[:_PROCESSES])


def _open_mapped(pid: int, mapping: Mapping) -> int | None:
    for path in (f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}", f"/proc/{pid}/root{mapping.path}"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError):
            continue
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and status.st_ino == mapping.inode:
            return fd
        os.close(fd)
    return None


def _is_go(fd: int) -> bool:
    size = os.fstat(fd).st_size
    if not 64 <= size <= _LARGEST:
        return False
    try:
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as data:
            return data[:4] == b"\x7fELF" and data.find(_BUILD_INFO) >= 0
    except (OSError, ValueError):
        return False


def _bias(fd: int, mapping: Mapping) -> int | None:
    """The distance of the file from its link-time addresses. None if it is a library, not a program."""
    head = os.pread(fd, 64, 0).ljust(64, b"\0")
    kind, = struct.unpack_from("<H", head, 16)
    headers, = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    if size < 56 or headers > 1 << 20:
        return None
    table = os.pread(fd, size * min(count, 256), headers)
    segments = [struct.unpack_from("<IIQQQQ", table, at) for at in range(0, len(table) - 55, size)]
    if kind != _ET_EXEC and not any(segment[0] == _PT_INTERP for segment in segments):
        return None
    offset: int
    address: int
    for kind, flags, offset, address, _, file_size in segments:
        if kind == _PT_LOAD and flags & _PF_X and offset - 4096 < mapping.offset < offset + file_size:
            return mapping.start - address + offset - mapping.offset
    return None
