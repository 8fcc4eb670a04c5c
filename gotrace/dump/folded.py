"""A dump as folded text: one line per stack, its value is the number of goroutines."""

from __future__ import annotations

from collections import Counter

from gotrace.common.vocabulary import FrameKind
from gotrace.dump.groups import without_descriptor
from gotrace.dump.types import Dump
from gotrace.render.text import sanitize

_LONGEST = 1000


def dump_folded(dump: Dump) -> str:
    """``root;...;leaf;[state: reason] GOROUTINES``, sorted, with flamegraph.pl's annotations."""
    lines = Counter(
        ";".join([*(_clean(without_descriptor(frame).name, frame.kind, frame.inlined) for frame in reversed(one.frames)),
                  _clean(f"[{one.state}: {one.reason}]" if one.reason else f"[{one.state}]")])
        for one in dump.goroutines
    )
    return "".join(f"{line} {count}\n" for line, count in sorted(lines.items()))


def _clean(name: str, kind: FrameKind = FrameKind.GO, inlined: bool = False) -> str:
    suffix = "_[k]" if kind is FrameKind.KERNEL else "_[i]" if inlined else ""
    return sanitize(name or "(no name)", _LONGEST).replace(";", ":") + suffix
