"""What keeps goroutines from running that could: no P, no CPU, no thread, a late timer."""

from __future__ import annotations

from collections import Counter

from gotrace.common.vocabulary import FrameKind
from gotrace.dump.types import Dump, GoroutineState, Verdict
from gotrace.render.text import format_duration

STARVED, LATE, QUOTA, THREADS, WORLD = "starved", "late timers", "gomaxprocs", "threads", "stop of the world"
_LATE_NS = 100_000_000
_NAMED = 3
_MANY_THREADS, _MOST_THREADS = 8000, 10_000


def starved(dump: Dump) -> list[Verdict]:
    """Goroutines that are runnable and have not run for a while."""
    prospects = dump.prospects
    members = [one.id for one in dump.goroutines if one.state == "runnable" and one.id in prospects.still]
    if not members or prospects.stopped:
        return []
    who = "1 goroutine is" if len(members) == 1 else f"{len(members):,} goroutines are"
    text = f"{who} runnable and did not run for at least {format_duration(prospects.still_ns)}"
    return [Verdict(STARVED, text, members, {"for_ns": prospects.still_ns, "gomaxprocs": prospects.gomaxprocs}, True)]


def held_up_world(dump: Dump) -> list[Verdict]:
    """A stop of the world that does not come about, as for a collection: all other goroutines stand still until the last stops."""
    prospects = dump.prospects
    holding = [one for one in dump.goroutines if one.id in prospects.holding_up]
    if not holding or prospects.stopped:
        return []
    who = ", ".join(f"goroutine {one.id} ({_where(one)})" for one in holding[:_NAMED])
    more = f" and {len(holding) - _NAMED:,} more" if len(holding) > _NAMED else ""
    verb = "does" if len(holding) == 1 else "do"
    text = f"the world has been waiting to stop for at least {format_duration(prospects.still_ns)}: {who}{more} {verb} not stop"
    return [Verdict(WORLD, text, [one.id for one in holding], {"for_ns": prospects.still_ns}, True)]


def _where(one: GoroutineState) -> str:
    """What it does, where that is known; its stack can't be read while it runs."""
    own = next((frame.name for frame in one.frames if frame.kind is FrameKind.GO), "")
    if own:
        return f"{one.reason or one.state} in {own}"
    return f"running, started in {one.start_function}" if one.start_function else "running"


def late_timers(dump: Dump) -> list[Verdict]:
    """Sleeps that should have ended."""
    late: dict[int, int] = {}
    for one in dump.goroutines:
        due = one.object.detail.get("due_in_ns") if one.object is not None and one.object.kind == "timer" else None
        if isinstance(due, int) and due < -_LATE_NS and one.id in dump.prospects.still:
            late[one.id] = -due
    if not late or dump.prospects.stopped:
        return []
    who = "1 goroutine sleeps" if len(late) == 1 else f"{len(late):,} goroutines sleep"
    text = f"{who} although the sleep was to end up to {format_duration(max(late.values()))} ago"
    return [Verdict(LATE, text, list(late), {"most_ns": max(late.values()), "still_ns": dump.prospects.still_ns}, True)]


def more_procs_than_cpus(dump: Dump) -> list[Verdict]:
    """GOMAXPROCS beyond twice the CPU quota: the kernel then stops all threads for the rest of each period."""
    procs, quota = dump.prospects.gomaxprocs, dump.prospects.cpu_quota
    if procs is None or quota is None or procs <= max(1, 2 * quota):
        return []
    text = f"GOMAXPROCS is {procs}, but the control group allows {quota:g} CPUs: under load the kernel stops all threads again and again"
    return [Verdict(QUOTA, text, [], {"gomaxprocs": procs, "cpu_quota": quota}, True)]


def many_threads(dump: Dump) -> list[Verdict]:
    """So many threads that the program will soon be ended: Go allows 10,000 (runtime/debug.SetMaxThreads)."""
    if dump.prospects.threads < _MANY_THREADS:
        return []
    calls = Counter(
        next((frame.name.split("(", 1)[0] for frame in one.frames if frame.kind is FrameKind.SYSCALL), "C code or an unknown call")
        for one in dump.goroutines if one.state == "syscall"
    )
    most = ", ".join(f"{count:,} in {name}" for name, count in calls.most_common(3))
    text = f"{dump.prospects.threads:,} threads; Go ends a program at {_MOST_THREADS:,} by default" + (f" ({most})" if most else "")
    return [Verdict(THREADS, text, [], {"threads": dump.prospects.threads, "calls": dict(calls.most_common(20))}, True)]
