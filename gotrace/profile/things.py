"""What a goroutine waits for, as a profile has it."""

from __future__ import annotations

from typing import NamedTuple


class Waited(NamedTuple):
    """What goroutines waited for: a ``chan``, ``select``, ``mutex``, ``rwmutex``, ``waitgroup``, ``cond``, ``semaphore``, ``fd`` or
    ``timer``; ``unknown`` where it could not be read, ``other`` where there was no room for another one. `address` is None for what has
    none, or more than one; `text` says the rest: a file, the channels of a select."""

    kind: str
    address: int | None = None
    text: str = ""

    @property
    def label(self) -> str:
        """In one line: ``mutex 0xc000012345``."""
        if self.kind == "fd":
            return self.text
        if self.kind in ("unknown", "other"):
            return f"{self.kind} object" + "s" * (self.kind == "other")
        address = f" {self.address:#x}" if self.address is not None else ""
        return self.kind + address + (f" ({self.text})" if self.text else "")
