"""A dump as one HTML page that works offline: verdicts, what several goroutines wait for, and groups of goroutines with their stacks.

As in the page of a profile (`gotrace.render.html`), what came from the target reaches the page only inside a block of compressed data,
and leaves it only as text. ``assets/dump.js`` of gotrace.render reads it:

``title``, ``facts``, ``notes``
    Lines of text. ``goroutines``: how many there are; ``left``: how many groups are not in the page.
``colours``
    Of each state; that of ``""`` is for all others.
``verdicts``
    ``kind``, ``text``, ``certain``, and ``groups``: the numbers of the groups whose goroutines it names.
``objects``
    What several wait for: ``text``, ``waiters``, ``oldest`` (ns, or null), ``groups``.
``frames``
    Columns: ``name``, ``place`` (``FILE:LINE``, or ``""``), ``kind``.
``groups``
    ``count``, ``state``, ``reason``, ``oldest`` (ns, or null), ``object`` (text), ``labels`` (texts), ``locked``, ``frames`` (numbers, leaf
    first), ``top`` (the index in them at which a reader should begin), ``created``, ``created_at``, ``ids`` (the first ones).
``losses``
    Number, name, and what it means.
"""

from __future__ import annotations

from typing import Any

from gotrace.dump.groups import Group, described, groups
from gotrace.dump.objects import several_waiters
from gotrace.dump.text import labels_text
from gotrace.dump.types import LOSSES, Dump
from gotrace.profile.frames import is_goroutine_root, is_runtime, place_of, plain_name
from gotrace.profile.types import Frame
from gotrace.render.colours import STATE
from gotrace.render.html import render_data_page
from gotrace.render.text import format_duration, sanitize

_MOST_GROUPS = 20_000
_MOST_OBJECTS = 500
_IDS = 60
_NAME_LIMIT = 600
_COLOURS = {**{state.value: colour for state, colour in STATE.items()}, "running": "#58a866", "": "#b7bcc4"}


def dump_html(dump: Dump) -> bytes:
    """The page (UTF-8)."""
    data = page_data(dump)
    return render_data_page("dump", f"{data['title']} goroutines", data)


def page_data(dump: Dump) -> dict[str, Any]:
    """The page's data, in the form that this module's docstring describes."""
    found, target = groups(dump.goroutines), dump.target
    group_of = {member.id: number for number, group in enumerate(found[:_MOST_GROUPS]) for member in group.members}

    def numbers(ids: list[int]) -> list[int]:
        return sorted({group_of[one] for one in ids if one in group_of})

    oldest = max((group.oldest_ns for group in found if group.oldest_ns is not None), default=None)
    facts = [sanitize(target.go_version, 40), sanitize(target.exe, _NAME_LIMIT), f"gotrace {sanitize(dump.version, 40)}"]
    facts += [f"the oldest known wait is of about {format_duration(oldest)}"] if oldest is not None else []
    frames = _Frames()
    return {
        "title": f"{sanitize(target.comm, 40)} ({target.pid})",
        "facts": facts,
        "notes": [sanitize(note, 1000) for note in dump.notes],
        "goroutines": len(dump.goroutines),
        "left": max(0, len(found) - _MOST_GROUPS),
        "colours": _COLOURS,
        "verdicts": [
            {"kind": one.kind, "text": sanitize(one.text, 2000), "certain": one.certain, "groups": numbers(one.goroutines)}
            for one in dump.verdicts
        ],
        "objects": [
            {
                "text": sanitize(described(one.kind, one.address, one.detail), _NAME_LIMIT), "waiters": one.waiters,
                "oldest": one.oldest_wait_ns, "groups": numbers(one.goroutines),
            }
            for one in several_waiters(dump.objects)[:_MOST_OBJECTS]
        ],
        "groups": [_group(group, frames) for group in found[:_MOST_GROUPS]],
        "frames": frames.columns(),
        "losses": [[number, name, LOSSES.get(name, "")] for name, number in dump.losses.items() if number],
    }


def _group(group: Group, frames: _Frames) -> dict[str, Any]:
    one = group.one
    thing = sanitize(described(group.object.kind, group.object.address, group.object.detail), 1000) if group.object is not None else ""
    return {
        "count": len(group.members), "state": one.state, "reason": sanitize(one.reason), "oldest": group.oldest_ns, "object": thing,
        "labels": [labels_text({key: value}) for key, value in sorted(one.labels.items())], "locked": one.locked_to_thread,
        "frames": [frames.number(frame) for frame in group.frames], "top": _top(group.frames),
        "created": sanitize(plain_name(one.created_by), _NAME_LIMIT), "created_at": sanitize(one.created_at, _NAME_LIMIT),
        "ids": [member.id for member in group.members[:_IDS]],
    }


def _top(frames: tuple[Frame, ...]) -> int:
    """Where to begin: in the program; in a goroutine of the runtime itself at its first function."""
    top = place_of(frames)
    if top < len(frames) and is_runtime(frames[top]):
        return max((index for index, frame in enumerate(frames) if not is_goroutine_root(frame)), default=top)
    return top


class _Frames:
    def __init__(self) -> None:
        self._numbers: dict[Frame, int] = {}

    def number(self, frame: Frame) -> int:
        return self._numbers.setdefault(frame, len(self._numbers))

    def columns(self) -> dict[str, list[str]]:
        return {
            "name": [sanitize(plain_name(frame.name), _NAME_LIMIT) for frame in self._numbers],
            "place": [sanitize(f"{frame.file}:{frame.line}", _NAME_LIMIT) if frame.line else "" for frame in self._numbers],
            "kind": [frame.kind.value for frame in self._numbers],
        }
