"""The data of the interactive page: a profile, or a comparison of two, as plain lists and dicts.

The page data is column-oriented, with every text, function, frame and common stack prefix stored once; durations are ns:

``kinds``
    Names of the frame kinds; ``functions.kind`` is an index into it.
``texts``
    Every string that came from the target, already made safe (`sanitize`) and cut to `NAME_LIMIT`.
``functions``
    ``name`` (text), ``kind``, ``mark`` (0 plain, 1 the runtime's, 2 a goroutine's root: what the page folds away); ``raw``: by
    function, the name as in the binary, if that differs.
``frames``
    ``function``, ``file`` (text), ``line`` (0: not known), ``inlined`` (0 or 1).
``nodes``
    The stacks as a tree, parents before children: ``parent`` (node, -1 at the root) and ``frame``.
``stacks``
    One row per stack, in the profile's order: ``node`` (its leaf; -1: no frames), ``reason`` (the frame that says why), ``state``
    and ``why`` (texts), ``count``, ``total``, ``max``, ``goroutines``, ``progress``, ``background`` (0 or 1), ``goid`` (None if
    goroutines are not kept apart), ``stopped``, ``runs`` and ``run_max`` (long runs that its intervals ended), ``buckets``
    ([bucket, count, bucket, count, ...], ascending).
    Where objects were asked for ``waited``: the frame that stands for what was waited for, -1 where there is none.
    Where some waits lasted the whole window ``idle`` and ``idle_count``: their time and number. Where there are requests
    ``inside`` and ``inside_count``: the time and number of waits in them. With ``--label``
    ``labels``: a list of texts ``key=value``.
``requests``
    Only where there are any. ``stacks``: how many rows of the stacks are such; those behind have no figures and stand for time of
    requests that has no stack. ``causes`` (texts). ``spans``: ``name`` and ``process`` (texts), ``frame`` (of the span function),
    ``rate`` (per second), ``progress``, ``p50``, ``p90``, ``p99``, ``p999``, ``max``, ``shown`` (two percentiles, as fractions),
    ``buckets`` (of durations, ascending: ``bucket``, ``count``, ``total``; ``waits``: [stack, count, total, ...], which add up to
    the total; ``causes``: [cause, ns, ...] of the ``followed`` ns) and ``exemplars``: ``start``, ``duration``, ``goid``, ``what``
    (text, -1: not read), ``labels`` (texts), ``progress`` (0 or 1) and ``path``, the latest step first: [goid, start, duration, state,
    reason, object (texts), [frame, leaf first]].
``hotspots``
    ``stack``, ``why`` (words), ``p99``, ``jitter``, ``share`` (0 to 1), in the order in which to read them.
``pauses``
    Stop-the-world pauses: ``reason`` (words), ``start``, ``duration``.
``meta``
    The result of `page_meta`: the profile's targets, its window, totals, filters, losses, what it went without (``missing``,
    ``notes``) and what a cap on the cost gave up (``governor``), as lines of text. ``runtime``: True if the runtime's frames are
    to be shown from the start. ``locks``: who held locks, as lines, where that is known;
    ``verdicts``: what was wrong as the trace ended.

A comparison has the same form, with a row for every stack of either side. The figures above are those of *after* (0, and no buckets,
for a stack that vanished). In addition there are:

``stacks.before``, ``stacks.before_count``
    Total and count of the same stack before, already normalised to the window of *after*; 0 for a new one.
``meta.diff``
    ``{"before": meta, "after": meta}``, each as returned by `page_meta`, ``before`` with its own figures, not normalised. Optional:
    ``"notes"``: lines of text (how it was normalised, what counts as noise);
    ``"tables"``: ``[{"title", "columns": [text], "rows": [[text]], "marked": [row index]}]``, shown as they are, with the
    marked rows emphasised.

The maker of a comparison builds one profile with the stacks of both sides, calls `page_data` on it and adds these.
"""

from __future__ import annotations

from typing import Any

from gotrace.common.vocabulary import LOSS_TEXT, FrameKind, Loss
from gotrace.profile.frames import plain_name
from gotrace.profile.told import governor_lines, missing_line
from gotrace.profile.types import Frame, Profile, StackStat
from gotrace.render.frames import is_background, is_goroutine_root, is_runtime, is_runtime_waker, label_frames, reason_label
from gotrace.render.objects import lock_lines
from gotrace.render.requestdata import RequestData, idle_columns, inside_columns, reason_words
from gotrace.render.text import TOLD_LIMIT, sanitize

NAME_LIMIT = 600
"""The most characters of one name in the page."""
PAUSES = 5_000
"""The most pauses that the page lists one by one, the first ones."""

