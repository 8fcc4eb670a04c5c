"""Adds to the goroutines of a dump what they wait for."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Sequence

from gotrace.dump.found import FoundGoroutines
from gotrace.dump.objects import KnownDetails, waited_channels, waited_object
from gotrace.dump.types import GoroutineState
from gotrace.live.objects import ObjectReader, Parked
from gotrace.live.polled import Polled
from gotrace.watch.target import OpenTarget

_TRIES, _RETRY_S = 3, 0.001
_HAVE_OBJECTS = ("chan ", "select", "sync.", "semacquire", "sleep")
_AT_CHANNELS = ("chan ", "select")
_INNERMOST = 16
"""So many functions tell for what a goroutine waits."""
_AT_ONCE = 4096


def add_objects(target: OpenTarget, found: FoundGoroutines, polls: dict[int, Polled], stacks: dict[int, bytes]) -> tuple[int, int]:
    """Adds to goroutines their objects, where they have not moved until these were read. `stacks` are the bytes of those of goroutines that
    wait for a Cond, by their numbers. Returns for how many it could not be read what they wait for, and how many have moved.

    Raises:
        ProcessLookupError, PermissionError: the memory can't be read.
    """
    known: KnownDetails = {}
    remaining: Iterable[int] = range(len(found.parked))
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_RETRY_S)
        remaining = _add(ObjectReader(target.memory, target.binary, target.bias), found, remaining, polls, stacks, known)
        if not remaining:
            break
    gone = found.moved()
    moved = 0
    for place in found.parked if gone else ():
        if place in gone:
            found.states[place].object = None
            moved += has_object(found.states[place])
    missed = [found.parked[which] for which in remaining]
    return sum(place not in gone and not _is_the_runtime_s(found.states[place]) for place in missed), moved


def _add(
    reader: ObjectReader, found: FoundGoroutines, wanted: Iterable[int], polls: dict[int, Polled], stacks: dict[int, bytes],
    known: KnownDetails,
) -> array[int]:
    """Adds the objects of those of the parked goroutines; returns those whose object was not found."""
    missed = array("I")
    # Side by side in memory is what is side by side in time, and read together.
    all_wanted = array("I", sorted(wanted, key=found.waiting.__getitem__))
    names: dict[int, list[str]] = {}
    for start in range(0, len(all_wanted), _AT_ONCE):
        part: Sequence[int] = all_wanted[start : start + _AT_ONCE]
        part = _add_channels(reader, found, part, known)
        parked = [_parked(found, which, stacks, names) for which in part]
        read = reader.objects(parked, polls)
        now = time.monotonic_ns()
        for which, one in zip(part, parked, strict=True):
            state, waited = found.states[found.parked[which]], read.get(one.g)
            if waited is not None:
                state.object = waited_object(waited, now, state.situation.frames, known)
            elif one.reason.startswith(_HAVE_OBJECTS):
                missed.append(which)
    return missed


def _add_channels(reader: ObjectReader, found: FoundGoroutines, wanted: Sequence[int], known: KnownDetails) -> Sequence[int]:
    """Adds what goroutines at channels wait for; returns the others, and those of which it was not found."""
    parked, states = found.parked, found.states
    at_channels = {
        found.address(parked[which]): which for which in wanted
        if found.waiting[which] and states[parked[which]].situation.reason.startswith(_AT_CHANNELS)
    }
    cases = reader.cases({g: found.waiting[which] for g, which in at_channels.items()})
    now = time.monotonic_ns()
    for g, operations in cases.items():
        one = states[parked[at_channels[g]]]
        one.object = waited_channels(operations, one.situation.reason.startswith("select"), now, known)
    done = {at_channels[g] for g in cases}
    return [which for which in wanted if which not in done]


def _parked(found: FoundGoroutines, which: int, stacks: dict[int, bytes], names: dict[int, list[str]]) -> Parked:
    place = found.parked[which]
    situation, number = found.states[place].situation, found.numbers[place]
    functions = names.get(id(situation))
    if functions is None:
        functions = names[id(situation)] = [frame.name for frame in situation.frames[:_INNERMOST]]
    timer, due = found.sleep(which)
    return Parked(
        found.address(place), situation.reason, functions, found.waiting[which], timer, due, stacks.get(number, b""),
    )


def has_object(one: GoroutineState) -> bool:
    """Whether a goroutine with its reason waits for something that has an address."""
    return one.reason.startswith(_HAVE_OBJECTS)


def _is_the_runtime_s(one: GoroutineState) -> bool:
    return one.start_function.startswith("runtime.") and one.start_function != "runtime.main"
