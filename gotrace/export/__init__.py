"""Every file format that a profile can be written as: a suffix names it, a pure function makes the bytes."""

from __future__ import annotations

from collections.abc import Callable

from gotrace.errors import UsageError
from gotrace.export.folded import render_folded
from gotrace.export.summary_json import render_json
from gotrace.profile.filters import without_runtime
from gotrace.profile.types import Profile
from gotrace.render.html import render_html

CAPTURE = ".gotrace"
"""The capture itself: written while tracing, not rendered."""

RENDERERS: dict[str, Callable[[Profile], bytes]] = {
    ".folded": lambda profile: render_folded(profile).encode(),
    ".html": render_html,
    ".json": lambda profile: render_json(profile).encode(),
}

FLAME_GRAPHS = frozenset((".folded", ".svg"))
"""Formats that are pictures, or made for one: there the runtime's frames can be folded away. The page folds them itself,
and the others are read by tools that have their own ways to hide a frame."""

# Suffixes that end in a shorter one's: matched first, so that x.speedscope.json is never taken for a summary.
_RESERVED = (".pb.gz", ".pftrace", ".speedscope.json", ".svg")


def format_of(path: str) -> str:
    """The format that `path`'s suffix asks for: a key of `RENDERERS`, or `CAPTURE`; ``-`` is folded text.

    Raises `UsageError` where no format goes by that suffix.
    """
    if path == "-":
        return ".folded"
    name = path.rsplit("/", 1)[-1].lower()
    known = sorted((*RENDERERS, CAPTURE, *_RESERVED), key=len, reverse=True)
    suffix = next((suffix for suffix in known if name.endswith(suffix)), None)
    if suffix is None or (suffix != CAPTURE and suffix not in RENDERERS):
        raise _unknown(f"cannot tell a format that gotrace writes from the output's name: {path!r}")
    return suffix


def render(profile: Profile, suffix: str, runtime: bool | None = None) -> bytes:
    """`profile` in the format of `suffix` (as from `format_of`); raises `UsageError` where there is no such format.

    `runtime`: False folds the runtime's frames away in flame graphs, True shows them also in the page from the start, None
    is each format's own way. No total depends on it.
    """
    renderer = RENDERERS.get(suffix)
    if renderer is None:
        raise _unknown(f"no format is rendered under the suffix {suffix!r}")
    if suffix == ".html":
        return render_html(profile, bool(runtime))
    if suffix in FLAME_GRAPHS and runtime is False:
        profile = without_runtime(profile)
    return renderer(profile)


def _unknown(message: str) -> UsageError:
    formats = " ".join((*sorted(RENDERERS), CAPTURE))
    return UsageError(message, hint=f"end the name in one of {formats}, or write folded text to stdout with -o -")
