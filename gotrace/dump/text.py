"""A dump of goroutines for people and for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text

from gotrace.common.vocabulary import FrameKind
from gotrace.dump.groups import Group, described, groups
from gotrace.dump.objects import several_waiters
from gotrace.dump.types import LOSSES, RUNNING, Dump, GoroutineState, ObjectState, Situation, Verdict
from gotrace.profile.frames import plain_name
from gotrace.profile.types import Frame
from gotrace.render.text import format_duration, sanitize

_IDS_SHOWN = 8
_OBJECTS_SHOWN, _CROWD = 10, 8
_THINGS_SHOWN = 3
_MOST_KEPT = 1 << 14
_AT_ONCE = 4096
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
    shared: dict[int, tuple[Situation, str, str, str]] = {}  # by identity: hashing frames takes longer than all else here
    stacks: dict[int, tuple[object, str]] = {}
    for one in goroutines:
        at = one.situation
        known = shared.get(id(at))
        if known is None:
            if len(shared) >= _MOST_KEPT:
                shared.clear()
            if id(at.frames) not in stacks:
                if len(stacks) >= _MOST_KEPT:
                    stacks.clear()
                stacks[id(at.frames)] = at.frames, json.dumps([_frame(frame) for frame in at.frames])
            known = shared[id(at)] = _situation(at, stacks[id(at.frames)][1])
        _, head, middle, tail = known
        wait = "null" if one.wait_ns is None else one.wait_ns
        waited = one.object
        thing = "null" if waited is None else json.dumps({"kind": waited.kind, "address": waited.address, "detail": waited.detail})
        yield f'{{"id": {one.id}, {head}, "wait_ns": {wait}, "parent_id": {one.parent_id}, {middle}, "object": {thing}, "frames": {tail}}}'


def _situation(at: Situation, stack: str) -> tuple[Situation, str, str, str]:
    """The situation, so that no other gets its identity, and its parts of the text."""
    first = json.dumps({"state": at.state, "reason": at.reason})
    rest = json.dumps({
        "created_by": at.created_by, "created_at": at.created_at, "start_function": at.start_function,
        "locked_to_thread": at.locked_to_thread, "labels": at.labels,
    })
    return at, first[1:-1], rest[1:-1], stack


def _frame(frame: Frame) -> dict[str, object]:
    return {"name": frame.name, "file": frame.file, "line": frame.line, "kind": frame.kind.value, "inlined": frame.inlined}


class Lines:
    """Prints many lines of styled text: of those that fit no terminal, none is cut or wrapped."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._segments: list[Segment] = []
        self._styles: dict[str, Style] = {"": Style.null()}

    def add(self, *parts: tuple[str, str]) -> None:
        """A line of (text, style)."""
        for text, style in parts:
            if style not in self._styles:
                self._styles[style] = self._console.get_style(style)
            self._segments.append(Segment(text, self._styles[style]))
        self._segments.append(Segment.line())
        if len(self._segments) >= _AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Prints what has been added. Layouting each line by itself, as the console does it, would take most of the time of a dump."""
        self._console.print(Segments(self._segments), soft_wrap=True, end="")
        self._segments.clear()


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
    lines = Lines(console)
    for note in dump.notes:
        lines.add((f"note: {sanitize(note)}", "yellow"))
    _print_objects(several_waiters(dump.objects), lines)
    for group in groups(dump.goroutines):
        lines.add()
        _print_group(group, lines)
    lines.add()
    lost = [(name, number) for name, number in dump.losses.items() if number]
    for name, number in lost:
        lines.add((f"LOSS {number:,} {name}: {LOSSES.get(name, '')}", "red"))
    if not lost:
        lines.add(("losses: none", "green"))
    lines.flush()


def print_verdicts(verdicts: Sequence[Verdict], console: Console) -> None:
    """One line for each."""
    for verdict in verdicts:
        console.print(Text(sanitize(verdict.headline, 2000), "bold red" if verdict.certain else "bold yellow"), soft_wrap=True)


def _print_objects(objects: Sequence[ObjectState], lines: Lines) -> None:
    # Several goroutines wait for the end of the same context or server by design: that is worth a line where they are many.
    shared = [one for one in objects if one.waiters >= (_CROWD if one.kind == "chan" else 2)]
    for one in shared[:_OBJECTS_SHOWN]:
        oldest = f", the oldest for about {format_duration(one.oldest_wait_ns)}" if one.oldest_wait_ns is not None else ""
        lines.add((f"{one.waiters:,} goroutines wait for {described(one.kind, one.address, one.detail)}{oldest}", ""))
    if len(shared) > _OBJECTS_SHOWN:
        lines.add((f"and {len(shared) - _OBJECTS_SHOWN:,} more objects have as many waiters", "dim"))


def _print_group(group: Group, lines: Lines) -> None:
    members, one = group.members, group.one
    line = [(_who(members), "bold")]
    line.append((f"  {sanitize(f'{one.state}: {one.reason}' if one.reason else one.state)}", "bold cyan"))
    if group.oldest_ns is not None:
        line.append((f", {'about' if len(members) == 1 else 'up to about'} {format_duration(group.oldest_ns)}", "bold"))
    if one.locked_to_thread:
        line.append((", locked to its thread", "bold"))
    if one.labels:
        line.append((f" {{{labels_text(one.labels)}}}", "bold magenta"))
    lines.add(*line)
    if group.object is not None:
        lines.add((f"    at {described(group.object.kind, group.object.address, group.object.detail)}", "yellow"))
    elif one.object is not None and one.object.kind not in ("fd", "timer"):
        lines.add((f"    each at its own: {_things(members)}", "yellow"))
    for frame in group.frames:
        _print_frame(sanitize(plain_name(frame.name)), f"{sanitize(frame.file)}:{frame.line}" if frame.line else "", frame.kind, lines)
    if not group.frames:
        lines.add(("    it runs: its stack can't be read" if one.state == RUNNING else "    its stack can't be read", "dim"))
    if one.created_by:
        parents = {member.parent_id for member in members}
        by = f" in goroutine {parents.pop()}" if len(parents) == 1 and one.parent_id else ""
        _print_frame(f"created by {sanitize(one.created_by)}{by}", sanitize(one.created_at), FrameKind.RUNTIME, lines)


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


def _print_frame(name: str, place: str, kind: FrameKind, lines: Lines) -> None:
    style = "dim" if kind is FrameKind.RUNTIME else ""
    if place:
        lines.add((f"    {name}", style), (f"  {place}", f"{style} green".strip()))
    else:
        lines.add((f"    {name}", style))
