"""Ctrl-C ends gotrace within a second, even if its main thread waits for a file system that does not answer.

Python runs signal handlers in the main thread. While that is in an uninterruptible or killable sleep, a signal stays pending. A thread of
its own detects that, and ends the process. One delay remains: the kernel releases a process only when FUSE has answered for the files
that the process has open there (fs/fuse/file.c: fuse_flush), such as a capture on such a mount.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from gotrace.common.errors import EXIT_INTERRUPTED

_CHECK_S = 0.1
_HUNG_S = 0.5
"""How long the main thread must have made no progress: with the checks before and after, Ctrl-C ends within a second."""
_SLOW_S = 10.0
_DISK = ("jbd2", "xlog", "xfs", "btrfs", "blk", "io_schedule", "submit_bio_wait", "wait_on_buffer", "bit_wait_io")
"""Beginnings of kernel functions that wait for what may be slow but does return: this machine's disks."""
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MASK = sum(1 << number - 1 for number in _ENDING)

_ASKED = ("request_wait_answer", "fuse_", "rpc_", "nfs", "wait_for_response", "cifs", "smb", "autofs", "p9_", "ceph", "netfs")
"""Likewise, for waits on another party. FUSE waits for the answer interruptibly at first, until there is a signal, then not."""

_told = threading.Event()


def told_to_end() -> None:
    """Notes that a signal handler has told gotrace to end."""
    _told.set()


def watch() -> None:
    """Begins to watch the calling thread, once per process."""
    threading.Thread(target=_watch, args=(threading.get_native_id(),), name="interrupts", daemon=True).start()


def _watch(tid: int) -> None:
    place: tuple[str, ...] = ()
    since = 0.0
    while True:
        time.sleep(_CHECK_S)
        if not _told.is_set() and not _pending():
            place = ()
            continue
        now = _asleep(tid)
        if not now or now != place:
            place, since = now, time.monotonic()
        elif time.monotonic() - since > (_SLOW_S if now[-1].startswith(_DISK) else _HUNG_S):
            _end(now[-1])


def _pending() -> bool:
    """Whether the main thread has not yet seen a signal that is to end us. False if that can't be checked: no descriptor is left."""
    try:
        with open("/proc/self/status", "rb", buffering=0) as file:
            status = file.read(4096)
    except OSError:
        return False
    at = status.find(b"ShdPnd:")
    pending = int(status[at + 7 : status.index(b"\n", at)], 16) if at >= 0 else 0
    return bool(pending & _MASK)


def _asleep(tid: int) -> tuple[str, ...]:
    """(number of switches, kernel function) of a thread that sleeps where no signal wakes it, or for a file system; else ()."""
    try:
        with open(f"/proc/self/task/{tid}/status", encoding="ascii", errors="replace") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
        with open(f"/proc/self/task/{tid}/wchan", encoding="ascii", errors="replace") as file:
            where = file.read(200)
        if lines.get("State", "").strip().startswith("D") or where.startswith(_ASKED):
            return lines.get("voluntary_ctxt_switches", ""), where
        return ()
    except OSError:
        return ()


def _end(where: str) -> None:
    text = (
        f"error: interrupted while waiting for a file system that does not answer ({where if where.isidentifier() else 'unknown'})\n"
        "hint: outputs may be missing; no probe stays\n"
    )
    saying = threading.Thread(target=lambda: os.write(2, text.encode()), daemon=True)  # the write may block as well
    saying.start()
    saying.join(0.1)
    os._exit(EXIT_INTERRUPTED)
