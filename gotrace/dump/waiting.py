"""Adds to the goroutines of a dump what they wait for."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

from gotrace.dump.objects import waited_object
from gotrace.dump.types import GoroutineState
from gotrace.live.gstruct import Head
from gotrace.live.objects import ObjectReader, Parked, Waited
from gotrace.live.polled import Polled
from gotrace.watch.target import OpenTarget

_TRIES, _RETRY_S = 3, 0.001
_HAVE_OBJECTS = ("chan ", "select", "sync.", "semacquire", "sleep")


class AsParked(NamedTuple):
    """A parked goroutine as it was read, and what tells for what it waits."""

    head: Head
    parked: Parked


def add_objects(
    target: OpenTarget, found: dict[int, GoroutineState], parked: dict[int, AsParked], polls: dict[int, Polled]
) -> int:
    """Replaces goroutines in `found` by the same with their objects, where they have not moved until these were read. Returns for how many
    it could not be read what they wait for.

    Raises:
        ProcessLookupError, PermissionError: the memory can't be read.
    """
    waited: dict[int, Waited] = {}
    remaining = {index: one.parked for index, one in parked.items()}
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_RETRY_S)
        fresh = ObjectReader(target.memory, target.binary, target.bias).objects(list(remaining.values()), polls)
        remaining = {index: one for index, one in remaining.items() if one.g not in fresh and one.reason.startswith(_HAVE_OBJECTS)}
        waited |= fresh
        if not remaining:
            break
    now = time.monotonic_ns()
    later = {each.address: each for each in target.reader.read([one.parked.g for one in parked.values()])}
    unread = 0
    for index, (head, one) in parked.items():
        each = later.get(one.g)
        if each is None or (each.goid, each.status, each.pc, each.sp, each.tick) != (head.goid, head.status, head.pc, head.sp, head.tick):
            continue
        if one.g in waited:
            found[index] = replace(found[index], object=waited_object(waited[one.g], now, found[index].frames))
        elif index in remaining and not _is_the_runtime_s(found[index]):
            unread += 1
    return unread


def _is_the_runtime_s(one: GoroutineState) -> bool:
    return one.start_function.startswith("runtime.") and one.start_function != "runtime.main"
