"""The static flame graph: an SVG for any viewer, with hovering, zoom and search in a browser."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from textwrap import wrap

from gotrace.common.vocabulary import CONTINUED, LOSS_TEXT, FrameKind, Loss
from gotrace.profile.frames import plain_name
from gotrace.profile.told import INCOMPLETE, governor_lines, told
from gotrace.profile.types import Profile
from gotrace.render.colours import MEANING, PROCESS, STATE, frame_colours
from gotrace.render.frames import folded_frames, is_background, label_frames, reason_label
from gotrace.render.merge import Tree
from gotrace.render.text import TOLD_LIMIT, format_duration, format_share, sanitize

NAME_LIMIT = 400
"""The most characters of one name in the file."""

WIDTH, MARGIN, ROW = 1200, 10, 17
MIN_WIDTH = 0.1
"""In pixels: a narrower frame is not drawn."""
_LETTER = 7.2
"""The width of a letter in pixels: 0.6 em, as in nearly all monospaced fonts."""
_INNER = WIDTH - 2 * MARGIN

Key = tuple[str, str]
"""Name and kind."""


@dataclass
class _Picture:
    """What is drawn, and what is only mentioned."""

    tree: Tree[Key]
    hidden_ns: int
    narrow: int = 0
    narrow_ns: int = 0


def render_svg(profile: Profile, runtime: bool = False) -> bytes:
    """Returns an SVG (UTF-8) 1200 pixels wide; the roots are at the bottom, the widths are time off the CPU in the window.

    Without `runtime`, the runtime's goroutines and the frames on its way into the scheduler are left out. Frames narrower than 0.1 pixel
    are always left out. The picture says what was left out, and what was lost.
    """
    picture = _merge(profile, runtime)
    boxes = list(_boxes(picture))
    depth = max(level for level, _, _, _ in boxes) + 1
    head = list(_head(profile))
    top = 30 + 16 * len(head) + 44
    bottom = top + depth * ROW
    styles = _Styles()
    foot = list(_foot(picture, boxes, profile))
    height = bottom + 40 + 16 * len(foot) + 20
    script = (files("gotrace.render") / "assets" / "static.js").read_text(encoding="utf-8")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" version="1.1" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="ui-monospace, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" '
        'font-size="12">',
        f"<title>{_safe(_title(profile))}</title>",
        "<style>#frames g:hover rect{stroke:#0b1a2a;stroke-width:1}#frames text{pointer-events:none}"
        ".control{cursor:pointer;text-decoration:underline}.above{opacity:.45}.off{display:none}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(WIDTH / 2, 24, _title(profile), size=16, anchor="middle"),
        *(_text(MARGIN, 44 + 16 * row, line, fill) for row, (line, fill) in enumerate(head)),
        *_state_bar(profile, 30 + 16 * len(head) + 8),
        '<g id="frames">',
        *(_frame(box, picture.tree, bottom, styles) for box in boxes),
        "</g>",
        _text(MARGIN, bottom + 20, " ", ident="details"),
        _text(WIDTH - MARGIN, bottom + 20, " ", anchor="end", ident="matched"),
        *(_text(MARGIN, bottom + 40 + 16 * row, line, fill) for row, (line, fill) in enumerate(foot)),
        *_legend(picture.tree, bottom + 40 + 16 * len(foot)),
        # The script shows them: without a script they would do nothing.
        _text(MARGIN, 24, "Reset zoom", "#0b62a8", ident="reset", classes="control off"),
        _text(WIDTH - MARGIN, 24, "Search", "#0b62a8", anchor="end", ident="search", classes="control off"),
        _text(WIDTH - MARGIN - 60, 24, "ic", "#5a6672", anchor="end", ident="case", classes="control off"),
        f"<script><![CDATA[\n{script}]]></script>",
        "</svg>",
    ]
    return ("\n".join(parts) + "\n").encode()


# ---- the tree -------------------------------------------------------------------------------------------------------


def _merge(profile: Profile, runtime: bool) -> _Picture:
    shown, hidden_ns = profile.stacks, 0
    if not runtime:
        shown = [stack for stack in profile.stacks if not is_background(stack)]
        hidden_ns = profile.total().total_ns - sum(stack.distribution.total_ns for stack in shown)
    picture = _Picture(Tree(("all", PROCESS)), hidden_ns)
    several = len(profile.targets) > 1
    process = {target.pid: f"{target.comm} ({target.pid})" for target in profile.targets}
    for stack in shown:
        path: list[Key] = [(process.get(stack.pid, f"({stack.pid})"), PROCESS)] if several else []
        kept = stack.frames if runtime else folded_frames(stack.frames)
        frames = [(frame.name or "(no name)", frame.kind) for frame in reversed(kept)]
        path += [(frame.name, frame.kind) for frame in label_frames(stack)]
        # What stopped the goroutine, then what woke it: the waker's stack is upside down.
        path += [key for key in frames if key[1] is not FrameKind.WAKER]
        path.append((reason_label(stack), FrameKind.REASON))
        path += [key for key in frames if key[1] is FrameKind.WAKER]
        count = 0 if stack.reason in CONTINUED else stack.distribution.count
        picture.tree.add(path, stack.distribution.total_ns, count)
    return picture


_Box = tuple[int, float, float, int]
"""Level counted from the root, x and width in pixels, and the node."""


def _boxes(picture: _Picture) -> Iterator[_Box]:
    """Heaviest child first. If a frame is too narrow, everything above it is left out too."""
    tree = picture.tree
    children, sizes, totals = tree.heaviest_first(), tree.sizes(), tree.total_ns
    scale = _INNER / totals[0] if totals[0] else 0.0
    waiting: list[_Box] = [(0, float(MARGIN), float(_INNER), 0)]
    while waiting:
        box = waiting.pop()
        yield box
        level, x, _, node = box
        above: list[_Box] = []
        for child in children[node]:
            width = totals[child] * scale
            if width < MIN_WIDTH:
                picture.narrow += sizes[child]
                picture.narrow_ns += totals[child]
                continue
            above.append((level + 1, x, width, child))
            x += width
        waiting += reversed(above)


# ---- what is drawn --------------------------------------------------------------------------------------------------


class _Styles:
    """Label and colours of each function, made once."""

    def __init__(self) -> None:
        self._known: dict[Key, tuple[str, str, str, str]] = {}

    def of(self, key: Key) -> tuple[str, str, str, str]:
        """Label, the same escaped, fill and ink."""
        style = self._known.get(key)
        if style is None:
            label = sanitize(key[0] if key[1] is FrameKind.LABEL else plain_name(key[0]), NAME_LIMIT)
            style = self._known[key] = (label, _safe(label), *frame_colours(key[1], key[0]))
        return style


def _frame(box: _Box, tree: Tree[Key], bottom: int, styles: _Styles) -> str:
    level, x, width, node = box
    key, total_ns = tree.key[node], tree.total_ns[node]
    label, escaped, fill, ink = styles.of(key)
    y = bottom - (level + 1) * ROW
    count = f"{tree.count[node]:,} interval" + ("" if tree.count[node] == 1 else "s")
    share = format_share(total_ns, tree.total_ns[0]).replace("<", "&lt;")
    # The script takes the name from the first line: a name has no line end. From the box it takes the true width, from which the
    # gap to the next one follows: a tenth, at most 0.3.
    title = f"<title>{escaped}\n{format_duration(total_ns)}, {share}, {count}</title>"
    drawn = f"{width - 0.3:.2f}" if width >= 3 else f"{0.9 * width:.3f}"
    words = _fit(label, width, key[1])
    text = _text(x + 3, y + 12, words, ink) if words else ""
    plain = plain_name(key[0]) == key[0]
    raw = "" if plain else f' data-raw="{_safe(sanitize(key[0], NAME_LIMIT))}"'  # the search matches it as well
    return f'<g{raw}>{title}<rect x="{x:.2f}" y="{y}" width="{drawn}" height="{ROW - 1}" fill="{fill}"/>{text}</g>'


def _fit(label: str, width: float, kind: str) -> str:
    """As much of a name as the width holds: the import path's folders are dropped first, then the end. The script does the same."""
    room = int((width - 6) / _LETTER)
    if room < 3:
        return ""
    if len(label) > room and kind in (FrameKind.GO, FrameKind.RUNTIME, FrameKind.CGO, FrameKind.WAKER):
        opened = min((at for at in (label.find("["), label.find("(")) if at >= 0), default=len(label))
        label = label[label.rfind("/", 0, opened) + 1 :]
    return label if len(label) <= room else label[: room - 1] + "…"


