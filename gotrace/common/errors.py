"""Errors that reach a user: what failed and the observed fact, then a hint with the exact next step, then an exit code."""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_INTERRUPTED = 130


class GotraceError(Exception):
    """Something failed. `hint` is the command or flag that fixes it, or None if there is none."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(GotraceError):
    """The command line asks for something impossible (exit code 2)."""

    exit_code = EXIT_USAGE


class Refused(GotraceError):
    """The environment or the target can't be traced (exit code 3)."""

    exit_code = EXIT_REFUSED


class TargetGone(GotraceError):
    """The target ended before tracing began (exit code 1)."""


class BadBinary(Refused):
    """The file is not a Go executable that gotrace can read, or its contents contradict themselves."""


class Interrupted(GotraceError):
    """Interrupted before anything was recorded (exit code 130)."""

    exit_code = EXIT_INTERRUPTED
