"""The objects of a dump: what each goroutine waits for, and per object who waits for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import overload

from gotrace.dump.types import GoroutineState, ObjectState, WaitedObject
from gotrace.live.channels import Case
from gotrace.live.objects import CHAN, FD, SELECT, Waited
from gotrace.profile.types import Frame

_FILE = re.compile(r"\(fd -?\d+ → (.+)\)$")
_MOST_KNOWN = 1 << 16

KnownDetails = dict[object, dict[str, object]]
"""Details that many objects share, such as those of all empty channels of one type."""


def waited_object(waited: Waited, now_ns: int, frames: Sequence[Frame], known: KnownDetails | None = None) -> WaitedObject:
    """The record for the dump. Moments become durations from `now_ns` on: negative ones have passed. Equal details are in `known` once."""
    known = known if known is not None else {}
    if waited.kind == CHAN and waited.cases or waited.kind == SELECT:
        return waited_channels(waited.cases, waited.kind == SELECT, now_ns, known)
    detail = dict(waited.detail)
    if waited.kind == FD:
        texts = [match[1] for frame in frames if (match := _FILE.search(frame.name))]
        detail["file"] = texts[0] if texts else ""
        deadline = detail.pop("deadline_ns")
        detail["deadline_in_ns"] = deadline - now_ns if isinstance(deadline, int) and deadline >= 0 else deadline
    elif isinstance(due := detail.pop("due_ns", None), int):
        return WaitedObject(waited.kind, waited.address, {**detail, "due_in_ns": due - now_ns} if detail else due - now_ns)
    if isinstance(locker := detail.get("locker"), int):
        detail["locker"] = hexadecimal(locker)
    return WaitedObject(waited.kind, waited.address, _shared(known, (waited.kind, *detail.items()), detail))


def waited_channels(cases: Sequence[Case], is_select: bool, now_ns: int, known: KnownDetails) -> WaitedObject:
    """The record of operations on channels, of which there is one outside a select."""
    if not is_select:
        return WaitedObject(CHAN, cases[0].channel.address, _case(cases[0], now_ns, known))
    return WaitedObject(SELECT, None, tuple(part for case in cases for part in (case.channel.address, _case(case, now_ns, known))))


def _shared(known: KnownDetails, key: object, detail: dict[str, object]) -> dict[str, object]:
    if len(known) >= _MOST_KNOWN:
        known.clear()
    return known.setdefault(key, detail)


def hexadecimal(address: int) -> str:
    """As Go prints pointers."""
    return f"{address:#x}"


def _case(case: Case, now_ns: int, known: KnownDetails) -> dict[str, object]:
    channel = case.channel
    key = case.op, channel[1:6]
    shared = known.get(key)
    if shared is None:
        shared = _shared(known, key, {
            "op": case.op, "len": channel.length, "cap": channel.capacity, "closed": channel.closed,
            "elem": channel.elem, "elem_size": channel.elem_size,
        })
    return {**shared, "due_in_ns": channel.due_ns - now_ns} if channel.due_ns is not None else shared


_Single = tuple[int, dict[str, object], GoroutineState]


class Objects(Sequence[ObjectState]):
    """The objects for which goroutines wait, those with the most waiters first. A select waits for each of its channels. Those with one
    waiter are made when they are asked for: there may be as many as goroutines."""

    def __init__(self, goroutines: Sequence[GoroutineState]) -> None:
        self._goroutines = goroutines
        pairs = pairwise(sorted(at for one in goroutines for at in _addresses(one.object)))
        self._several = {one for one, other in pairs if one == other}
        found: dict[tuple[str, int], tuple[dict[str, object], list[GoroutineState]]] = {}
        for one in goroutines if self._several else ():
            for at in _addresses(one.object):
                if at in self._several:
                    break
            else:
                continue
            for kind, at, detail in addressed_at(one.object):
                if at in self._several:
                    if (kind, at) not in found:
                        found[kind, at] = ({name: value for name, value in detail.items() if name != "op"}, [])
                    members = found[kind, at][1]
                    if not members or members[-1] is not one:
                        members.append(one)
        made = [_object(kind, at, members, detail) for (kind, at), (detail, members) in found.items()]
        self._shared = sorted(made, key=lambda one: (-one.waiters, one.kind, int(one.address, 16)))

    def __len__(self) -> int:
        return len(self._shared) + sum(at not in self._several for one in self._goroutines for at in _addresses(one.object))

    def __iter__(self) -> Iterator[ObjectState]:
        yield from self._shared
        singles: dict[str, list[_Single]] = {}
        for one in self._goroutines:
            for kind, at, detail in addressed_at(one.object):
                if at not in self._several:
                    singles.setdefault(kind, []).append((at, detail, one))
        for kind in sorted(singles):
            singles[kind].sort(key=itemgetter(0))
            for at, detail, one in singles[kind]:
                yield _object(kind, at, [one], {name: value for name, value in detail.items() if name != "op"})

    @overload
    def __getitem__(self, index: int) -> ObjectState: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ObjectState]: ...

    def __getitem__(self, index: int | slice) -> ObjectState | Sequence[ObjectState]:
        return list(self)[index]

    @property
    def shared(self) -> list[ObjectState]:
        """Those with more than one waiter."""
        return [one for one in self._shared if one.waiters > 1]


def _object(kind: str, at: int, members: list[GoroutineState], detail: dict[str, object]) -> ObjectState:
    oldest = max((one.wait_ns for one in members if one.wait_ns is not None), default=None)
    return ObjectState(kind, hexadecimal(at), len(members), oldest, detail, [one.id for one in members])


def objects_of(goroutines: Sequence[GoroutineState]) -> Objects:
    """All objects that goroutines wait for."""
    return Objects(goroutines)


def several_waiters(objects: Sequence[ObjectState]) -> list[ObjectState]:
    """Those for which several goroutines wait."""
    return objects.shared if isinstance(objects, Objects) else [one for one in objects if one.waiters > 1]


def _addresses(waited: WaitedObject | None) -> Sequence[int]:
    return waited.addresses if waited is not None else ()


def addressed_at(waited: WaitedObject | None) -> list[tuple[str, int, dict[str, object]]]:
    """(kind, address, detail) of each thing with an address that it waits for."""
    if waited is None:
        return []
    if waited.kind == SELECT:
        return [(CHAN, at, detail) for at, detail in waited.cases]
    return [(waited.kind, waited.at, waited.detail)] if waited.at is not None else []


def addressed(waited: WaitedObject | None) -> list[tuple[str, str, dict[str, object]]]:
    """The same with addresses in hexadecimal."""
    return [(kind, hexadecimal(at), detail) for kind, at, detail in addressed_at(waited)]