def _state_bar(profile: Profile, y: int) -> Iterator[str]:
    states = profile.by_state()
    total = sum(distribution.total_ns for distribution in states.values())
    x, key_x = float(MARGIN), float(MARGIN)
    for state, distribution in states.items():
        width = _INNER * distribution.total_ns / total if total else 0.0
        words = f"{state.value} {format_duration(distribution.total_ns)}"
        yield (
            f'<g><title>{words}, {_safe(format_share(distribution.total_ns, total))}</title><rect x="{x:.2f}" y="{y}" '
            f'width="{width:.2f}" height="8" fill="{STATE[state]}"/>'
            f'<rect x="{key_x:.0f}" y="{y + 14}" width="9" height="9" fill="{STATE[state]}"/>'
            f'{_text(key_x + 13, y + 23, words, "#5a6672")}</g>'
        )
        x += width
        key_x += 13 + _LETTER * len(words) + 18


def _legend(tree: Tree[Key], y: int) -> Iterator[str]:
    present = {kind for _, kind in tree.key[1:]}
    x = float(MARGIN)
    for kind, words in MEANING.items():
        if kind in present:
            fill, _ = frame_colours(kind)
            box = f'x="{x:.0f}" y="{y - 9}" width="9" height="9"'
            yield f'<rect {box} fill="{fill}" stroke="#8b8f98" stroke-width=".5"/>'
            yield _text(x + 13, y, words, "#5a6672")
            x += 13 + _LETTER * len(words) + 18


