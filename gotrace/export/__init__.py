"""Every file format in which a profile can be written: a suffix names it, a pure function makes the bytes."""

from __future__ import annotations

from collections.abc import Callable

from gotrace.common.errors import UsageError
from gotrace.export.folded import render_folded
from gotrace.export.parquet import PARQUET, check_pyarrow, render_parquet
from gotrace.export.perfetto import render_perfetto
from gotrace.export.pprof import render_pprof
from gotrace.export.speedscope import render_speedscope
from gotrace.export.summary_json import render_json
from gotrace.profile.filters import without_runtime
from gotrace.profile.types import Profile
from gotrace.render.html import render_html
from gotrace.render.svg import render_svg

CAPTURE = ".gotrace"
"""The capture itself: written while tracing, not rendered."""

NEEDS_TIMELINE = ".pftrace"
"""The format that shows single intervals: a trace with such an output records them."""

HAS_SINGLES = PARQUET
"""The format that has single intervals if they are recorded anyway."""

RENDERERS: dict[str, Callable[[Profile], bytes]] = {
    ".folded": lambda profile: render_folded(profile).encode(),
    ".html": render_html,
    ".json": lambda profile: render_json(profile).encode(),
    ".parquet": render_parquet,
    ".pb.gz": render_pprof,
    ".pftrace": render_perfetto,
    ".svg": render_svg,
    ".speedscope.json": render_speedscope,
}


def format_of(path: str) -> str:
    """The format of `path`'s suffix: a key of `RENDERERS`, or `CAPTURE`; ``-`` is folded text.

    Raises:
        UsageError: no format has that suffix.
        Refused: what writes that format is not installed.
    """
    if path == "-":
        return ".folded"
    name = path.rsplit("/", 1)[-1].lower()
    # Longer suffixes come before those in which they end: x.speedscope.json is never taken for a summary.
    known = sorted((*RENDERERS, CAPTURE), key=len, reverse=True)
    suffix = next((suffix for suffix in known if name.endswith(suffix)), None)
    if suffix is None:
        raise _unknown(f"cannot tell a format that gotrace writes from the output's name: {path!r}")
    if suffix == PARQUET:
        check_pyarrow()
    return suffix


def render(profile: Profile, suffix: str, runtime: bool | None = None) -> bytes:
    """`profile` in the format of `suffix` (as from `format_of`); raises `UsageError` if there is no such format.

    `runtime`: False folds the runtime's frames away in flame graphs (page, picture, folded text), True shows them there, None is each
    renderer's default. The other formats have all frames: their readers can hide some. No total depends on it.
    """
    renderer = RENDERERS.get(suffix)
    if renderer is None:
        raise _unknown(f"no format is rendered under the suffix {suffix!r}")
    if suffix == ".html":
        return render_html(profile, bool(runtime))
    if suffix == ".svg":
        return render_svg(profile, bool(runtime))
    if suffix == ".folded" and runtime is False:
        profile = without_runtime(profile)
    return renderer(profile)


def _unknown(message: str) -> UsageError:
    formats = " ".join((*sorted(RENDERERS), CAPTURE))
    return UsageError(message, hint=f"end the name in one of {formats}, or write folded text to stdout with -o -")
