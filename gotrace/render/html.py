"""The interactive flame graph: one HTML file that works offline, whatever the target calls its functions.

The page's data is column-oriented JSON with every string, function, frame and common stack prefix stored once; the
scripts in ``assets`` are its only readers. Names reach the page only as JSON text inside a data block and
leave it only through textContent and canvas; the Content-Security-Policy names the hashes of the two scripts and the
one style sheet, so nothing else could run even if an escape were missed.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from typing import Any

from gotrace.profile.types import Frame, Profile
from gotrace.render.frames import is_background, is_goroutine_root, is_runtime, is_runtime_waker, reason_label
from gotrace.render.text import format_duration, sanitize
from gotrace.vocabulary import LOSS_TEXT, FrameKind, Loss

NAME_LIMIT = 600
"""Characters of one name that the page holds."""

_PROCESS = "process"
"""Kind of the root frame that stands for a process: the page's own, not part of the public vocabulary."""

# What `folded_frames` does in Python, the page does itself when a box is ticked: the marks it needs, per function.
_PLAIN, _RUNTIME, _GOEXIT = 0, 1, 2


def render_html(profile: Profile) -> bytes:
    """A self-contained HTML page (UTF-8) with the flame graph, the table of top stacks, totals and losses."""
    assets = files("gotrace.render") / "assets"
    style, tree, script, page = (
        (assets / name).read_text(encoding="utf-8")
        for name in ("flamegraph.css", "tree.js", "flamegraph.js", "flamegraph.html")
    )
    data = json.dumps(_page_data(profile), separators=(",", ":"))
    policy = (
        f"default-src 'none'; script-src 'sha256-{_digest(tree)}' 'sha256-{_digest(script)}'; "
        f"style-src 'sha256-{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "POLICY": policy,
        "TITLE": html.escape(_title(profile)),
        "STYLE": style,
        # json.dumps has escaped all that is not ASCII, U+2028 and U+2029 with it.
        "DATA": data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"),
        "TREE": tree,
        "SCRIPT": script,
    }
    # One pass, so that a function called {{SCRIPT}} stays one.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], page).encode()


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _title(profile: Profile) -> str:
    names = ", ".join(f"{sanitize(target.comm, 40)} ({target.pid})" for target in profile.targets[:4])
    return f"{names or 'gotrace'} off-CPU {format_duration(profile.window.duration_ns)}"


class _Interned:
    """Values in order of first appearance, each with its index."""

    def __init__(self) -> None:
        self.index: dict[Any, int] = {}

    def __call__(self, value: Any) -> int:
        return self.index.setdefault(value, len(self.index))

    def column(self, position: int) -> list[Any]:
        return [value[position] for value in self.index]


def _page_data(profile: Profile) -> dict[str, Any]:
    texts, functions, frames, nodes = _Interned(), _Interned(), _Interned(), _Interned()
    kinds = [kind.value for kind in FrameKind] + [_PROCESS]
    several = len(profile.targets) > 1
    process = {target.pid: f"{target.comm} ({target.pid})" for target in profile.targets}

    def frame_index(frame: Frame, kind: str) -> int:
        mark = _GOEXIT if is_goroutine_root(frame) else _RUNTIME if is_runtime(frame) or is_runtime_waker(frame) else _PLAIN
        function = functions((texts(frame.name), kinds.index(kind), mark))
        return frames((function, texts(frame.file), frame.line, int(frame.inlined)))

    index_of: dict[Frame, int] = {}
    columns: dict[str, list[Any]] = {
        key: []
        for key in "node reason state why count total p50 p99 max goroutines progress background goid buckets".split()
    }
    for stack in profile.stacks:
        node = -1
        if several:
            name = process.get(stack.pid, f"({stack.pid})")
            node = nodes((node, frame_index(Frame(name), _PROCESS)))
        for frame in reversed(stack.frames):
            index = index_of.get(frame)
            if index is None:
                index = index_of[frame] = frame_index(frame, frame.kind.value)
            node = nodes((node, index))
        distribution = stack.distribution
        reason = frame_index(Frame(reason_label(stack)), FrameKind.REASON.value)
        row = {
            "node": node,
            "reason": reason,
            "state": texts(stack.state.value),
            "why": texts(stack.reason),
            "count": distribution.count,
            "total": distribution.total_ns,
            "p50": distribution.percentile_ns(0.50),
            "p99": distribution.percentile_ns(0.99),
            "max": distribution.max_ns,
            "goroutines": stack.goroutines,
            "progress": stack.in_progress,
            "background": int(is_background(stack)),
            "goid": stack.goid,
            "buckets": [number for pair in sorted(distribution.histogram.items()) for number in pair],
        }
        for key, value in row.items():
            columns[key].append(value)
    return {
        "meta": _meta(profile),
        "kinds": kinds,
        "texts": [sanitize(text, NAME_LIMIT) for text in texts.index],
        "functions": {"name": functions.column(0), "kind": functions.column(1), "mark": functions.column(2)},
        "frames": {
            "function": frames.column(0),
            "file": frames.column(1),
            "line": frames.column(2),
            "inlined": frames.column(3),
        },
        "nodes": {"parent": nodes.column(0), "frame": nodes.column(1)},
        "stacks": columns,
    }


def _meta(profile: Profile) -> dict[str, Any]:
    total = profile.total()
    return {
        "gotrace": sanitize(profile.version),
        "targets": [
            {
                "name": f"{sanitize(target.comm, 40)} ({target.pid})",
                "exe": sanitize(target.exe, NAME_LIMIT),
                "go": sanitize(target.go_version, 40),
            }
            for target in profile.targets
        ],
        "start": sanitize(profile.window.start, 40),
        "duration": profile.window.duration_ns,
        "attached": profile.window.attached_ns,
        "mode": sanitize(profile.window.mode, 40),
        "intervals": profile.intervals,
        "total": total.total_ns,
        "goroutines": profile.goroutines,
        "complete": profile.complete,
        "filters": [sanitize(text) for text in profile.filters],
        "losses": [
            {"name": loss.value, "count": profile.losses[loss], "text": LOSS_TEXT[loss]}
            for loss in Loss
            if profile.losses.get(loss)
        ],
    }
