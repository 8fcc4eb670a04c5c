"""All verdicts on one dump."""

from __future__ import annotations

from gotrace.dump.types import Dump, Verdict
from gotrace.verdicts.deadlocks import deadlocks


def judge(dump: Dump) -> list[Verdict]:
    """The verdicts, certain ones first."""
    found = deadlocks(dump)
    return sorted(found, key=lambda verdict: not verdict.certain)
