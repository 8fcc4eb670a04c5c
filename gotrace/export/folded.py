"""Folded stacks, one per line, for flamegraph.pl, inferno, speedscope and anything that reads text."""

from __future__ import annotations

from collections.abc import Iterator

from gotrace.common.vocabulary import FrameKind
from gotrace.profile.frames import label_frames
from gotrace.profile.types import Frame, Profile, StackStat
from gotrace.render.frames import reason_label, without_waker
from gotrace.render.text import sanitize

NAME_LIMIT = 1000
"""The most characters of one frame: readers that hold a line in memory survive a hostile symbol table."""

_SUFFIX = {FrameKind.KERNEL: "_[k]", FrameKind.WAKER: "_[w]", FrameKind.LABEL: "_[l]"}


def render_folded(profile: Profile) -> str:
    """``root;…;leaf;[state: reason];waker's leaf;…;waker's root NANOSECONDS``, sorted, equal stacks merged; values add up to the
    profile's total.

    The value is whole nanoseconds off the CPU inside the window. Annotations are flamegraph.pl's: ``_[k]`` kernel, ``_[w]`` waker,
    ``_[i]`` inlined; ``_[l]``, which is ours, is a profiler label. With several targets the root frame is ``comm (pid)``. A ``;`` in a
    name becomes ``:``; unprintable characters are escaped.
    """
    lines: dict[str, int] = {}
    for line, stack in folded_lines(profile):
        lines[line] = lines.get(line, 0) + stack.distribution.total_ns
    return "".join(f"{line} {value}\n" for line, value in sorted(lines.items()))


def folded_lines(profile: Profile) -> Iterator[tuple[str, StackStat]]:
    """The text of each stack, in the profile's order, not merged."""
    several = len(profile.targets) > 1
    process = {target.pid: _clean(f"{target.comm} ({target.pid})") for target in profile.targets}
    for stack in profile.stacks:
        parts = [process.get(stack.pid, f"({stack.pid})")] if several else []
        parts += [_frame(frame) for frame in (*label_frames(stack), *reversed(without_waker(stack.frames)))]
        parts.append(_clean(reason_label(stack)))
        parts += [_frame(frame) for frame in reversed(stack.frames) if frame.kind is FrameKind.WAKER]
        yield ";".join(parts), stack


def _frame(frame: Frame) -> str:
    suffix = _SUFFIX.get(frame.kind, "_[i]" if frame.inlined else "")
    return _clean(frame.name or "(no name)") + suffix


def _clean(name: str) -> str:
    return sanitize(name, NAME_LIMIT).replace(";", ":")