# ---- what is told ---------------------------------------------------------------------------------------------------

_ROOM = int(_INNER / _LETTER)
"""How many letters a line holds."""
_ALARM, _QUIET = "#b00020", "#5a6672"


def _title(profile: Profile) -> str:
    names = ", ".join(f"{sanitize(target.comm, 40)} ({target.pid})" for target in profile.targets[:4])
    return f"{names or 'gotrace'}: off-CPU time of goroutines"


def _head(profile: Profile) -> Iterator[tuple[str, str]]:
    total = profile.total()
    window = profile.window
    versions = sorted({sanitize(target.go_version, 40) for target in profile.targets})
    facts = [
        sanitize(window.start, 40), f"{format_duration(window.duration_ns)} window", *versions,
        f"{format_duration(total.total_ns)} off-CPU", *([f"{profile.goroutines:,} goroutines"] if profile.complete else []),
        f"{profile.intervals:,} intervals",
    ]  # fmt: skip
    if profile.probed_ns < window.duration_ns:
        facts.append(f"probes attached for {format_share(profile.probed_ns, window.duration_ns)}")
    yield " · ".join(facts), _QUIET
    for part in profile.filters:
        yield f"Only a part was recorded: {sanitize(part, 130)}", _ALARM
    if not profile.complete:
        yield f"INCOMPLETE: {INCOMPLETE}.", _ALARM
    for line in [*told(profile), *governor_lines(profile)]:
        for row in wrap(sanitize(line, TOLD_LIMIT), _ROOM, max_lines=5, placeholder=" …"):
            yield row, _ALARM
    for loss in Loss:
        if profile.losses.get(loss):
            yield sanitize(f"LOSS {profile.losses[loss]:,} {loss.value}: {LOSS_TEXT[loss]}", 162), _ALARM


def _foot(picture: _Picture, boxes: list[_Box], profile: Profile) -> Iterator[tuple[str, str]]:
    whole = profile.total().total_ns
    if picture.hidden_ns:
        hidden = f"{format_duration(picture.hidden_ns)}, {format_share(picture.hidden_ns, whole)}"
        yield (
            f"Not drawn: goroutines of the runtime itself, {hidden} of all off-CPU time; shares are of what is drawn.",
            _QUIET,
        )
    if picture.narrow:
        narrow = f"{format_duration(picture.narrow_ns)}, {format_share(picture.narrow_ns, whole)}"
        yield f"Not drawn: {picture.narrow:,} frames narrower than {MIN_WIDTH} pixels, {narrow}.", _QUIET
    if len(boxes) == 1:
        yield "Nothing to draw.", _QUIET


def _text(
    x: float, y: float, words: str, fill: str = "#17202a", size: int = 0, anchor: str = "", ident: str = "",
    classes: str = "",
) -> str:
    attributes = f'x="{x:.0f}" y="{y:.0f}" fill="{fill}"'
    for name, value in (("font-size", size), ("text-anchor", anchor), ("id", ident), ("class", classes)):
        attributes += f' {name}="{value}"' if value else ""
    return f"<text {attributes}>{_safe(words)}</text>"


def _safe(text: str) -> str:
    """Text for element content and attributes. `sanitize` has removed everything that XML 1.0 forbids."""
    return html.escape(text)
