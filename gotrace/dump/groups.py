"""Goroutines that differ only in their numbers, together: by stack, state, reason and what they wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from gotrace.common.vocabulary import FrameKind
from gotrace.dump.types import GoroutineState, Situation, WaitedObject
from gotrace.profile.types import Frame
from gotrace.render.text import format_duration, sanitize

_CASES_SHOWN = 4
_OWN = frozenset(("fd", "timer"))
"""Kinds of objects of which every goroutine has its own by design."""


@dataclass(frozen=True)
class Group:
    """Goroutines by id, never none. `frames` are those of all, without descriptors where these differ. `object` is what all of them wait
    for, None if each waits for something else."""

    members: list[GoroutineState]
    frames: tuple[Frame, ...]
    object: WaitedObject | None = field(default=None)

    @property
    def one(self) -> GoroutineState:
        """The first of them."""
        return self.members[0]

    @property
    def oldest_ns(self) -> int | None:
        """The longest wait that is known."""
        return max((one.wait_ns for one in self.members if one.wait_ns is not None), default=None)


def groups(goroutines: Sequence[GoroutineState], with_labels: bool = True) -> list[Group]:
    """The groups, largest first. An object for which only one goroutine waits makes no group of its own."""
    several = _several(goroutines)
    stacks = _BareStacks()
    # By identity first: a crowd in one situation shares its frames, and hashing them would be most of the work.
    known: dict[int, tuple[Situation, tuple[object, ...]]] = {}
    found: dict[object, list[GoroutineState]] = {}
    keys: dict[tuple[object, ...], tuple[object, ...]] = {}
    for one in goroutines:
        at, waited = one.situation, one.object
        place = known.get(id(at))
        if place is None:
            key = _key(at, stacks, with_labels)
            place = known[id(at)] = at, keys.setdefault(key, key)
        thing_of: object = None
        if waited is not None:
            thing_of = waited.kind
            if waited.at in several and (waited.kind, waited.at) in several[waited.at]:
                thing_of = waited.kind, waited.at
        whole = (id(place[1]), thing_of)
        if whole in found:
            found[whole].append(one)
        else:
            found[whole] = [one]
    made = []
    for members in found.values():
        first = members[0]
        at = first.situation
        same = all(one.situation is at for one in members) or len({one.frames for one in members}) == 1
        common = first.object if first.object is not None and (
            len(members) == 1 or first.object.at is not None and all(
                one.object is not None and one.object.at == first.object.at for one in members)) else None
        made.append(Group(members, first.frames if same else stacks.stack(first.frames), common))
    return sorted(made, key=lambda group: (-len(group.members), group.one.id))


def _several(goroutines: Sequence[GoroutineState]) -> dict[int | None, set[tuple[str, int]]]:
    """The objects for which several goroutines wait, by their addresses."""
    found: dict[int | None, dict[tuple[str, int], int]] = {
        one: {} for one, other in pairwise(sorted(_shared_address(one.object) for one in goroutines)) if one == other and one
    }
    for one in goroutines if found else ():
        waited = one.object
        if waited is not None and waited.at in found and waited.at is not None and waited.kind not in _OWN:
            numbers = found[waited.at]
            numbers[waited.kind, waited.at] = numbers.get((waited.kind, waited.at), 0) + 1
    return {at: {thing for thing, number in numbers.items() if number > 1} for at, numbers in found.items()}


def _shared_address(waited: WaitedObject | None) -> int:
    return 0 if waited is None or waited.kind in _OWN else waited.at or 0


def _key(at: Situation, stacks: _BareStacks, with_labels: bool) -> tuple[object, ...]:
    labels = tuple(sorted(at.labels.items())) if with_labels and at.labels else ()
    return at.state, at.reason, stacks.number(at.frames), at.created_by, at.locked_to_thread, labels


class _BareStacks:
    """Stacks without descriptors, each with a number. Stacks share their frames, but for the first: hashing the others takes long."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Frame, ...], int] = {}
        self._stacks: list[tuple[Frame, ...]] = []
        self._known: dict[tuple[object, ...], int] = {}

    def number(self, frames: tuple[Frame, ...]) -> int:
        """The number of the stack. Its frames outlive this."""
        key = (*map(without_descriptor, frames[:1]), *map(id, frames[1:]))
        found = self._known.get(key)
        if found is None:
            without = tuple(map(without_descriptor, frames))
            found = self._known[key] = self._numbers.setdefault(without, len(self._numbers))
            if found == len(self._stacks):
                self._stacks.append(without)
        return found

    def stack(self, frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
        """The stack without descriptors."""
        return self._stacks[self.number(frames)]


def without_descriptor(frame: Frame) -> Frame:
    """The frame without the file that its name mentions: ``read``."""
    if frame.kind is not FrameKind.SYSCALL or "(" not in frame.name:
        return frame
    return frame._replace(name=frame.name.split("(", 1)[0])


def described(kind: str, address: str | None, detail: dict[str, object]) -> str:
    """An object in words: ``chan main.job 0xc000012345, 3 of 3 buffered``."""
    named = {"chan": f"chan {detail.get('elem') or ''}".strip(), "fd": "fd"}.get(kind, kind)
    parts = [f"{sanitize(named, 80)} {address}" if address and kind not in _OWN else sanitize(named, 80)]
    if kind == "chan":
        parts[0] = "a nil channel" if detail.get("nil") else parts[0]
        if detail.get("cap"):
            parts.append(f"{detail['len']:,} of {detail['cap']:,} buffered")
        elif "cap" in detail:
            parts.append("unbuffered")
        parts += ["closed"] if detail.get("closed") else []
    elif kind == "select":
        cases = detail.get("cases")
        parts = [_select(cases if isinstance(cases, list) else [])]
    elif kind == "mutex" and "locked" in detail:
        parts += ["locked" if detail["locked"] else "not locked"] + (["starving"] if detail.get("starving") else [])
    elif kind == "rwmutex" and "writer" in detail:
        parts.append(f"{detail['readers']} readers, writer {detail['writer']}")
    elif kind == "waitgroup" and "counter" in detail:
        parts.append(f"counter {detail['counter']}")
    elif kind == "semaphore" and detail.get("name"):
        parts[0] = str(detail["name"])
    elif kind == "fd":
        parts = [f"fd {detail.get('fd')}{' → ' + sanitize(str(detail['file']), 80) if detail.get('file') else ''}"]
        parts += _moment("deadline", detail.get("deadline_in_ns"))
    return ", ".join(parts + _moment("due", detail.get("due_in_ns")))


def _select(cases: list[dict[str, object]]) -> str:
    named = [f"{case['op'] or 'use'} {described('chan', str(case['address']), case)}" for case in cases[:_CASES_SHOWN]]
    more = len(cases) - len(named)
    return f"select of {'; '.join(named)}{f'; and {more} more' if more else ''}" if named else "select without cases"


def _moment(name: str, left: object) -> list[str]:
    """A deadline that has passed is -1: when it did is not kept."""
    if not isinstance(left, int):
        return []
    if left >= 0:
        return [f"{name} in {format_duration(left)}"]
    return [f"{name} {format_duration(-left)} ago" if left != -1 else f"{name} passed"]
