"""The hot spots on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from gotrace.profile.frames import is_program, place_of, plain_name
from gotrace.profile.types import Profile, StackStat
from gotrace.render.text import format_share, sanitize

SHOWN = 5
CALLERS = 4


def print_hotspots(profile: Profile, console: Console) -> None:
    """Prints the first `SHOWN` hot spots, each with its place and its reason in words; nothing if there are none."""
    spots = [spot for spot in profile.hotspots if 0 <= spot.stack < len(profile.stacks)]
    if not spots:
        return
    heading = Text(f"{len(spots)} hot spot{'' if len(spots) == 1 else 's'}", "bold red")
    heading.append(" (suspicious waits, by reason; not the largest)", "dim")
    console.print(heading, no_wrap=True, overflow="ellipsis", crop=True)
    for spot in spots[:SHOWN]:
        stack = profile.stacks[spot.stack]
        line = Text("  ! ", "red")
        line.append(f"{format_share(round(spot.share * 1_000_000), 1_000_000)}  ", "not red")
        line.append(why(stack), "not red cyan")
        callers = [frame for frame in stack.frames if is_program(frame)] or list(stack.frames[place_of(stack.frames) :])
        for index, frame in enumerate(callers[:CALLERS]):
            line.append(" ← " if index else " in ", "not red dim")
            line.append(sanitize(plain_name(frame.name), 100), "not red" if index else "not red bold")
        console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
        for reason in spot.why.split("; "):
            console.print(Text(f"      {sanitize(reason, 300)}"), no_wrap=True, overflow="ellipsis", crop=True)
    if len(spots) > SHOWN:
        console.print(Text(f"  and {len(spots) - SHOWN} more (--json, or the page, lists them)", "dim"))
    console.print()


def why(stack: StackStat) -> str:
    """State and reason: ``waiting: chan receive``."""
    reason = sanitize(stack.reason, 60)
    return f"{stack.state.value}: {reason}" if reason and reason != stack.state.value else stack.state.value
