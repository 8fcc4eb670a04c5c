"""A dump of goroutines for people and for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields

from rich.console import Console
from rich.text import Text

from gotrace.common.vocabulary import FrameKind
from gotrace.dump.groups import Group, described, groups
from gotrace.dump.types import LOSSES, RUNNING, Dump, GoroutineState, ObjectState, Verdict
from gotrace.profile.frames import plain_name
from gotrace.profile.types import Frame
from gotrace.render.text import format_duration, sanitize

_IDS_SHOWN = 8
_OBJECTS_SHOWN, _CROWD = 10, 8
_THINGS_SHOWN = 3
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./_")
"""What Go's tracebacks do not quote in labels (runtime/traceback.go: tracebackStringNeedsQuoting)."""


def dump_json(dump: Dump) -> str:
    """JSON text with a final newline, a line for each goroutine; ASCII only."""
    return "".join(json_parts(dump))


def json_parts(dump: Dump) -> Iterator[str]:
    """The text of `dump_json` in parts: whole it may be larger than all that was read."""
    yield f'{{"gotrace": {json.dumps(dump.version)},\n "target": {json.dumps(asdict(dump.target))},\n "verdicts": ['
    yield from _lines(json.dumps(vars(one)) for one in dump.verdicts)
    yield '],\n "objects": ['
    yield from _lines(json.dumps(vars(one)) for one in dump.objects)
    yield '],\n "goroutines": ['
    yield from _lines(_goroutines(dump.goroutines))
    yield f'],\n "losses": {json.dumps(dump.losses)},\n "notes": {json.dumps(dump.notes)}}}\n'


def _lines(parts: Iterable[str]) -> Iterator[str]:
    before = "\n  "
    for part in parts:
        yield before + part
        before = ",\n  "


def _goroutines(goroutines: Sequence[GoroutineState]) -> Iterator[str]:
    stacks: dict[tuple[Frame, ...], str] = {}
    names = [field.name for field in fields(GoroutineState) if field.name not in ("frames", "object")]
    for one in goroutines:
        stack = stacks.get(one.frames)
        if stack is None:
            stack = stacks[one.frames] = json.dumps([_frame(frame) for frame in one.frames])
        content: dict[str, object] = {name: getattr(one, name) for name in names}
        waited = one.object
        content["object"] = {"kind": waited.kind, "address": waited.address, "detail": waited.detail} if waited is not None else None
        yield f'{json.dumps(content)[:-1]}, "frames": {stack}}}'


def _frame(frame: Frame) -> dict[str, object]:
    return {"name": frame.name, "file": frame.file, "line": frame.line, "kind": frame.kind.value, "inlined": frame.inlined}


def print_dump(dump: Dump, console: Console) -> None:
    """Prints the verdicts, the objects with several waiters, and the goroutines: those that differ only in their numbers together, the most
    frequent first."""
    target = dump.target
    count = len(dump.goroutines)
    console.print(Text(
        f"{sanitize(target.comm, 40)} (pid {target.pid}) · {sanitize(target.go_version, 30)} · "
        f"{count:,} goroutine{'' if count == 1 else 's'}", "bold cyan",
    ))
    print_verdicts(dump.verdicts, console)
    for note in dump.notes:
        console.print(Text(f"note: {sanitize(note)}", "yellow"), soft_wrap=True)
    _print_objects(dump.objects, console)
    for group in groups(dump.goroutines):
        console.print()
        _print_group(group, console)
    console.print()
    lost = [(name, number) for name, number in dump.losses.items() if number]
    for name, number in lost:
        console.print(Text(f"LOSS {number:,} {name}: {LOSSES.get(name, '')}", "red"))
    if not lost:
        console.print(Text("losses: none", "green"))


def print_verdicts(verdicts: Sequence[Verdict], console: Console) -> None:
    """One line for each."""
    for verdict in verdicts:
        kind = verdict.kind.upper() if verdict.certain else f"{verdict.kind.upper()}, probably"
        console.print(Text(f"{kind}: {sanitize(verdict.text, 2000)}", "bold red" if verdict.certain else "bold yellow"), soft_wrap=True)


def _print_objects(objects: Sequence[ObjectState], console: Console) -> None:
    # Several goroutines wait for the end of the same context or server by design: that is worth a line where they are many.
    shared = [one for one in objects if one.waiters >= (_CROWD if one.kind == "chan" else 2)]
    for one in shared[:_OBJECTS_SHOWN]:
        oldest = f", the oldest for about {format_duration(one.oldest_wait_ns)}" if one.oldest_wait_ns is not None else ""
        console.print(Text(f"{one.waiters:,} goroutines wait for {described(one.kind, one.address, one.detail)}{oldest}"), soft_wrap=True)
    if len(shared) > _OBJECTS_SHOWN:
        console.print(Text(f"and {len(shared) - _OBJECTS_SHOWN:,} more objects have as many waiters", "dim"))


def _print_group(group: Group, console: Console) -> None:
    members, one = group.members, group.one
    line = Text(_who(members), "bold")
    line.append(f"  {sanitize(f'{one.state}: {one.reason}' if one.reason else one.state)}", "cyan")
    if group.oldest_ns is not None:
        line.append(f", {'about' if len(members) == 1 else 'up to about'} {format_duration(group.oldest_ns)}")
    if one.locked_to_thread:
        line.append(", locked to its thread")
    if one.labels:
        line.append(f" {{{labels_text(one.labels)}}}", "magenta")
    console.print(line, soft_wrap=True)
    if group.object is not None:
        console.print(Text(f"    at {described(group.object.kind, group.object.address, group.object.detail)}", "yellow"), soft_wrap=True)
    elif one.object is not None and one.object.kind not in ("fd", "timer"):
        console.print(Text(f"    each at its own: {_things(members)}", "yellow"), soft_wrap=True)
    for frame in group.frames:
        _print_frame(sanitize(plain_name(frame.name)), f"{sanitize(frame.file)}:{frame.line}" if frame.line else "", frame.kind, console)
    if not group.frames:
        console.print(Text("    it runs: its stack can't be read" if one.state == RUNNING else "    its stack can't be read", "dim"))
    if one.created_by:
        parents = {member.parent_id for member in members}
        by = f" in goroutine {parents.pop()}" if len(parents) == 1 and one.parent_id else ""
        _print_frame(f"created by {sanitize(one.created_by)}{by}", sanitize(one.created_at), FrameKind.RUNTIME, console)


def _things(members: Sequence[GoroutineState]) -> str:
    waited = [one.object for one in members[:_THINGS_SHOWN] if one.object is not None]
    things = [described(each.kind, each.address, each.detail) for each in waited]
    return "; ".join(things) + ("; …" if len(members) > len(things) else "")


def labels_text(labels: dict[str, str]) -> str:
    """Labels as Go 1.27 prints them in the header of a goroutine, without the braces: ``shard: 7, tenant: "a b"``."""
    return ", ".join(f"{_quoted(key)}: {_quoted(value)}" for key, value in sorted(labels.items()))


def _quoted(text: str) -> str:
    shown = sanitize(text, 1024)
    return shown if _PLAIN.issuperset(text) else json.dumps(shown, ensure_ascii=False)


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
