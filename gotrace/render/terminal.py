"""A terminal, or a reader of our messages, that goes away during a trace: no reason to lose the trace."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import IO

HUNG_UP = (errno.EIO,)
"""The errors of a write to a terminal that has gone."""
NOBODY_READS = (errno.EIO, errno.EPIPE)


class LastingStream:
    """Writes to `stream` until a write fails with one of `errors`; discards everything after that."""

    def __init__(self, stream: IO[str], errors: tuple[int, ...]) -> None:
        self._stream = stream
        self._errors = errors

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As for any text stream."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """As for any text stream."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if error.errno not in self._errors:
            raise error
        discard(self._stream.fileno())
        with contextlib.suppress(OSError):
            self._stream.flush()


def lasting(stream: IO[str] | None, errors: tuple[int, ...]) -> IO[str] | None:
    """`stream` as a LastingStream; None, Python's value for a closed descriptor, stays None."""
    return None if stream is None else LastingStream(stream, errors)  # type: ignore[return-value]


def discard(fd: int) -> None:
    """Discards what is written to `fd` from now on, including what is still buffered for it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, fd)
    os.close(nowhere)
