"""The waits of each object in the summary: how long, by how many goroutines, and where."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from gotrace.live.objects import TIMER
from gotrace.profile.frames import is_program, place_of, plain_name
from gotrace.profile.holders import LockHolders, summed_up, told
from gotrace.profile.types import Profile, StackStat
from gotrace.profile.waited import OTHER, UNKNOWN, ObjectWaits, waits_by_object
from gotrace.render.text import format_duration, format_share, sanitize

_LONGEST = 90
_PLACES = 3
_LAST = frozenset((TIMER, UNKNOWN, OTHER))
_LINE = 400
_LOCKS = 20


def print_objects(profile: Profile, console: Console, top: int) -> None:
    """Prints the `top` objects with the longest waits; nothing if objects were not asked for."""
    objects = waits_by_object(profile)
    if not objects:
        return
    total_ns = sum(one.distribution.total_ns for one in objects)
    heading = Text(f"Waits by object: the top {min(top, len(objects))} of {len(objects):,}", "bold")
    heading.append(f" ({format_duration(total_ns)} in all)", "not bold")
    console.print(heading)
    comm = {target.pid: sanitize(target.comm, 40) for target in profile.targets} if len(profile.targets) > 1 else {}
    # Sleeps, and what is no single thing, come last: nobody else is waited for there.
    ranked = sorted(objects, key=lambda one: one.waited.kind in _LAST)
    for rank, one in enumerate(ranked[:top], 1):
        _print_object(rank, one, profile, total_ns, comm.get(one.pid, ""), console)
    console.print()


def lock_lines(profile: Profile) -> list[str]:
    """The same of all locks of which it is known who held them, a line each."""
    return [
        f"{sanitize(lock.waited.label, _LONGEST)}: {_summed_up(lock, profile)}: "
        f"{'; '.join(sanitize(held, _LINE) for held in told(lock, format_share))}"
        for lock in profile.locks[:_LOCKS]
    ]


def _summed_up(lock: LockHolders, profile: Profile) -> str:
    # Where only some stacks were chosen, the figures above are of these.
    return ("of all goroutines: " if profile.selected is not None else "") + summed_up(lock, format_share, format_duration)


def _print_object(rank: int, one: ObjectWaits, profile: Profile, total_ns: int, comm: str, console: Console) -> None:
    waits = one.distribution
    line = Text(f"{rank:>2}. ")
    line.append(sanitize(one.waited.label, _LONGEST), "cyan")
    line.append(f"  {format_duration(waits.total_ns)}", "bold")
    line.append(f"  {format_share(waits.total_ns, total_ns)}")
    if comm:
        line.append(f"  {comm} ({one.pid})", "dim")
    _print_line(line, console)
    figures = [
        f"goroutines {one.goroutines:,}", f"count {waits.count:,}", f"p50 {format_duration(waits.percentile_ns(0.50))}",
        f"p99 {format_duration(waits.percentile_ns(0.99))}", f"max {format_duration(waits.max_ns)}",
    ]
    _print_line(Text("    " + "  ".join(figures)), console)
    places: dict[str, int] = {}
    for index in one.stacks:
        stack = profile.stacks[index]
        where = _where(stack)
        places[where] = places.get(where, 0) + stack.distribution.total_ns
    ranked = sorted(places.items(), key=lambda item: -item[1])
    parts = [f"{sanitize(name, 80)} {format_share(amount, waits.total_ns)}" for name, amount in ranked[:_PLACES]]
    more = f", {len(ranked) - _PLACES:,} more" if len(ranked) > _PLACES else ""
    _print_line(Text(f"    in {', '.join(parts)}{more}", "magenta"), console)
    for lock in profile.locks:
        if lock.waited == one.waited and lock.pid == one.pid:
            console.print(Text(f"    {_summed_up(lock, profile)}:"), soft_wrap=True)
            for held in told(lock, format_share):
                console.print(Text(f"      {sanitize(held, _LINE)}", "yellow"), soft_wrap=True)


def _where(stack: StackStat) -> str:
    frames = [frame for frame in stack.frames if is_program(frame)]
    if frames:
        return plain_name(frames[0].name)
    place = place_of(stack.frames)
    return plain_name(stack.frames[place].name) if place < len(stack.frames) else "[no stack]"


def _print_line(line: Text, console: Console) -> None:
    console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
