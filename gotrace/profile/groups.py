"""Stacks as a reader counts them: one entry per place in the program, with its wakers and objects as shares."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from gotrace.common.vocabulary import FrameKind
from gotrace.profile.frames import plain_name, waker_of
from gotrace.profile.subwindows import with_length
from gotrace.profile.types import Distribution, Frame, StackStat


@dataclass
class Group:
    """Stacks that differ only in waker and in file or socket: `members` are their indexes, in the order given. `wakers` and `objects` give
    nanoseconds by name. The distribution, the sub-windows and the rest of `stack` cover all of them; with a single member `stack` may be
    that member itself."""

    stack: StackStat
    members: list[int] = field(default_factory=list)
    wakers: dict[str, int] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)


def grouped(stacks: Iterable[StackStat], bounds: bool = False) -> list[Group]:
    """Groups stacks, largest total first. `bounds`: margins are bounds and add up; otherwise they are those of independent estimates."""
    groups: dict[tuple[object, ...], Group] = {}
    bare = _Bare()
    for index, stack in enumerate(stacks):
        frames, numbers, thing = bare(stack.frames)
        key = (stack.pid, numbers, stack.state.value, stack.reason, stack.goid, stack.labels)
        group = groups.get(key)
        if group is None:
            # Most of tens of thousands of places have one stack: its figures are not copied.
            group = groups[key] = Group(stack if len(frames) == len(stack.frames) and not thing else replace(stack, frames=frames))
        else:
            if len(group.members) == 1:
                group.stack = _copied(group.stack)
                group.stack.goroutines = group.stack.goroutines_there or group.stack.goroutines
            _add(group.stack, stack, bounds)
        group.members.append(index)
        total_ns = stack.distribution.total_ns
        thing = thing or (stack.waited.label if stack.waited is not None else "")
        if thing:
            group.objects[thing] = group.objects.get(thing, 0) + total_ns
        waker = waker_of(stack.frames) if len(frames) < len(stack.frames) else ()
        if waker:
            # The waker's leaf: the function that woke the goroutine.
            name = plain_name(waker[-1].name)
            group.wakers[name] = group.wakers.get(name, 0) + total_ns
    for group in groups.values():
        rows = group.stack.subwindows
        if rows and len(group.members) > 1:
            group.stack.subwindows = with_length(rows, max(row.duration_ns for row in rows))
    return sorted(groups.values(), key=lambda group: -group.stack.distribution.total_ns)


def _copied(stack: StackStat) -> StackStat:
    """A copy whose figures may be added to."""
    distribution = Distribution()
    distribution.add(stack.distribution)
    return replace(stack, distribution=distribution, subwindows=list(stack.subwindows))


def _add(group: StackStat, stack: StackStat, bounds: bool) -> None:
    group.distribution.add(stack.distribution)
    # Goroutines are counted per place in the program: each of these stacks has the same number.
    group.goroutines = max(group.goroutines, stack.goroutines_there or stack.goroutines)
    group.in_progress += stack.in_progress
    group.late_ns += stack.late_ns
    if stack.margin_ns is not None:
        so_far = group.margin_ns or 0
        group.margin_ns = so_far + stack.margin_ns if bounds else round(math.hypot(so_far, stack.margin_ns))
    group.subwindows += stack.subwindows


class _Bare:
    """Stacks without wakers and objects, and with a number for each frame: hashing frames would be most of the work."""

    def __init__(self) -> None:
        self._numbers: dict[Frame, int] = {}
        # By identity: stacks share their frames, and the references kept here keep the identities valid.
        self._known: dict[int, tuple[Frame, Frame | None, int, str]] = {}

    def __call__(self, frames: tuple[Frame, ...]) -> tuple[tuple[Frame, ...], tuple[int, ...], str]:
        kept, numbers, thing = [], [], ""
        for frame in frames:
            known = self._known.get(id(frame))
            if known is None:
                known = self._known[id(frame)] = self._shown(frame)
            _, shown, number, what = known
            if shown is not None:
                kept.append(shown)
                numbers.append(number)
                thing = what or thing
        return tuple(kept), tuple(numbers), thing

    def _shown(self, frame: Frame) -> tuple[Frame, Frame | None, int, str]:
        if frame.kind is FrameKind.WAKER:
            return frame, None, -1, ""
        shown, what = frame, ""
        if frame.kind is FrameKind.SYSCALL and "(" in frame.name:
            name, _, rest = frame.name.partition("(")
            shown, what = frame._replace(name=name), rest.removesuffix(")")
        return frame, shown, self._numbers.setdefault(shown, len(self._numbers)), what
