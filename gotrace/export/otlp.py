"""OpenTelemetry's profiles, as the body of a request (ExportProfilesServiceRequest) to an OTLP endpoint.

The signal is in development: between releases 1.42 and 1.43 of PyPI's opentelemetry-proto the fields of Sample were renumbered under
the same name of the package, so that what one of them writes the other reads wrongly, without an error. One release is pinned here and in
pyproject.toml, and any other is refused.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from gotrace.common.errors import Refused
from gotrace.common.vocabulary import CONTINUED, FrameKind, Loss
from gotrace.export.about import start_ns
from gotrace.export.pprof import NAME_LIMIT, boundary_name, physical_frames, watched_ns
from gotrace.profile.types import Frame, Profile, StackStat
from gotrace.render.text import sanitize

PINNED = "1.45.2"
"""The release of opentelemetry-proto whose field numbers are written."""
_FRAME_TYPES = {
    FrameKind.GO: "go", FrameKind.RUNTIME: "go", FrameKind.CGO: "native", FrameKind.KERNEL: "kernel", FrameKind.SYSCALL: "kernel",
}


def check_installed() -> None:
    """Sees to it that the pinned release can be used.

    Raises:
        Refused: it is not installed, or another one is.
    """
    hint = "pip install 'gotrace[push]'"
    try:
        found = metadata.version("opentelemetry-proto")
    except metadata.PackageNotFoundError:
        raise Refused(f"OTLP needs the Python package opentelemetry-proto {PINNED}", hint) from None
    if found != PINNED:
        what = f"OTLP needs opentelemetry-proto {PINNED}, and {found} is installed: its field numbers may be others"
        raise Refused(what, f"pip install opentelemetry-proto=={PINNED}")


def render_otlp(profile: Profile, resource: Mapping[str, str | int], dropped: int = 0) -> bytes:
    """Returns a serialized ExportProfilesServiceRequest with one resource, of which `dropped` attributes were left out.

    It has two profiles with the same samples, as a profile has one type of values there: ``off_cpu``/``nanoseconds`` without a period, by
    which receivers know time off the CPU, and ``events``/``count`` with the period ``events``/``count`` 1: each is recorded. Values are as
    in `render_pprof`. Attributes of samples: ``gotrace.state``, ``gotrace.reason``, and the profiler labels that were asked for; of
    locations ``profile.frame.type``; of profiles ``gotrace.loss.KIND`` with a count. Each has a new id.

    Raises:
        Refused: the pinned release of opentelemetry-proto is not installed.
    """
    check_installed()
    from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import ExportProfilesServiceRequest

    request = ExportProfilesServiceRequest()
    encoder = _Encoder(profile, request.dictionary)
    samples = encoder.samples()
    group = request.resource_profiles.add()
    group.resource.dropped_attributes_count = dropped
    for key, value in resource.items():
        pair = group.resource.attributes.add()
        pair.key = sanitize(key, NAME_LIMIT)
        _put(pair.value, value)
    scope = group.scope_profiles.add()
    scope.scope.name, scope.scope.version = "gotrace", profile.version
    times, counts = scope.profiles.add(), scope.profiles.add()
    encoder.value_type(times.sample_type, "off_cpu", "nanoseconds")
    encoder.value_type(counts.sample_type, "events", "count")
    encoder.value_type(counts.period_type, "events", "count")
    counts.period = 1
    losses = [encoder.attribute(f"gotrace.loss.{loss.value}", profile.losses[loss]) for loss in Loss if profile.losses.get(loss)]
    for number, one in enumerate((times, counts)):
        one.time_unix_nano, one.duration_nano, one.profile_id = start_ns(profile), watched_ns(profile), uuid.uuid4().bytes
        one.attribute_indices.extend(losses)
        for (stack, attributes), values in samples.items():
            if values[number]:
                sample = one.samples.add()
                sample.stack_index = stack
                sample.attribute_indices.extend(attributes)
                sample.values.append(values[number])
    return bytes(request.SerializeToString())


def _put(to: Any, value: str | int) -> None:
    """Sets an AnyValue."""
    if isinstance(value, int):
        to.int_value = value
    else:
        to.string_value = sanitize(value, NAME_LIMIT)


class _Encoder:
    """Numbers what the tables of a dictionary have. The first entry of each is empty, and stands for none."""

    def __init__(self, profile: Profile, dictionary: Any) -> None:
        self._profile, self._to = profile, dictionary
        for table in (
            dictionary.mapping_table, dictionary.location_table, dictionary.function_table, dictionary.link_table,
            dictionary.attribute_table, dictionary.stack_table,
        ):
            table.add()
        self._strings: dict[str, int] = {}
        self._attributes: dict[tuple[str, str | int], int] = {}
        self._functions: dict[tuple[int, int], int] = {}
        self._locations: dict[tuple[int, tuple[Frame, ...]], int] = {}
        self._stacks: dict[tuple[int, ...], int] = {}
        self._string("")
        self._mappings = {target.pid: self._mapping(target.exe, target.build_id) for target in profile.targets}
        self._kernel = self._mapping("[kernel]", "")

    def samples(self) -> dict[tuple[int, tuple[int, ...]], list[int]]:
        """The nanoseconds and the count of each stack with its attributes, by their numbers."""
        found: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for stack in self._profile.stacks:
            values = found.setdefault((self._stack(stack), self._labels(stack)), [0, 0])
            values[0] += stack.distribution.total_ns
            values[1] += 0 if stack.reason in CONTINUED else stack.distribution.count
        return found

    def value_type(self, to: Any, kind: str, unit: str) -> None:
        """Sets a ValueType."""
        to.type_strindex, to.unit_strindex = self._string(kind), self._string(unit)

    def attribute(self, key: str, value: str | int) -> int:
        """The number of an attribute."""
        number = self._attributes.get((key, value))
        if number is None:
            number = self._attributes[key, value] = len(self._to.attribute_table)
            entry = self._to.attribute_table.add()
            entry.key_strindex = self._string(key)
            _put(entry.value, value)
        return number

    def _string(self, value: str) -> int:
        number = self._strings.get(value)
        if number is None:
            # Never the same string twice: two names that differ only beyond the limit are one from here on.
            short = sanitize(value, NAME_LIMIT)
            number = self._strings.get(short)
            if number is None:
                number = self._strings[short] = len(self._to.string_table)
                self._to.string_table.append(short)
            self._strings[value] = number
        return number

    def _mapping(self, name: str, build_id: str) -> int:
        number = len(self._to.mapping_table)
        entry = self._to.mapping_table.add()
        entry.filename_strindex = self._string(name)
        if build_id:
            kind = "gnu" if all(char in "0123456789abcdef" for char in build_id) else "go"
            entry.attribute_indices.append(self.attribute(f"process.executable.build_id.{kind}", build_id))
        return number

    def _labels(self, stack: StackStat) -> tuple[int, ...]:
        labels = {"gotrace.state": stack.state.value, "gotrace.reason": stack.reason}
        for key, value in stack.labels:
            labels.setdefault(key, value)
        return tuple(self.attribute(key, value) for key, value in labels.items() if key and value)

    def _stack(self, stack: StackStat) -> int:
        locations = tuple(self._location(stack.pid, group) for group in physical_frames(stack.frames))
        number = self._stacks.get(locations)
        if number is None:
            number = self._stacks[locations] = len(self._to.stack_table)
            self._to.stack_table.add().location_indices.extend(locations)
        return number

    def _location(self, pid: int, frames: tuple[Frame, ...]) -> int:
        kind = _FRAME_TYPES.get(frames[0].kind, "")
        mapping = self._kernel if kind == "kernel" else self._mappings.get(pid, 0)
        number = self._locations.get((mapping, frames))
        if number is None:
            number = self._locations[mapping, frames] = len(self._to.location_table)
            entry = self._to.location_table.add()
            entry.mapping_index = mapping
            for frame in frames:
                line = entry.lines.add()
                line.function_index, line.line = self._function(frame), frame.line
            if kind:
                entry.attribute_indices.append(self.attribute("profile.frame.type", kind))
        return number

    def _function(self, frame: Frame) -> int:
        name = boundary_name(frame.name) if frame.kind is FrameKind.SYSCALL else frame.name
        key = self._string(name or "(no name)"), self._string(frame.file)
        number = self._functions.get(key)
        if number is None:
            number = self._functions[key] = len(self._to.function_table)
            entry = self._to.function_table.add()
            entry.name_strindex = entry.system_name_strindex = key[0]
            entry.filename_strindex = key[1]
        return number
