"""speedscope's own format. Its definition: src/lib/file-format-spec.ts and the JSON schema published with it."""

from __future__ import annotations

import json
from typing import Any

from gotrace.common.vocabulary import FrameKind, Loss, Mode
from gotrace.export.labels import split_boundary, waker_label
from gotrace.profile.types import Frame, Profile
from gotrace.render.frames import label_frames, without_waker
from gotrace.render.text import format_duration, format_share, sanitize

NAME_LIMIT = 600
"""The most characters of one string: as many as the HTML page holds."""

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def render_speedscope(profile: Profile) -> bytes:
    """JSON (ASCII) with one sampled profile per state, largest first; weights are nanoseconds off the CPU in the window.

    A sample is a stack, root first: the process if there are several, the goroutine's own functions, the kernel's, why it stopped
    (``[waiting: chan receive]``) and, if known, its waker (``woken by main.send``). speedscope counts a function once per entry in the
    list of frames, so a line is given only if a function has a single one. What a reader must know beside the figures follows each
    profile's name in short form, the only place where the page shows it (the name of the whole is only in the browser's tab):
    ``waiting · 9.39 s, probes 2.56 s · LOSSES 8 stack_in_transit · only stacks matching main``.
    """
    frames = _Frames(profile)
    samples: dict[str, dict[tuple[int, ...], int]] = {state.value: {} for state in profile.by_state()}
    several = len(profile.targets) > 1
    process = {target.pid: f"{target.comm} ({target.pid})" for target in profile.targets}
    for stack in profile.stacks:
        path = [frames.marker(process.get(stack.pid, f"({stack.pid})"))] if several else []
        path += [frames.marker(frame.name) for frame in label_frames(stack)]
        path += [frames.of(frame) for frame in reversed(without_waker(stack.frames))]
        reason = stack.reason if stack.reason != stack.state.value else ""
        path.append(frames.marker(f"[{stack.state.value}: {reason}]" if reason else f"[{stack.state.value}]"))
        waker = waker_label(stack)
        if waker:
            path.append(frames.marker(f"woken by {waker}"))
        rows, key = samples[stack.state.value], tuple(path)
        rows[key] = rows.get(key, 0) + stack.distribution.total_ns
    name, about = _name(profile), _about(profile)
    document: dict[str, Any] = {
        "$schema": _SCHEMA,
        "exporter": f"gotrace@{sanitize(profile.version, 40)}",
        "name": name,
        "activeProfileIndex": 0,
        "shared": {"frames": frames.listed()},
        # A file without any profile is refused.
        "profiles": [_sampled(f"{state} · {about}", rows) for state, rows in samples.items()]
        or [_sampled(f"nothing recorded · {about}", {})],
    }
    return (json.dumps(document, separators=(",", ":")) + "\n").encode()


def _sampled(name: str, rows: dict[tuple[int, ...], int]) -> dict[str, Any]:
    return {
        "type": "sampled",
        "name": name,
        "unit": "nanoseconds",
        "startValue": 0,
        "endValue": sum(rows.values()),
        "samples": list(rows),
        "weights": list(rows.values()),
    }


def _name(profile: Profile) -> str:
    targets = ", ".join(f"{sanitize(target.comm, 40)} ({target.pid})" for target in profile.targets[:4])
    name = f"{targets or 'gotrace'} off-CPU {format_duration(profile.window.duration_ns)}"
    lost = [f"{profile.losses[loss]:,} {loss.value}" for loss in Loss if profile.losses.get(loss)]
    if lost:
        name += " LOSSES: " + ", ".join(lost)
    return name if profile.complete else name + " INCOMPLETE"


def _about(profile: Profile) -> str:
    """`gotrace.export.about.comments` in short: window, mode, and what is lost, left out, missing and given up."""
    window = profile.window
    when = format_duration(window.duration_ns)
    if profile.probed_ns < window.duration_ns and window.mode != Mode.SAMPLE:
        when += f", probes {format_duration(profile.probed_ns)}"
    parts = [when]
    if window.mode != Mode.EXACT:
        parts.append(f"mode {window.mode}")
    if not profile.complete:
        parts.append("INCOMPLETE")
    losses = sorted(((count, loss.value) for loss, count in profile.losses.items() if count), reverse=True)
    if losses:
        more = len(losses) - _LOSSES_NAMED
        named = ", ".join(f"{count:,} {loss}" for count, loss in losses[:_LOSSES_NAMED])
        parts.append(f"LOSSES {named}" + (f", {more} more" if more > 0 else ""))
    parts += [f"only {part}" for part in profile.filters]
    if profile.missing:
        parts.append("MISSING " + ", ".join(dict.fromkeys(missing.stage for missing in profile.missing)))
    given_up = _given_up(profile)
    if given_up:
        parts.append("governor: " + ", ".join(given_up))
    parts += [f"note: {note}" for note in dict.fromkeys(profile.notes)]
    return " · ".join(sanitize(part, _PART_LIMIT) for part in parts)


_LOSSES_NAMED = 3
_PART_LIMIT = 160


def _given_up(profile: Profile) -> list[str]:
    """What a cap on the cost gave up, and for how much of the window."""
    report, window = profile.governor, profile.window.duration_ns
    if report is None:
        return []
    stages = (
        (report.wakers_off_ns, "no wakers"), (report.kernel_off_ns, "no system calls"), (report.sampled_ns, "sampled"),
        (report.lean_ns, "starts inferred"), (report.looked_ns, "samples without probes"), (report.paused_ns, "nothing watched"),
    )  # fmt: skip
    return [f"{what} {format_share(lasted, window)}" for lasted, what in stages if lasted]


class _Frames:
    """The table of frames: one entry for each function."""

    def __init__(self, profile: Profile) -> None:
        self._entries: dict[tuple[str, str], int] = {}
        self._lines: list[set[int]] = []
        # The profile is kept, so that identities stay valid: captures share frames among stacks.
        self._profile = profile
        self._seen: dict[int, int] = {}

    def of(self, frame: Frame) -> int:
        index = self._seen.get(id(frame))
        if index is None:
            name, file = frame.name or "(no name)", frame.file
            if frame.kind is FrameKind.SYSCALL:
                name = split_boundary(name)[0]
            if frame.kind in (FrameKind.KERNEL, FrameKind.SYSCALL):
                # speedscope colours by file: kernel functions get a colour of their own.
                file = file or "[kernel]"
            index = self._seen[id(frame)] = self._index(name, file)
            if frame.line:
                self._lines[index].add(frame.line)
        return index

    def marker(self, name: str) -> int:
        return self._index(name, "")

    def _index(self, name: str, file: str) -> int:
        key = name, file
        index = self._entries.get(key)
        if index is None:
            index = self._entries[key] = len(self._entries)
            self._lines.append(set())
        return index

    def listed(self) -> list[dict[str, Any]]:
        result = []
        for (name, file), lines in zip(self._entries, self._lines, strict=True):
            entry: dict[str, Any] = {"name": sanitize(name, NAME_LIMIT)}
            if file:
                entry["file"] = sanitize(file, NAME_LIMIT)
            if len(lines) == 1:
                entry["line"] = next(iter(lines))
            result.append(entry)
        return result
