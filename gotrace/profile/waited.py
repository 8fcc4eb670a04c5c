"""What goroutines waited for: channels, locks, files. The dimension that ``--objects`` adds to stacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gotrace.common.vocabulary import FrameKind, Part, State
from gotrace.kernel.records import IntervalRow
from gotrace.kernel.waited import MOST_CASES, NO_ROOM, NOT_READ, Reasons, is_of_go
from gotrace.live.objects import CHAN, COND, FD, SELECT, TIMER, of_semaphore
from gotrace.profile.frames import without_waker
from gotrace.profile.things import Waited
from gotrace.profile.types import Distribution, Frame, Profile

UNKNOWN, OTHER = "unknown", "other"
"""Kinds: it could not be read; more objects than are told apart."""
_ALIKE = frozenset(("sleep", "IO wait"))
_NIL = "(nil chan)"
_NEVER = (_NIL, "(no cases)")
"""How the reasons of waits end that never do."""
_FUNCTIONS = 16
"""So many of the innermost ones tell to what a semaphore belongs."""


class ObjectNames:
    """Tells what goroutines of one process waited for. `wait_reasons` are the texts of its Go version by number."""

    def __init__(self, reasons: Reasons, wait_reasons: Sequence[str]) -> None:
        self._reasons = reasons
        self._wait_reasons = wait_reasons

    def of(self, row: IntervalRow, state: State, reason: str, frames: Sequence[Frame]) -> Waited | None:
        """What the intervals of a row waited for, with their state, reason and frames; None where there is no such thing."""
        if row.object is not None:
            thing = next((frame.name for frame in frames if frame.kind is FrameKind.SYSCALL), "")
            return Waited(FD, None, thing.partition("(")[2].removesuffix(")")) if "(" in thing else None
        if state is not State.WAITING or row.part is not Part.MAIN:
            return None
        if reason in _ALIKE or reason.endswith(_NEVER):
            return _without_number(reason)
        number = row.key.reason
        known = number < len(self._wait_reasons) and self._wait_reasons[number] == reason and is_of_go(row.key)
        kind = self._reasons.kind(number) if known else ""
        return self._of_go(row, kind, frames) if kind else None

    def of_sample(self, state: State, reason: str, frames: Sequence[Frame]) -> Waited | None:
        """The same where a sample of memory saw them wait, which knows files alone."""
        thing = next((frame.name for frame in frames if frame.kind is FrameKind.SYSCALL and "(fd " in frame.name), "")
        if thing:
            return Waited(FD, None, thing.partition("(")[2].removesuffix(")"))
        if state is not State.WAITING or reason not in self._wait_reasons:
            return None
        if reason in _ALIKE or reason.endswith(_NEVER):
            return _without_number(reason)
        return Waited(UNKNOWN) if self._reasons.kind(self._wait_reasons.index(reason)) else None

    def _of_go(self, row: IntervalRow, kind: str, frames: Sequence[Frame]) -> Waited:
        number = row.key.object
        if number in (0, NOT_READ):
            return Waited(UNKNOWN)
        if number == NO_ROOM:
            return Waited(OTHER)
        if kind == SELECT:
            if row.cases is None:
                return Waited(UNKNOWN)
            cases, channels = row.cases
            count = f"more than {MOST_CASES}" if cases > MOST_CASES else str(cases)
            more = f" and others, {count} in all" if cases > len(channels) else ""
            return Waited(SELECT, None, ", ".join(f"chan {channel:#x}" for channel in channels) + more)
        if kind in (CHAN, COND):
            return Waited(kind, number)
        functions = [frame.name for frame in frames if frame.kind in (FrameKind.GO, FrameKind.RUNTIME)]
        found, address, _op = of_semaphore(number, functions[:_FUNCTIONS])
        return Waited(found, address)


def _without_number(reason: str) -> Waited:
    """What is waited for where no number tells it."""
    if reason == "sleep":
        return Waited(TIMER)
    if reason == "IO wait":
        return Waited(UNKNOWN)
    return Waited(CHAN, None, "nil") if reason.endswith(_NIL) else Waited(SELECT, None, "no cases")


@dataclass(slots=True)
class ObjectWaits:
    """All waits for one object of one process. `goroutines`: how many waited, where one that waited at several places counts at each.
    `stacks` are indexes of the profile's stacks."""

    waited: Waited
    pid: int
    distribution: Distribution = field(default_factory=Distribution)
    goroutines: int = 0
    in_progress: int = 0
    stacks: list[int] = field(default_factory=list)


def waits_by_object(profile: Profile) -> list[ObjectWaits]:
    """The waits of each object, largest total first; [] if objects were not asked for."""
    found: dict[tuple[int, Waited], ObjectWaits] = {}
    places: dict[tuple[int, Waited], dict[tuple[object, ...], int]] = {}
    for index, stack in enumerate(profile.stacks):
        if stack.waited is None:
            continue
        key = stack.pid, stack.waited
        one = found.setdefault(key, ObjectWaits(stack.waited, stack.pid))
        one.distribution.add(stack.distribution)
        one.in_progress += stack.in_progress
        one.stacks.append(index)
        # Stacks that differ only in their waker have the same goroutines.
        place = (without_waker(stack.frames), stack.reason, stack.goid)
        of_place = places.setdefault(key, {})
        of_place[place] = max(of_place.get(place, 0), stack.goroutines)
    for key, one in found.items():
        one.goroutines = sum(places[key].values())
    return sorted(found.values(), key=lambda one: -one.distribution.total_ns)
