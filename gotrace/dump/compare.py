"""What differs between dumps: groups of goroutines that grew or shrank, and in a series those that grew every time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from gotrace.dump.groups import without_descriptor
from gotrace.dump.types import Dump, GoroutineState, Verdict
from gotrace.profile.frames import plain_name
from gotrace.profile.types import Frame
from gotrace.render.text import format_duration, sanitize

_SHOWN_FRAMES = 12


@dataclass(frozen=True)
class Place:
    """Where goroutines are: what makes a group comparable between dumps. Without addresses, descriptors and lines of the runtime."""

    state: str
    reason: str
    kind: str
    created_by: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Change:
    """A place's goroutines in each dump of a series. `oldest_ns` is the longest wait in the last one, `ids` are its goroutines there."""

    place: Place
    counts: tuple[int, ...]
    oldest_ns: int | None
    ids: tuple[int, ...] = field(default=())

    @property
    def growth(self) -> int:
        """How many more there are at the end than at the beginning."""
        return self.counts[-1] - self.counts[0]


def changes(dumps: Sequence[Dump]) -> list[Change]:
    """Every place of the dumps, what grew most first."""
    known: dict[Frame, Frame] = {}
    counted: list[dict[Place, list[GoroutineState]]] = []
    for dump in dumps:
        found: dict[Place, list[GoroutineState]] = {}
        for one in dump.goroutines:
            found.setdefault(_place(one, known), []).append(one)
        counted.append(found)
    places = dict.fromkeys(place for found in counted for place in found)
    made = []
    for place in places:
        last = counted[-1].get(place, [])
        oldest = max((one.wait_ns for one in last if one.wait_ns is not None), default=None)
        made.append(Change(place, tuple(len(found.get(place, ())) for found in counted), oldest, tuple(one.id for one in last)))
    return sorted(made, key=lambda change: (-change.growth, -change.counts[-1]))


def _place(one: GoroutineState, known: dict[Frame, Frame]) -> Place:
    frames = tuple(known.setdefault(frame, without_descriptor(frame)) for frame in one.frames)
    kind = one.object.kind if one.object is not None and one.object.kind not in ("fd", "timer") else ""
    return Place(one.state, one.reason, kind, one.created_by, frames)


def changes_json(dumps: Sequence[Dump], verdicts: Sequence[Verdict] = ()) -> str:
    """What differs, as JSON text with a final newline."""
    found = [
        {
            "state": change.place.state, "reason": change.place.reason, "object": change.place.kind, "created_by": change.place.created_by,
            "counts": list(change.counts), "growth": change.growth, "oldest_wait_ns": change.oldest_ns,
            "frames": [{"name": frame.name, "file": frame.file, "line": frame.line} for frame in change.place.frames],
        }
        for change in changes(dumps) if len(set(change.counts)) > 1
    ]
    totals = [len(dump.goroutines) for dump in dumps]
    whole = {
        "gotrace": dumps[-1].version, "goroutines": totals, "verdicts": [vars(verdict) for verdict in verdicts], "changes": found,
    }
    return json.dumps(whole, indent=1) + "\n"


def print_changes(dumps: Sequence[Dump], console: Console, most: int = 10) -> None:
    """Prints what grew and what shrank."""
    totals = [len(dump.goroutines) for dump in dumps]
    console.print(Text(f"goroutines: {' → '.join(f'{total:,}' for total in totals)}", "bold cyan"))
    differing = [change for change in changes(dumps) if len(set(change.counts)) > 1]
    for change in differing[:most]:
        console.print()
        _print_change(change, console)
    if len(differing) > most:
        console.print(Text(f"\nand {len(differing) - most:,} more places differ", "dim"))
    if not differing:
        console.print("nothing differs: the same goroutines are at the same places")


def _print_change(change: Change, console: Console) -> None:
    place, sign = change.place, "+" if change.growth > 0 else ""
    line = Text(f"{sign}{change.growth:,}", "bold red" if change.growth > 0 else "bold green")
    line.append(f"  {' → '.join(f'{count:,}' for count in change.counts)}  ", "bold")
    line.append(sanitize(f"{place.state}: {place.reason}" if place.reason else place.state), "cyan")
    line.append(f", oldest about {format_duration(change.oldest_ns)}" if change.oldest_ns is not None else "")
    console.print(line, soft_wrap=True)
    for frame in place.frames[:_SHOWN_FRAMES]:
        console.print(Text(f"    {sanitize(plain_name(frame.name))}"), soft_wrap=True)
    if place.created_by:
        console.print(Text(f"    created by {sanitize(place.created_by)}", "dim"), soft_wrap=True)
