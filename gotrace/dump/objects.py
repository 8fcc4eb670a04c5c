"""The objects of a dump: what each goroutine waits for, and per object who waits for it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gotrace.dump.types import GoroutineState, ObjectState, WaitedObject
from gotrace.live.channels import Case
from gotrace.live.objects import CHAN, FD, SELECT, Waited
from gotrace.profile.types import Frame

_FILE = re.compile(r"\(fd -?\d+ → (.+)\)$")


def waited_object(waited: Waited, now_ns: int, frames: Sequence[Frame]) -> WaitedObject:
    """The record for the dump. Moments become durations from `now_ns` on: negative ones have passed."""
    detail = dict(waited.detail)
    if waited.kind == CHAN and waited.cases:
        detail = _case(waited.cases[0], now_ns)
    elif waited.kind == SELECT:
        detail = {"cases": [{"address": hexadecimal(case.channel.address), **_case(case, now_ns)} for case in waited.cases]}
    elif waited.kind == FD:
        texts = [match[1] for frame in frames if (match := _FILE.search(frame.name))]
        detail["file"] = texts[0] if texts else ""
        deadline = detail.pop("deadline_ns")
        detail["deadline_in_ns"] = deadline - now_ns if isinstance(deadline, int) and deadline >= 0 else deadline
    elif isinstance(due := detail.pop("due_ns", None), int):
        detail["due_in_ns"] = due - now_ns
    if isinstance(locker := detail.get("locker"), int):
        detail["locker"] = hexadecimal(locker)
    return WaitedObject(waited.kind, hexadecimal(waited.address) if waited.address is not None else None, detail)


def hexadecimal(address: int) -> str:
    """As Go prints pointers."""
    return f"{address:#x}"


def _case(case: Case, now_ns: int) -> dict[str, object]:
    channel = case.channel
    detail: dict[str, object] = {
        "op": case.op, "len": channel.length, "cap": channel.capacity, "closed": channel.closed,
        "elem": channel.elem, "elem_size": channel.elem_size,
    }
    return detail | ({"due_in_ns": channel.due_ns - now_ns} if channel.due_ns is not None else {})


def objects_of(goroutines: Sequence[GoroutineState]) -> list[ObjectState]:
    """All objects that goroutines wait for, those with the most waiters first. A select waits for each of its channels."""
    found: dict[tuple[str, str], tuple[dict[str, object], list[GoroutineState]]] = {}
    for one in goroutines:
        for kind, address, detail in addressed(one.object):
            _, members = found.setdefault((kind, address), ({name: value for name, value in detail.items() if name != "op"}, []))
            if not members or members[-1] is not one:
                members.append(one)
    objects = [
        ObjectState(
            kind, address, len(members), max((one.wait_ns for one in members if one.wait_ns is not None), default=None), detail,
            [one.id for one in members],
        )
        for (kind, address), (detail, members) in found.items()
    ]
    return sorted(objects, key=lambda one: (-one.waiters, one.kind, one.address))


def addressed(waited: WaitedObject | None) -> list[tuple[str, str, dict[str, object]]]:
    """(kind, address, detail) of each thing with an address that it waits for."""
    if waited is None:
        return []
    if waited.kind == SELECT:
        cases = waited.detail.get("cases")
        return [
            (CHAN, str(case["address"]), {name: value for name, value in case.items() if name != "address"})
            for case in (cases if isinstance(cases, list) else [])
        ]
    return [(waited.kind, waited.address, waited.detail)] if waited.address is not None else []
