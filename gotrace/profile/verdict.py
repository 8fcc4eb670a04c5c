"""What is wrong in a process, as `gotrace.verdicts` judges it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Verdict:
    """What is wrong, in one sentence. `evidence` is what it rests on. `certain`: it is shown, and not only likely."""

    kind: str
    text: str
    goroutines: list[int]
    evidence: dict[str, object]
    certain: bool

    @property
    def headline(self) -> str:
        """In one line: ``DEADLOCK: goroutine 13 waits ...``."""
        return f"{self.kind.upper()}{'' if self.certain else ', probably'}: {self.text}"


class VerdictOn(NamedTuple):
    """A verdict on process `pid`."""

    pid: int
    verdict: Verdict
