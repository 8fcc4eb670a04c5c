"""A comparison of two captures as JSON, as folded text with two columns, and as a page."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from gotrace.common.errors import UsageError
from gotrace.diff.compare import Change, Diff, Per, Side, before_in_after, merged_profile
from gotrace.diff.noise import MIN_SUBWINDOWS, STANDARD_ERRORS
from gotrace.export.folded import folded_lines
from gotrace.export.requestdiff_json import delta_dict, request_change
from gotrace.profile.hotspots import find_hotspots
from gotrace.profile.types import Distribution
from gotrace.render.diff import NOISE, delta_cells
from gotrace.render.html import render_page
from gotrace.render.pagedata import page_data, page_meta
from gotrace.render.requestdiff import request_notes, request_tables

SCHEMA = 1
SUFFIXES = (".folded", ".html", ".json")


def format_of_diff(path: str) -> str:
    """Which of `SUFFIXES` the output `path` asks for; ``-`` is folded text. Raises `UsageError` for anything else."""
    if path == "-":
        return ".folded"
    name = path.rsplit("/", 1)[-1].lower()
    for suffix in SUFFIXES:
        if name.endswith(suffix) and not name.endswith(".speedscope.json"):
            return suffix
    raise UsageError(f"a comparison can't be written as {path!r}", f"end the name in one of {' '.join(SUFFIXES)}")


def render_diff(diff: Diff, suffix: str) -> bytes:
    """`diff` in the format of `suffix`, one of `SUFFIXES`."""
    return {".folded": render_diff_folded, ".html": render_diff_html, ".json": render_diff_json}[suffix](diff)


def render_diff_folded(diff: Diff) -> bytes:
    """``root;…;leaf;[state: reason] BEFORE AFTER``, as printed by FlameGraph's difffolded.pl: nanoseconds, before normalised to after,
    sorted."""
    profile = merged_profile(diff)
    before, _ = before_in_after(diff)
    lines: dict[str, list[int]] = {}
    for (line, stack), total_ns in zip(folded_lines(profile), before, strict=True):
        both = lines.setdefault(line, [0, 0])
        both[0] += total_ns
        both[1] += stack.distribution.total_ns
    return "".join(f"{line} {both[0]} {both[1]}\n" for line, both in sorted(lines.items())).encode()


def render_diff_html(diff: Diff) -> bytes:
    """The interactive page with both sides: colours show growth."""
    return render_page(diff_page_data(diff))


def diff_page_data(diff: Diff) -> dict[str, Any]:
    """The data of the page, in the form that `gotrace.render.pagedata` describes for a comparison."""
    profile = merged_profile(diff)
    profile.hotspots = find_hotspots(profile)
    data = page_data(profile)
    data["stacks"]["before"], data["stacks"]["before_count"] = before_in_after(diff)
    by = "second of the window" if diff.per is Per.WINDOW else "goroutine-second"
    data["meta"]["diff"] = {
        "before": page_meta(diff.before.profile),
        "after": page_meta(diff.after.profile),
        "notes": [f"Normalised: per {by}.", NOISE + ".", *diff.notes, *request_notes(diff.requests)],
        "tables": [*request_tables(diff.requests), _page_table("state", diff.states), _page_table("reason", diff.reasons)],
    }
    return data


def _page_table(title: str, changes: list[Change]) -> dict[str, Any]:
    return {
        "title": f"Change by {title}",
        "columns": [title, "total/s before", "after", "change", "count/s before", "after", "change", "p50 before", "after", "change",
                    "p99 before", "after", "change"],
        "rows": [delta_cells(change) for change in changes],
        "marked": [index for index, change in enumerate(changes) if change.exceeds],
    }


def render_diff_json(diff: Diff) -> bytes:
    """`diff_dict` as JSON text with a final newline, ASCII only."""
    return (json.dumps(diff_dict(diff), indent=1) + "\n").encode()


def diff_dict(diff: Diff) -> dict[str, Any]:
    """The comparison as plain dicts and lists. All ``*_ns`` are nanoseconds, frames leaf first.

    A change has ``before`` and ``after`` as recorded (null if it does not occur there), and under ``change`` the normalised figures:
    ``count`` and ``total_ns`` per second of what ``normalised_by`` names, and the percentiles. ``stacks`` are those that differ at all.
    """
    return {
        "gotrace": diff.after.profile.version,
        "schema": SCHEMA,
        "before": _side(diff.before),
        "after": _side(diff.after),
        "normalised_by": diff.per.value,
        "same_build": diff.same_build,
        "noise": {"standard_errors": STANDARD_ERRORS, "min_subwindows": MIN_SUBWINDOWS},
        "notes": diff.notes,
        "empty": diff.empty,
        **({"requests": [request_change(change) for change in diff.requests]} if diff.requests else {}),
        "total": _change(diff.total, diff.per),
        "by_state": {change.state.value: _change(change, diff.per) for change in diff.states if change.state},
        "by_reason": {change.reason: _change(change, diff.per) for change in diff.reasons},
        "stacks": [
            {
                **({"process": change.process} if change.process else {}),
                "frames": [{"name": f.name, "file": f.file, "line": f.line, "kind": f.kind.value} for f in change.frames],
                "state": change.state.value if change.state else "",
                "reason": change.reason,
                "status": "new" if change.new else "vanished" if change.vanished else "changed",
                "idle_by_design": change.idle,
                **_change(change, diff.per),
            }
            for change in diff.stacks
            if change.changed
        ],
    }


def _side(side: Side) -> dict[str, Any]:
    profile = side.profile
    return {
        "targets": [asdict(target) for target in profile.targets],
        "window": asdict(profile.window),
        "goroutines": profile.goroutines,
        "goroutine_ns": side.goroutine_ns,
        "filters": profile.filters,
        "losses": {loss.value: count for loss, count in profile.losses.items() if count},
        "complete": profile.complete,
    }


def _change(change: Change, per: Per) -> dict[str, Any]:
    totals = {per: change.total, (Per.GOROUTINE if per is Per.WINDOW else Per.WINDOW): change.other_total}
    return {
        "before": _weights(change.before, change.goroutines[0], change.in_progress[0]),
        "after": _weights(change.after, change.goroutines[1], change.in_progress[1]),
        "change": {
            "count": delta_dict(change.count),
            "total_ns": delta_dict(change.total),
            "p50_ns": delta_dict(change.p50),
            "p99_ns": delta_dict(change.p99),
        },
        "total_ns_per_window_s": delta_dict(totals[Per.WINDOW]),
        "total_ns_per_goroutine_s": delta_dict(totals[Per.GOROUTINE]),
        "exceeds_noise": change.exceeds,
    }


def _weights(d: Distribution | None, goroutines: int, in_progress: int) -> dict[str, int] | None:
    if d is None:
        return None
    return {
        "count": d.count, "total_ns": d.total_ns, "p50_ns": d.percentile_ns(0.50), "p99_ns": d.percentile_ns(0.99),
        "max_ns": d.max_ns, "jitter_ns": d.jitter_ns, "goroutines": goroutines, "in_progress": in_progress,
    }
