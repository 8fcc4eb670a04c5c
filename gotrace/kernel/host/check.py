"""A finding, and making one by a trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gotrace.common.errors import GotraceError


@dataclass(frozen=True)
class Check:
    """One finding. `needed`: attach can't work without it. `fix` is empty if nothing needs fixing."""

    name: str
    needed: bool
    ok: bool
    why: str
    fix: str = ""


def tried(name: str, needed: bool, attempt: Callable[[], str], fix: str, without: str = "") -> Check:
    """Returns the finding of `attempt`: its result, or the error that it raises. `without` says what is lost in that case."""
    try:
        return Check(name, needed, True, attempt())
    except (GotraceError, OSError) as error:
        why = str(error.strerror or error) if isinstance(error, OSError) else str(error)
        hint = getattr(error, "hint", None)
        hint = fix if hint in (None, "gotrace doctor") else hint  # that is where we are
        return Check(name, needed, False, f"{why}: {without}" if without else why, hint)