PROCESS = "process"
"""Kind of the root frame that stands for a process: used by the page only, not part of the public vocabulary."""
OBJECT = "object"
"""Likewise of what was waited for."""
KINDS = [kind.value for kind in FrameKind] + [PROCESS, OBJECT]

# The page folds frames by itself, as `folded_frames` does in Python, when a box is ticked: the marks it needs, per function.
_PLAIN, _RUNTIME, _GOEXIT = 0, 1, 2


class _Interned:
    """Values in order of first appearance, each with its index."""

    def __init__(self) -> None:
        self.index: dict[Any, int] = {}

    def __call__(self, value: Any) -> int:
        return self.index.setdefault(value, len(self.index))

    def column(self, position: int) -> list[Any]:
        return [value[position] for value in self.index]


class _Columns:
    """The columns of the page data, filled stack by stack."""

    def __init__(self, profile: Profile) -> None:
        self.texts, self.functions, self.frames, self.nodes = _Interned(), _Interned(), _Interned(), _Interned()
        self.raw: dict[int, str] = {}
        self.stacks: dict[str, list[Any]] = {
            key: []
            for key in (
                "node reason state why count total max goroutines progress background goid stopped runs run_max buckets"
            ).split()
        }
        # By identity first, then by value: hashing frames costs more than everything else here, mostly for the enum's hash.
        self._index_by_id: dict[int, int] = {}
        self._index_of: dict[tuple[Any, ...], int] = {}
        # A root frame for each process, if there are several.
        names = {target.pid: f"{target.comm} ({target.pid})" for target in profile.targets}
        self._process = names if len(profile.targets) > 1 else None

    def add(self, stack: StackStat) -> None:
        """Adds a stack."""
        distribution = stack.distribution
        row = (
            self._node(stack),
            self.frame(Frame(reason_label(stack)), FrameKind.REASON.value),
            self.texts(stack.state.value),
            self.texts(stack.reason),
            distribution.count,
            distribution.total_ns,
            distribution.max_ns,
            stack.goroutines,
            stack.in_progress,
            int(is_background(stack)),
            stack.goid,
            stack.stopped_ns,
            stack.long_runs,
            stack.long_run_max_ns,
            [number for pair in sorted(distribution.histogram.items()) for number in pair],
        )
        for column, value in zip(self.stacks.values(), row, strict=True):
            column.append(value)

    def add_bare(self, pid: int, function: Frame, state: str, reason: str) -> int:
        """A row without figures, of time that has no stack below `function`. Returns its number."""
        number, root = len(self.stacks["node"]), -1
        if self._process is not None:
            root = self.nodes((root, self.frame(Frame(self._process.get(pid, f"({pid})")), PROCESS)))
        node = self.nodes((root, self.frame(function, FrameKind.GO.value)))
        label = self.frame(Frame(reason_words(state, reason)), FrameKind.REASON.value)
        row: tuple[Any, ...] = (node, label, self.texts(state), self.texts(reason), 0, 0, 0, 0, 0, 0, None, 0, 0, 0, [])
        for column, value in zip(self.stacks.values(), row, strict=True):
            column.append(value)
        return number

    def _node(self, stack: StackStat) -> int:
        """The node of the stack's leaf, -1 if it has no frames."""
        node, node_of, index_by_id, index_of = -1, self.nodes.index, self._index_by_id, self._index_of
        if self._process is not None:
            node = self.nodes((node, self.frame(Frame(self._process.get(stack.pid, f"({stack.pid})")), PROCESS)))
        for frame in label_frames(stack):
            node = self.nodes((node, self.frame(frame, frame.kind.value)))
        for frame in reversed(stack.frames):
            index = index_by_id.get(id(frame))
            if index is None:
                same = (frame.name, frame.file, frame.line, id(frame.kind), frame.inlined)
                index = index_of.get(same)
                if index is None:
                    index = index_of[same] = self.frame(frame, frame.kind.value)
                index_by_id[id(frame)] = index
            key = (node, index)
            node = node_of.get(key, -1)
            if node < 0:
                node = node_of[key] = len(node_of)
        return node

    def waited(self, stack: StackStat) -> int:
        """The frame for what was waited for, -1 if there is none."""
        return self.frame(Frame(stack.waited.label), OBJECT) if stack.waited is not None else -1

    def frame(self, frame: Frame, kind: str) -> int:
        """The number of a frame."""
        mark = (
            _GOEXIT
            if is_goroutine_root(frame)
            else _RUNTIME
            if is_runtime(frame) or is_runtime_waker(frame)
            else _PLAIN
        )
        name = frame.name if frame.kind is FrameKind.LABEL else plain_name(frame.name)
        function = self.functions((self.texts(name), KINDS.index(kind), mark))
        if name != frame.name:
            self.raw[function] = sanitize(frame.name, NAME_LIMIT)
        return self.frames((function, self.texts(frame.file), frame.line, int(frame.inlined)))


