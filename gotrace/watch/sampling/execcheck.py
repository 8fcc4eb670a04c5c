"""Whether a process still runs the same program, asked no more often than needed: no probe reports an exec."""

from __future__ import annotations

import time

from gotrace.proc.process import Process

_BELIEVED_NS = 80_000_000
"""How long an answer is trusted; longer than the time between two samples."""


class ExecCheck:
    """The check of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._asked_ns = 0
        self._execed = False

    @property
    def execed(self) -> bool:
        """Whether the process has called exec, or ended, by the last answer if that is not old."""
        return self.ask() if time.monotonic_ns() - self._asked_ns > _BELIEVED_NS else self._execed

    def ask(self) -> bool:
        """Asks now."""
        self._asked_ns = time.monotonic_ns()
        self._execed = not self._process.same_program()
        return self._execed
