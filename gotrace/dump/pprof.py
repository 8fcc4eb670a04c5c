"""A dump in pprof's format, as Go's own goroutine profile: its first value is the number of goroutines."""

from __future__ import annotations

import gzip

from gotrace.common.vocabulary import State
from gotrace.dump.groups import groups
from gotrace.dump.types import Dump, GoroutineState
from gotrace.export.pprof import NAME_LIMIT, Encoder
from gotrace.export.protobuf import chunk, integer, packed, text
from gotrace.profile.types import Distribution, Profile, StackStat, Window
from gotrace.render.text import sanitize

_SAMPLE_TYPE, _SAMPLE, _STRING, _PERIOD_TYPE, _PERIOD, _COMMENT, _DEFAULT = 1, 2, 6, 11, 12, 13, 14
_OWN_LABELS = frozenset(("state", "reason", "age", "object"))
_AGES = ((1_000_000_000, "under 1s"), (60_000_000_000, "1s to 1m"), (3_600_000_000_000, "1m to 1h"))


def dump_pprof(dump: Dump) -> bytes:
    """A gzip-compressed ``perftools.profiles.Profile``: ``goroutine/count`` and ``wait/nanoseconds`` (the sum of the waits that are
    known), a sample for each group of goroutines. Labels: ``state``, ``reason``, ``age``, ``object`` and the goroutine's own, after the
    word ``label`` if they have one of these names."""
    return gzip.compress(_DumpEncoder(dump).file(), compresslevel=6, mtime=0)


class _DumpEncoder(Encoder):
    def __init__(self, dump: Dump) -> None:
        super().__init__(Profile(dump.version, [dump.target], Window("", 0, "", 0), [], {}))
        self._dump = dump

    def file(self) -> bytes:
        target = self._dump.target
        count, wait = self._value_type("goroutine", "count"), self._value_type("wait", "nanoseconds")
        self._mapping(1, target.exe, target.build_id)
        self._mapping(self._kernel, "[kernel]", "")
        samples = b""
        for group in groups(self._dump.goroutines):
            by_age: dict[str, list[int]] = {}
            for one in group.members:
                values = by_age.setdefault(_age(one), [0, 0])
                values[0] += 1
                values[1] += one.wait_ns or 0
            locations = self._stack(StackStat(group.frames, State.WAITING, "", Distribution(), pid=target.pid))
            waited = group.object
            for age, values in by_age.items():
                labels = {f"label {key}" if key in _OWN_LABELS else key: value for key, value in group.one.labels.items()} | {
                    "state": group.one.state, "reason": group.one.reason, "age": age,
                    "object": f"{waited.kind} {waited.address}" if waited is not None and waited.address else "",
                }
                samples += chunk(_SAMPLE, chunk(1, locations) + packed(2, values) + self._text_labels(labels))
        said = [f"goroutines by gotrace {self._dump.version}", f"target: {target.comm} ({target.pid}), {target.go_version}, {target.exe}"]
        said += [f"{verdict.kind}{'' if verdict.certain else ', probably'}: {verdict.text}" for verdict in self._dump.verdicts]
        said += [f"LOSS {name}: {number:,}" for name, number in self._dump.losses.items() if number]
        comments = packed(_COMMENT, [self._string(sanitize(line, NAME_LIMIT)) for line in said])
        tail = chunk(_PERIOD_TYPE, count) + integer(_PERIOD, 1) + comments + integer(_DEFAULT, self._string("goroutine"))
        strings = b"".join(text(_STRING, string) for string in self._strings)
        return b"".join((chunk(_SAMPLE_TYPE, count), chunk(_SAMPLE_TYPE, wait), samples, bytes(self._tables), tail, strings))


def _age(one: GoroutineState) -> str:
    if one.wait_ns is None:
        return "unknown"
    return next((name for limit, name in _AGES if one.wait_ns < limit), "over 1h")
