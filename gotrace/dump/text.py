"""A dump of goroutines for people and for scripts."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from gotrace.common.vocabulary import FrameKind
from gotrace.dump.types import LOSSES, RUNNING, Dump, GoroutineState
from gotrace.profile.frames import plain_name
from gotrace.profile.types import Frame
from gotrace.render.text import format_duration, sanitize

_IDS_SHOWN = 8


def dump_json(dump: Dump) -> str:
    """JSON text with a final newline; ASCII only."""
    goroutines = [{**asdict(one), "frames": [_frame(frame) for frame in one.frames]} for one in dump.goroutines]
    whole = {
        "gotrace": dump.version, "target": asdict(dump.target), "verdicts": [asdict(one) for one in dump.verdicts],
        "objects": [asdict(one) for one in dump.objects], "goroutines": goroutines, "losses": dump.losses, "notes": dump.notes,
    }
    return json.dumps(whole, indent=1) + "\n"


def _frame(frame: Frame) -> dict[str, object]:
    return {"name": frame.name, "file": frame.file, "line": frame.line, "kind": frame.kind.value, "inlined": frame.inlined}


def print_dump(dump: Dump, console: Console) -> None:
    """Prints goroutines that differ only in their numbers together, the most frequent first."""
    target = dump.target
    count = len(dump.goroutines)
    console.print(Text(
        f"{sanitize(target.comm, 40)} (pid {target.pid}) · {sanitize(target.go_version, 30)} · "
        f"{count:,} goroutine{'' if count == 1 else 's'}", "bold cyan",
    ))
    for note in dump.notes:
        console.print(Text(f"note: {sanitize(note)}", "yellow"), soft_wrap=True)
    groups: dict[tuple[object, ...], list[GoroutineState]] = {}
    for one in dump.goroutines:
        key = (one.state, one.reason, one.frames, one.created_by, one.locked_to_thread, tuple(sorted(one.labels.items())))
        groups.setdefault(key, []).append(one)
    for members in sorted(groups.values(), key=lambda members: (-len(members), members[0].id)):
        console.print()
        _print_group(members, console)
    console.print()
    lost = [(name, number) for name, number in dump.losses.items() if number]
    for name, number in lost:
        console.print(Text(f"LOSS {number:,} {name}: {LOSSES[name]}", "red"))
    if not lost:
        console.print(Text("losses: none", "green"))


def _print_group(members: list[GoroutineState], console: Console) -> None:
    one = members[0]
    line = Text(_who(members), "bold")
    line.append(f"  {sanitize(f'{one.state}: {one.reason}' if one.reason else one.state)}", "cyan")
    ages = [member.wait_ns for member in members if member.wait_ns is not None]
    if ages:
        line.append(f", {'about' if len(members) == 1 else 'up to about'} {format_duration(max(ages))}")
    if one.locked_to_thread:
        line.append(", locked to its thread")
    console.print(line, soft_wrap=True)
    if one.labels:
        labels = ", ".join(f"{sanitize(key, 60)}={sanitize(value, 60)}" for key, value in sorted(one.labels.items()))
        console.print(Text(f"    labels {labels}", "magenta"), soft_wrap=True)
    for frame in one.frames:
        _print_frame(sanitize(plain_name(frame.name)), f"{sanitize(frame.file)}:{frame.line}" if frame.line else "", frame.kind, console)
    if not one.frames:
        console.print(Text("    it runs: its stack can't be read" if one.state == RUNNING else "    its stack can't be read", "dim"))
    if one.created_by:
        parents = {member.parent_id for member in members}
        by = f" in goroutine {parents.pop()}" if len(parents) == 1 and one.parent_id else ""
        _print_frame(f"created by {sanitize(one.created_by)}{by}", sanitize(one.created_at), FrameKind.RUNTIME, console)


def _who(members: list[GoroutineState]) -> str:
    if len(members) == 1:
        return f"goroutine {members[0].id}"
    ids = ", ".join(str(member.id) for member in members[:_IDS_SHOWN])
    rest = len(members) - _IDS_SHOWN
    return f"{len(members):,} goroutines ({ids}{f' and {rest:,} more' if rest > 0 else ''})"


def _print_frame(name: str, place: str, kind: FrameKind, console: Console) -> None:
    line = Text(f"    {name}", "dim" if kind is FrameKind.RUNTIME else "")
    if place:
        line.append(f"  {place}", "green")
    console.print(line, soft_wrap=True)