def page_data(profile: Profile) -> dict[str, Any]:
    """The page data of one profile, in the form that this module's docstring describes."""
    columns = _Columns(profile)
    for stack in profile.stacks:
        columns.add(stack)
    requests = RequestData(profile, columns.texts, columns.frame, columns.add_bare).made() if profile.requests else None
    more = {"waited": [columns.waited(stack) for stack in profile.stacks]} if profile.has_objects else {}
    more |= idle_columns(profile) | (inside_columns(profile) if requests else {})
    bare = [0] * (len(columns.stacks["node"]) - len(profile.stacks))
    functions, frames, nodes = columns.functions, columns.frames, columns.nodes
    return {
        "meta": page_meta(profile),
        "kinds": KINDS,
        "texts": [sanitize(text, NAME_LIMIT) for text in columns.texts.index],
        "functions": {
            "name": functions.column(0), "kind": functions.column(1), "mark": functions.column(2), "raw": columns.raw,
        },
        "frames": {
            "function": frames.column(0),
            "file": frames.column(1),
            "line": frames.column(2),
            "inlined": frames.column(3),
        },
        "nodes": {"parent": nodes.column(0), "frame": nodes.column(1)},
        "stacks": columns.stacks | _labels(profile, columns)
        | {name: column + (bare if name != "waited" else [-1] * len(bare)) for name, column in more.items()},
        **({"requests": requests} if requests else {}),
        "hotspots": [
            {
                "stack": hotspot.stack,
                "why": sanitize(hotspot.why, NAME_LIMIT),
                "p99": hotspot.p99_ns,
                "jitter": hotspot.jitter_ns,
                "share": hotspot.share,
            }
            for hotspot in profile.hotspots
            if 0 <= hotspot.stack < len(profile.stacks)
        ],
        "pauses": {
            "reason": [sanitize(pause.reason) for pause in profile.pauses[:PAUSES]],
            "start": [pause.start_ns for pause in profile.pauses[:PAUSES]],
            "duration": [pause.duration_ns for pause in profile.pauses[:PAUSES]],
        },
    }


def _labels(profile: Profile, columns: _Columns) -> dict[str, list[list[int]]]:
    """The column of labels, if any stack has some."""
    if not any(stack.labels for stack in profile.stacks):
        return {}
    found = [[columns.texts(frame.name) for frame in label_frames(stack)] for stack in profile.stacks]
    return {"labels": found + [[] for _ in columns.stacks["node"][len(profile.stacks) :]]}


def page_meta(profile: Profile) -> dict[str, Any]:
    """The profile's targets, window, totals, filters, pauses, losses and everything else to report; made safe."""
    return {
        "gotrace": sanitize(profile.version),
        "targets": [
            {
                "name": f"{sanitize(target.comm, 40)} ({target.pid})",
                "exe": sanitize(target.exe, NAME_LIMIT),
                "go": sanitize(target.go_version, 40),
                "build": sanitize(target.build_id, 80),
            }
            for target in profile.targets
        ],
        "start": sanitize(profile.window.start, 40),
        "duration": profile.window.duration_ns,
        "attached": profile.probed_ns,
        "mode": sanitize(profile.window.mode, 40),
        "intervals": profile.intervals,
        "total": profile.total().total_ns,
        "goroutines": profile.goroutines,
        "running": profile.running_ns,
        "cpu": profile.cpu_ns,
        "complete": profile.complete,
        "filters": [sanitize(text) for text in profile.filters],
        "pauses": [
            {
                "reason": sanitize(reason),
                "count": pauses.count,
                "total": pauses.total_ns,
                "p99": pauses.percentile_ns(0.99),
                "max": pauses.max_ns,
            }
            for reason, pauses in profile.pauses_by_reason().items()
        ],
        "losses": [
            {"name": loss.value, "count": profile.losses[loss], "text": LOSS_TEXT[loss]}
            for loss in Loss
            if profile.losses.get(loss)
        ],
        "missing": [sanitize(missing_line(profile, missing), TOLD_LIMIT) for missing in profile.missing],
        "notes": [sanitize(note, TOLD_LIMIT) for note in profile.notes],
        "governor": governor_lines(profile),
        **({"locks": lock_lines(profile)} if profile.locks else {}),
        **({"verdicts": [sanitize(verdict.headline, TOLD_LIMIT) for _, verdict in profile.verdicts]} if profile.verdicts else {}),
    }
