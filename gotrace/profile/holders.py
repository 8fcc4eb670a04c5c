"""Who held locks while others waited for them. Go keeps no owner: it is known by who ended the waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from gotrace.profile.frames import is_program
from gotrace.profile.things import Waited
from gotrace.profile.types import Frame

RUNNING, NOT_KNOWN = "running", "not known"
RUNNING_OR_NOT = "running, or in the kernel"
"""Where it is not known what the kernel does with threads."""
_TOLD = 3
_SURE = 0.95
"""From this share on that is sure, "at most" is left out."""


class HolderWait(NamedTuple):
    """What a holder did while it held the lock, and for how long: it waited, it ran (`RUNNING`, `RUNNING_OR_NOT`), or it is not known
    (`NOT_KNOWN`)."""

    text: str
    total_ns: int


@dataclass(slots=True)
class Holder:
    """Goroutines that unlocked a lock with the same stack, `frames`, leaf first. `held_ns`: for how long at most they held it while others
    waited; `sure_ns`: of that, as far as unlocks tell. `reading`: they held it with others for reading, and were the last to leave.
    `waits` are the largest of those that add up to `held_ns`."""

    frames: tuple[Frame, ...]
    held_ns: int
    sure_ns: int
    count: int
    reading: bool
    waits: list[HolderWait] = field(default_factory=list)

    @property
    def place(self) -> str:
        """The innermost function of the program's own; of others where there is none."""
        own = next((frame.name for frame in self.frames if is_program(frame)), "")
        return own or next((frame.name for frame in self.frames if not frame.name.startswith(("runtime.", "sync.", "internal/"))), "?")


@dataclass(slots=True)
class LockHolders:
    """A lock of process `pid`. `contended_ns`: for how long at least one goroutine waited for it; `explained_ns`: how much of that is known
    to belong to a holder. `holders`: those with most time first."""

    waited: Waited
    pid: int
    contended_ns: int = 0
    explained_ns: int = 0
    holders: list[Holder] = field(default_factory=list)


def told(lock: LockHolders, percent: Callable[[int, int], str]) -> list[str]:
    """Who held a lock, a line each; `percent` puts a share into words. Holders that unlock in one function are one."""
    if not lock.holders:
        return ["who held it is not known: no unlock that ended a wait was seen"]
    places: dict[tuple[str, bool], tuple[int, int, dict[str, int]]] = {}
    for one in lock.holders:
        held, sure, did = places.get((one.place, one.reading), (0, 0, {}))
        for wait in one.waits:
            did[wait.text] = did.get(wait.text, 0) + wait.total_ns
        places[one.place, one.reading] = held + one.held_ns, sure + one.sure_ns, did
    lines = []
    for (place, reading), (held, sure, did) in sorted(places.items(), key=lambda item: -item[1][0])[:_TOLD]:
        most = "at most " if sure < _SURE * held else ""
        who = f"readers, {place} the last of them" if reading else place
        text, amount = max(did.items(), key=lambda item: item[1], default=("", 0))
        how = text if text in (RUNNING, RUNNING_OR_NOT, NOT_KNOWN) else f"in {text}"
        spent = f", which spent {percent(amount, held)} of it {how}" if amount else ""
        lines.append(f"held {most}{percent(held, lock.contended_ns)} of that time by {who}{spent}")
    return lines


def summed_up(lock: LockHolders, percent: Callable[[int, int], str], duration: Callable[[int], str]) -> str:
    """For how long was waited for a lock, and of how much of it is known who held it."""
    explained = percent(lock.explained_ns, lock.contended_ns)
    return f"somebody waited for {duration(lock.contended_ns)}; who held the lock is known of {explained} of that"
