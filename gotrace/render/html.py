"""The interactive flame graph: one HTML file that works offline, whatever the target calls its functions.

Names reach the page only inside a block of compressed data and leave it only through textContent and canvas. The
Content-Security-Policy names the hashes of the one script and the one style sheet, so nothing else could run even if an escape were
missed. `gotrace.render.pagedata` describes the data; the scripts in ``assets`` are its only readers.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import zlib
from importlib.resources import files
from typing import Any

from gotrace.profile.types import Profile
from gotrace.render.pagedata import page_data as _page_data
from gotrace.render.text import format_duration

SCRIPTS = (
    "words.js",
    "elements.js",
    "data.js",
    "requests.js",
    "tree.js",
    "view.js",
    "colours.js",
    "flame.js",
    "svg.js",
    "card.js",
    "table.js",
    "waterfall.js",
    "latency.js",
    "head.js",
    "page.js",
)
"""In the order in which they run."""


def render_html(profile: Profile, runtime: bool = False) -> bytes:
    """Returns a self-contained HTML page (UTF-8): flame graph, table, totals, hot spots and losses of one profile. `runtime`: show the
    runtime's frames from the start."""
    data = _page_data(profile)
    if runtime:
        data["meta"]["runtime"] = True
    return render_page(data)


def render_page(data: dict[str, Any]) -> bytes:
    """Returns the page for `data`, in the form described in `gotrace.render.pagedata`: one profile, or a comparison."""
    return _filled("flamegraph", SCRIPTS, _title(data["meta"]), _packed(data))


def render_data_page(name: str, title: str, data: dict[str, Any]) -> bytes:
    """Returns a page of another kind for its `data`: ``NAME.html``, ``NAME.css`` and ``NAME.js`` of the assets, in the same style."""
    return _filled(name, ("words.js", "elements.js", f"{name}.js"), title, _compressed(data))


def _filled(name: str, scripts: tuple[str, ...], title: str, data: str) -> bytes:
    assets = files("gotrace.render") / "assets"

    def asset(name: str) -> str:
        return (assets / name).read_text(encoding="utf-8")

    style, page = asset("base.css") + asset(f"{name}.css"), asset(f"{name}.html")
    script = "".join(asset(name) for name in scripts)
    policy = (
        f"default-src 'none'; script-src 'sha256-{_digest(script)}'; style-src 'sha256-{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "POLICY": policy,
        "TITLE": html.escape(title),
        "STYLE": style,
        "DATA": data,
        "SCRIPT": script,
    }
    # In one pass, so that a text that contains {{SCRIPT}} stays as it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], page).encode()


def _packed(data: dict[str, Any]) -> str:
    """`data` as JSON, compressed (zlib, RFC 1950), in base 64: nothing in it can be taken for markup.

    The long columns go as small numbers, which compress well; `unpack` of ``assets/data.js`` is the inverse.
    """
    parents, frames = data["nodes"]["parent"], data["nodes"]["frame"]
    # A frame is its index among the frames seen so far under its parent's frame: in a call tree a function has few callees.
    behind: dict[int, dict[int, int]] = {}
    places, fresh = [], []
    for parent, frame in zip(parents, frames, strict=True):
        known = behind.setdefault(frames[parent] if parent >= 0 else -1, {})
        place = known.get(frame)
        if place is None:
            place = known[frame] = len(known)
            fresh.append(frame)
        places.append(place)
    stacks = data["stacks"]
    buckets: list[int] = []
    for pairs in stacks["buckets"]:
        buckets.append(len(pairs) // 2)
        last = 0
        for index in range(0, len(pairs), 2):
            buckets += (pairs[index] - last, pairs[index + 1])
            last = pairs[index]
    packed = {
        **data,
        "nodes": {"parent": [node - parent for node, parent in enumerate(parents)], "place": places, "fresh": fresh},
        "stacks": {**stacks, "node": _steps(stacks["node"]), "buckets": buckets},
    }
    return _compressed(packed)


def _compressed(data: dict[str, Any]) -> str:
    text = json.dumps(data, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 6)).decode()


def _steps(values: list[int]) -> list[int]:
    return [value - last for value, last in zip(values, [0, *values], strict=False)]


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _title(meta: dict[str, Any]) -> str:
    names = ", ".join(target["name"] for target in meta["targets"][:4])
    what = "off-CPU change" if "diff" in meta else f"off-CPU {format_duration(meta['duration'])}"
    return f"{names or 'gotrace'} {what}"
