"""Goroutines that differ only in their numbers, together: by stack, state, reason and what they wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gotrace.common.vocabulary import FrameKind
from gotrace.dump.types import GoroutineState, WaitedObject
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
    waiters = Counter((one.object.kind, one.object.address) for one in goroutines if one.object is not None)
    bare: dict[tuple[Frame, ...], tuple[Frame, ...]] = {}
    found: dict[tuple[object, ...], list[GoroutineState]] = {}
    for one in goroutines:
        if one.frames not in bare:
            bare[one.frames] = tuple(map(without_descriptor, one.frames))
        waited = one.object
        identity: object = waited.kind if waited is not None else None
        if waited is not None and waited.address and waited.kind not in _OWN and waiters[waited.kind, waited.address] > 1:
            identity = (waited.kind, waited.address)
        labels = tuple(sorted(one.labels.items())) if with_labels else ()
        key = (one.state, one.reason, bare[one.frames], one.created_by, one.locked_to_thread, labels, identity)
        found.setdefault(key, []).append(one)
    made = []
    for members in found.values():
        same = len({one.frames for one in members}) == 1
        things = {(one.object.kind, one.object.address) for one in members if one.object is not None}
        common = members[0].object if len(things) == 1 and members[0].object is not None and (
            len(members) == 1 or members[0].object.address is not None) else None
        made.append(Group(members, members[0].frames if same else bare[members[0].frames], common))
    return sorted(made, key=lambda group: (-len(group.members), group.one.id))


def without_descriptor(frame: Frame) -> Frame:
    """The frame without the file that its name mentions: ``read``."""
    if frame.kind is not FrameKind.SYSCALL or "(" not in frame.name:
        return frame
    return replace(frame, name=frame.name.split("(", 1)[0])


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
