"""Reads dumps that `gotrace dump -o X.json` wrote. They are untrusted input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gotrace.common.errors import GotraceError, UsageError
from gotrace.common.vocabulary import FrameKind
from gotrace.dump.objects import objects_of
from gotrace.dump.types import Dump, GoroutineState, Situation, WaitedObject
from gotrace.profile.types import Frame, Target

_LARGEST = 1 << 31
_TEXTS = ("exe", "comm", "go_version", "go_version_source", "build_id", "arch")


def is_dump(path: Path) -> bool:
    """Whether the file looks like a dump's JSON, and not like a capture."""
    try:
        with open(path, "rb") as file:
            return file.read(64).lstrip().startswith(b"{")
    except OSError:
        return False


def load_dump(path: Path) -> Dump:
    """The dump in a file.

    Raises:
        UsageError: it is not a dump's JSON.
        GotraceError: it can't be read.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"{path} is larger than a dump can be")
        whole = json.loads(path.read_bytes())
    except OSError as error:
        raise GotraceError(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is not a dump: it is not JSON", "gotrace dump PID -o X.json writes one") from None
    try:
        return _dump(whole)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UsageError(f"{path} is JSON, but not that of a dump", "gotrace dump PID -o X.json writes one") from None


def _dump(whole: dict[str, Any]) -> Dump:
    target = whole["target"]
    exe, comm, go_version, source, build_id, arch = (str(target[name]) for name in _TEXTS)
    stripped, pie, cgo = (bool(target[name]) for name in ("stripped", "pie", "cgo"))
    described = Target(int(target["pid"]), exe, comm, go_version, source, build_id, stripped, pie, cgo, arch)
    frames: dict[tuple[object, ...], Frame] = {}
    goroutines = [_goroutine(one, frames) for one in whole["goroutines"]]
    losses = {str(name): int(count) for name, count in whole["losses"].items()}
    return Dump(str(whole["gotrace"]), described, goroutines, losses, [str(note) for note in whole["notes"]], objects_of(goroutines))


def _goroutine(one: dict[str, Any], known: dict[tuple[object, ...], Frame]) -> GoroutineState:
    waited = one.get("object")
    situation = Situation(
        str(one["state"]), str(one["reason"]), str(one["created_by"]), str(one["created_at"]), str(one["start_function"]),
        bool(one["locked_to_thread"]), {str(key): str(value) for key, value in one["labels"].items()},
        tuple(_frame(frame, known) for frame in one["frames"]),
    )
    return GoroutineState(
        int(one["id"]), situation, int(one["wait_ns"]) if one["wait_ns"] is not None else None, int(one["parent_id"]),
        _object(waited) if waited is not None else None,
    )


def _object(waited: dict[str, Any]) -> WaitedObject:
    address = waited["address"]
    detail = dict(waited["detail"])
    cases = detail.get("cases", [])
    if not isinstance(cases, list) or any(not {"address", "op"} <= case.keys() for case in cases):
        raise ValueError("cases")
    return WaitedObject(str(waited["kind"]), str(address) if address is not None else None, detail)


def _frame(frame: dict[str, Any], known: dict[tuple[object, ...], Frame]) -> Frame:
    key = (str(frame["name"]), str(frame["file"]), int(frame["line"]), FrameKind(frame["kind"]), bool(frame["inlined"]))
    return known.setdefault(key, Frame(*key))
