"""What a process has in its epoll sets (proc(5): /proc/PID/fdinfo)."""

from __future__ import annotations

import os
from pathlib import Path

from gotrace.proc.memory import living_thread

_MOST = 1 << 18


def watched_descriptors(pid: int) -> list[tuple[int, int]]:
    """(descriptor, the 64 bits that the process gave with it to epoll_ctl) of every file in every epoll set.

    Raises:
        ProcessLookupError: the process is gone.
    """
    found: list[tuple[int, int]] = []
    pid = living_thread(pid) or pid  # a main thread that has ended has no descriptors any more
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{number}") != "anon_inode:[eventpoll]":
                continue
            lines = Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines()
        except OSError:
            continue
        for line in lines[:_MOST]:
            # "tfd:        8 events:       19 data: c000123456  pos:0 ino:2d91 sdev:e"
            fields = line.split()
            if len(fields) >= 6 and fields[0] == "tfd:" and fields[4] == "data:":
                found.append((int(fields[1]), int(fields[5], 16)))
    return found[:_MOST]
