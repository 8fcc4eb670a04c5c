"""Work that a file system may block forever, done in a process of its own.

A thread in an uninterruptible sleep (a FUSE request that its daemon has taken, NFS on a hard mount) can't be ended, and neither can its
process: a signal, even SIGKILL, takes effect only when the answer arrives. So only a child process may wait; if it does not return, it
is abandoned.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
import warnings
from collections.abc import Callable

SILENT_S = 5.0
"""How long a file system may be silent."""
_COPIED = 4 << 20


class NoAnswer(Exception):
    """The file system was silent for too long."""


def aside(work: Callable[[Callable[[], None]], None], silent_s: float = SILENT_S) -> None:
    """Runs `work` in a child process; it gets a function to call whenever it has made progress.

    Raises:
        NoAnswer: `work` made no progress for `silent_s`.
        OSError: raised by `work`.
    """
    here, there = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child makes a few system calls, whatever other threads hold
        child = os.fork()
    if not child:
        _run(work, there)
    os.close(there)
    ended = False
    try:
        while True:
            if not select.select([here], [], [], silent_s)[0]:
                raise NoAnswer
            said = os.read(here, 64)
            ended = not said or said[-1:] != b"."
            if not said:
                raise OSError(errno.EIO, "the process that reads it was killed")
            if ended:
                code = int(said.lstrip(b"."))
                if code:
                    raise OSError(code, os.strerror(code))
                return
    finally:
        os.close(here)
        _forget(child, ended)


def _run(work: Callable[[Callable[[], None]], None], there: int) -> None:
    def going_on() -> None:
        os.write(there, b".")

    code = errno.EIO
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        work(going_on)
        code = 0
    except OSError as error:
        code = error.errno or errno.EIO
    finally:
        try:
            os.write(there, b"%d" % code)  # at once: a pipe takes up to PIPE_BUF bytes in one piece
        finally:
            os._exit(0)


def _forget(child: int, ended: bool) -> None:
    """Abandons a child that may be closing a file that the file system does not release: waits for it only a moment."""
    if not ended:
        os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 0.05
    while os.waitpid(child, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.002)


def copy_file(path: str, name: str, most: int, user: tuple[int, int] | None = None, silent_s: float = SILENT_S) -> int:
    """Returns a descriptor of an in-memory copy of the file at `path`, of at most `most` + 1 bytes; raises as `aside`. With `user`, a uid
    and a gid, that user reads it."""
    copy = os.memfd_create(name[-200:], os.MFD_CLOEXEC)

    def work(going_on: Callable[[], None]) -> None:
        if user is not None:
            # Their debugger can't attach to this process: with new ids it is no longer dumpable (kernel/cred.c: commit_creds).
            os.setgroups([])
            os.setresgid(user[1], user[1], user[1])
            os.setresuid(user[0], user[0], user[0])
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        at = 0
        while at <= most:
            part = os.pread(source, min(_COPIED, most + 1 - at), at)
            if not part:
                break
            at += os.pwrite(copy, part, at)
            going_on()

    try:
        aside(work, silent_s)
    except BaseException:
        os.close(copy)
        raise
    return copy


def asked(path: str, silent_s: float = SILENT_S) -> None:
    """Opens the file at `path` and reads a page, to find out whether that works; raises as `aside`."""

    def work(_going_on: Callable[[], None]) -> None:
        os.read(os.open(path, os.O_RDONLY | os.O_CLOEXEC), 4096)

    aside(work, silent_s)
