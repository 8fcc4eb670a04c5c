"""Parquet (https://parquet.apache.org): a table for DuckDB, ClickHouse, Spark and BigQuery. docs/parquet.md describes its columns.

One row for each stack, and one for each single interval, flat. All captures have the same columns, so a fleet's captures are one table.
Sums over ``total_ns`` are right without a condition: intervals have it NULL.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from importlib.util import find_spec
from io import BytesIO
from os.path import basename
from typing import TYPE_CHECKING, Any

from gotrace.common.errors import Refused
from gotrace.common.vocabulary import FrameKind, Loss
from gotrace.profile.frames import is_program, plain_name, without_waker
from gotrace.profile.types import Frame, Profile, StackStat, Target, TimelineInterval
from gotrace.render.text import sanitize

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = ".parquet"
_STACKS_AT_ONCE, _INTERVALS_AT_ONCE = 20_000, 100_000
"""Rows of a group, which is in memory at once."""
_LONGEST_NAME, _LONGEST_TEXT = 1000, 1 << 20
COLUMNS = {
    "kind": "string", "host": "string", "container": "string", "pod": "string", "pid": "int32", "target": "string", "exe": "string",
    "go_version": "string", "build_id": "string", "mode": "string", "window_start": "timestamp", "window_ns": "int64",
    "start": "timestamp", "start_ns": "int64", "duration_ns": "int64",
    "state": "string", "reason": "string", "function": "string", "leaf": "string", "stack": "string", "waker": "string",
    "object_kind": "string", "object_address": "int64", "object": "string", "labels": "string",
    "goid": "int64", "waker_goid": "int64", "tid": "int32",
    "count": "int64", "total_ns": "int64", "p50_ns": "int64", "p90_ns": "int64", "p99_ns": "int64", "max_ns": "int64", "jitter_ns": "int64",
    "goroutines": "int64", "in_progress": "int64", "stopped_ns": "int64", "halted_ns": "int64", "late_ns": "int64", "long_runs": "int64",
    "long_run_max_ns": "int64", "margin_ns": "int64", "losses": "int64", "gotrace": "string",
}
"""Names, in their order, and types: those that all readers know."""
_MOST_INT64 = (1 << 63) - 1


def check_pyarrow() -> None:
    """Raises Refused if the library that writes the format is missing."""
    if find_spec("pyarrow") is None:
        raise Refused("-o x.parquet needs the Python package pyarrow", "pip install 'gotrace[parquet]'")


def render_parquet(profile: Profile) -> bytes:
    """The file. What was lost, what is missing and notes are in its metadata, under the key ``gotrace``, as JSON.

    Raises:
        Refused: pyarrow is missing.
    """
    check_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"string": pa.string(), "int32": pa.int32(), "int64": pa.int64(), "timestamp": pa.timestamp("us", "UTC")}
    schema = pa.schema([pa.field(name, types[kind]) for name, kind in COLUMNS.items()], {"gotrace": json.dumps(_about(profile))})
    file, rows = BytesIO(), _Rows(profile)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for columns, length in (*rows.stacks(), *rows.intervals()):
            arrays = [_array(pa, columns.get(field.name), field.type, length) for field in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return file.getvalue()


def _array(pa: Any, values: Any, kind: pa.DataType, length: int) -> pa.Array:
    """A column: a list as it is, anything else as often as there are rows."""
    if values is None:
        return pa.nulls(length, kind)
    return pa.array(values, kind) if isinstance(values, list) else pa.repeat(pa.scalar(values, kind), length)


def _about(profile: Profile) -> dict[str, Any]:
    return {
        "version": profile.version, "losses": {loss.value: profile.losses.get(loss, 0) for loss in Loss}, "filters": profile.filters,
        "missing": [{"stage": one.stage, "why": one.why, "lacks": one.lacks, "pid": one.pid} for one in profile.missing],
        "notes": profile.notes, "complete": profile.complete,
    }


class _Rows:
    """The rows of a profile, as columns of parts of the table, with their length."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._start = datetime.fromisoformat(profile.window.start.replace("Z", "+00:00")) if profile.window.start else None
        self._origin_us = round(self._start.timestamp() * 1e6) if self._start is not None else None
        self._same = {
            "mode": profile.window.mode, "window_start": self._origin_us, "window_ns": profile.window.duration_ns,
            "losses": sum(profile.losses.values()), "gotrace": profile.version,
        }
        self._targets = {target.pid: _process(target) for target in profile.targets}
        self._texts: dict[int, dict[str, Any]] = {}
        self._names: dict[Frame, str] = {}

    def stacks(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Those of the stacks."""
        for at in range(0, len(self._profile.stacks), _STACKS_AT_ONCE):
            part = self._profile.stacks[at : at + _STACKS_AT_ONCE]
            yield self._same | {"kind": "stack", "start": self._origin_us} | _columns([
                self._of_stack(stack) | _figures(stack) for stack in part
            ]), len(part)

    def intervals(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Those of single intervals."""
        for at in range(0, len(self._profile.timeline), _INTERVALS_AT_ONCE):
            part = self._profile.timeline[at : at + _INTERVALS_AT_ONCE]
            columns = _columns([self._of_stack(one.stack) | self._of_interval(one) for one in part])
            yield self._same | {"kind": "interval"} | columns, len(part)

    def _of_interval(self, one: TimelineInterval) -> dict[str, Any]:
        return {
            "start": None if self._origin_us is None else self._origin_us + one.start_ns // 1000, "start_ns": one.start_ns,
            "duration_ns": one.duration_ns, "goid": one.goid, "waker_goid": one.waker_goid or None, "tid": one.tid or None,
        }

    def _of_stack(self, stack: StackStat) -> dict[str, Any]:
        """What a stack has in common with its intervals; made once."""
        found = self._texts.get(id(stack))
        if found is None:
            found = self._texts[id(stack)] = self._text_of(stack)
        return found

    def _text_of(self, stack: StackStat) -> dict[str, Any]:
        own = without_waker(stack.frames)
        wakers = [frame for frame in stack.frames if frame.kind is FrameKind.WAKER]
        place = next((frame for frame in own if is_program(frame)), own[0] if own else None)
        waited = stack.waited
        return self._targets.get(stack.pid, {"pid": stack.pid}) | {
            "state": stack.state.value, "reason": sanitize(stack.reason, _LONGEST_NAME),
            "function": self._name(place) if place is not None else None, "leaf": self._name(own[0]) if own else None,
            "stack": self._joined(own), "waker": self._joined(wakers) if wakers else None, "goid": stack.goid,
            "object_kind": waited.kind if waited is not None else None,
            "object_address": waited.address if waited is not None and (waited.address or 0) <= _MOST_INT64 else None,
            "object": sanitize(waited.label, _LONGEST_NAME) if waited is not None else None,
            "labels": json.dumps(dict(stack.labels)) if stack.labels else None,
        }

    def _joined(self, frames: list[Frame] | tuple[Frame, ...]) -> str:
        return ";".join(self._name(frame) for frame in reversed(frames))[:_LONGEST_TEXT]

    def _name(self, frame: Frame) -> str:
        found = self._names.get(frame)
        if found is None:
            found = self._names[frame] = sanitize(plain_name(frame.name or "(no name)"), _LONGEST_NAME).replace(";", ":")
        return found


def _process(target: Target) -> dict[str, Any]:
    values = {
        "host": target.host, "container": target.container, "pod": target.pod, "pid": target.pid,
        "target": basename(target.exe) or target.comm, "exe": target.exe, "go_version": target.go_version, "build_id": target.build_id,
    }
    return {name: sanitize(value, _LONGEST_NAME) or None if isinstance(value, str) else value for name, value in values.items()}


def _figures(stack: StackStat) -> dict[str, Any]:
    d = stack.distribution
    return {
        "count": d.count, "total_ns": d.total_ns, "p50_ns": d.percentile_ns(0.50), "p90_ns": d.percentile_ns(0.90),
        "p99_ns": d.percentile_ns(0.99), "max_ns": d.max_ns, "jitter_ns": d.jitter_ns, "goroutines": stack.goroutines,
        "in_progress": stack.in_progress, "stopped_ns": stack.stopped_ns, "halted_ns": stack.halted_ns, "late_ns": stack.late_ns,
        "long_runs": stack.long_runs, "long_run_max_ns": stack.long_run_max_ns, "margin_ns": stack.margin_ns,
    }


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
