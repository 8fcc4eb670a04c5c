"""What /debug/pprof answers for a process that has no such endpoint: Go's own profiles, as far as they can be known from outside."""

from __future__ import annotations

from dataclasses import replace

from gotrace.common.vocabulary import State
from gotrace.dump.types import Dump, GoroutineState
from gotrace.profile.frames import plain_name
from gotrace.profile.types import Frame, Profile
from gotrace.render.text import sanitize

UNKNOWN = {
    "profile": "a CPU profile is of goroutines that run; gotrace records those that do not: perf record -g -p PID has the others",
    "heap": "what the heap holds is known to the process alone: its own /debug/pprof/heap has it",
    "allocs": "what was allocated is known to the process alone: its own /debug/pprof/allocs has it",
    "mutex": "who holds up others is recorded by the runtime alone, and only after SetMutexProfileFraction; block has those who wait, "
             "with the label waker: who unlocked",
    "threadcreate": "what led to the creation of threads is known to the process alone: gotrace sched PID counts them",
    "trace": "an execution trace is written by the process alone; /debug/pprof/offcpu and the captures have its waits",
    "cmdline": "the command line may have secrets: /proc/PID/cmdline has it",
    "symbol": "profiles have symbols already",
}
"""Go's profiles that can't be had from outside, each with the reason."""

_BLOCK = (
    "chan receive", "chan send", "select", "sync.Mutex.Lock", "sync.RWMutex", "sync.WaitGroup", "sync.Cond", "semacquire",
    "sync.(*Cond)", "synctest",
)
"""Reasons, or their beginnings, of the waits that Go's block profile has: at channels, select and what package sync has
(runtime/mprof.go: blockevent). Until Go 1.20 locks wait for `semacquire`."""
_NAME_LIMIT = 1000


def block(profile: Profile) -> Profile:
    """Only the waits that Go's block profile has, with the part in which the goroutine was ready already, which Go counts as well."""
    places = {stack.frames for stack in profile.stacks if _blocks(stack.state, stack.reason)}
    kept = [
        stack for stack in profile.stacks
        if _blocks(stack.state, stack.reason) or stack.state is State.RUNNABLE and stack.reason == "ready" and stack.frames in places
    ]
    return replace(profile, stacks=kept, requests=[], filters=[*profile.filters, "waits that Go's block profile has"])


def _blocks(state: State, reason: str) -> bool:
    return state is State.WAITING and reason.startswith(_BLOCK) and reason not in ("select (no cases)", "chan receive (nil chan)")


def goroutines_text(found: Dump, debug: int) -> str:
    """As Go's own profile with debug=1 (counted by stack) or debug=2 (each of them, as in a traceback)."""
    if debug >= 2:
        return "\n".join(_traceback(one) for one in found.goroutines)
    counted: dict[tuple[Frame, ...], int] = {}
    for one in found.goroutines:
        counted[one.frames] = counted.get(one.frames, 0) + 1
    parts = [f"goroutine profile: total {len(found.goroutines)}"]
    for frames, count in sorted(counted.items(), key=lambda item: -item[1]):
        parts.append(f"{count} @")
        parts += [f"#\t{_name(frame)}\t{_shown(frame.file)}:{frame.line}" for frame in frames] or ["#\t(running)"]
        parts.append("")
    return "\n".join(parts)


def _traceback(one: GoroutineState) -> str:
    what = one.reason or one.state
    minutes = f", {one.wait_ns // 60_000_000_000} minutes" if one.wait_ns and one.wait_ns >= 60_000_000_000 else ""
    lines = [f"goroutine {one.id} [{_shown(what)}{minutes}{', locked to thread' if one.locked_to_thread else ''}]:"]
    for frame in one.frames:
        lines += [f"{_name(frame)}(...)", f"\t{_shown(frame.file)}:{frame.line}"]
    if one.created_by:
        by = f" in goroutine {one.parent_id}" if one.parent_id else ""
        lines += [f"created by {_shown(one.created_by)}{by}", f"\t{_shown(one.created_at)}"]
    return "\n".join([*lines, ""])


def _name(frame: Frame) -> str:
    return _shown(plain_name(frame.name) if not frame.name.startswith("[") else frame.name)


def _shown(text: str) -> str:
    return sanitize(text, _NAME_LIMIT)
