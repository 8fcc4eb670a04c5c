"""A dump as one HTML page without scripts: verdicts, objects with several waiters, and groups of goroutines with their stacks."""

from __future__ import annotations

import base64
import hashlib
from html import escape

from gotrace.common.vocabulary import FrameKind
from gotrace.dump.groups import Group, described, groups
from gotrace.dump.text import labels_text
from gotrace.dump.types import LOSSES, Dump
from gotrace.profile.frames import plain_name
from gotrace.render.text import format_duration, sanitize

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5em; max-width: 110em; color: #222; background: #fff }
h1 { font-size: 1.3em } h2 { font-size: 1.1em; margin-top: 1.5em }
.certain { color: #a00; font-weight: 600 } .likely { color: #850; font-weight: 600 }
summary { cursor: pointer; padding: .15em 0 } b { font-variant-numeric: tabular-nums } .dim { color: #777 }
pre { margin: .2em 0 .8em 2em; overflow-x: auto; font: 12px/1.4 ui-monospace, monospace }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } .certain { color: #f77 } .likely { color: #fb5 } }
"""
_MOST_GROUPS = 5000
_MOST_OBJECTS = 100


def dump_html(dump: Dump) -> str:
    """The page; everything that came from the target is escaped, and its policy allows nothing but its own style."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    target = dump.target
    title = f"{sanitize(target.comm, 40)} (pid {target.pid}) · {sanitize(target.go_version, 30)} · {len(dump.goroutines):,} goroutines"
    parts = [
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">",
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{digest}'\">",
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>",
    ]
    for verdict in dump.verdicts:
        kind, mark = (verdict.kind, "certain") if verdict.certain else (f"{verdict.kind}, probably", "likely")
        parts.append(f"<p class=\"{mark}\">{escape(kind)}: {escape(sanitize(verdict.text, 2000))}</p>")
    parts += [f"<p class=\"dim\">{escape(sanitize(note))}</p>" for note in dump.notes]
    shared = [one for one in dump.objects if one.waiters > 1]
    if shared:
        parts.append("<h2>What several wait for</h2><ul>")
        for one in shared[:_MOST_OBJECTS]:
            oldest = f", the oldest for about {format_duration(one.oldest_wait_ns)}" if one.oldest_wait_ns is not None else ""
            parts.append(f"<li><b>{one.waiters:,}</b> goroutines: {escape(described(one.kind, one.address, one.detail) + oldest)}</li>")
        parts.append("</ul>")
    found = groups(dump.goroutines)
    parts.append("<h2>Goroutines</h2>")
    parts += map(_group, found[:_MOST_GROUPS])
    if len(found) > _MOST_GROUPS:
        parts.append(f"<p>and {len(found) - _MOST_GROUPS:,} more groups</p>")
    lost = [f"<li>{number:,} {escape(name)}: {escape(LOSSES.get(name, ''))}</li>" for name, number in dump.losses.items() if number]
    parts.append(f"<h2>Losses</h2>{'<ul>' + ''.join(lost) + '</ul>' if lost else '<p>none</p>'}</body></html>\n")
    return "".join(parts)


def _group(group: Group) -> str:
    one, count = group.one, len(group.members)
    said = [f"{one.state}: {one.reason}" if one.reason else one.state]
    said += [f"up to about {format_duration(group.oldest_ns)}"] if group.oldest_ns is not None else []
    said += [f"at {described(group.object.kind, group.object.address, group.object.detail)}"] if group.object is not None else []
    said += [f"{{{labels_text(one.labels)}}}"] if one.labels else []
    lines = [_line(plain_name(frame.name), f"{frame.file}:{frame.line}" if frame.line else "", frame.kind) for frame in group.frames]
    lines += [_line(f"created by {one.created_by}", one.created_at, FrameKind.RUNTIME)] if one.created_by else []
    ids = ", ".join(str(member.id) for member in group.members[:20]) + (" …" if count > 20 else "")
    top = next((plain_name(frame.name) for frame in group.frames if not frame.name.startswith(("runtime.", "sync.", "internal/"))), "")
    return (
        f"<details{' open' if count > 1 else ''}><summary><b>{count:,}</b> {escape(sanitize(top, 200))} "
        f"<span class=\"dim\">{escape(sanitize(', '.join(said), 1000))}</span></summary><pre>"
        f"<span class=\"dim\">goroutine{'' if count == 1 else 's'} {ids}</span>\n{''.join(lines)}</pre></details>"
    )


def _line(name: str, place: str, kind: FrameKind) -> str:
    text = escape(sanitize(name, 600))
    text = f"<span class=\"dim\">{text}</span>" if kind is FrameKind.RUNTIME else text
    return f"{text}  <span class=\"dim\">{escape(sanitize(place, 600))}</span>\n"
