"""pprof's gzip-compressed protobuf, for ``go tool pprof`` and everything that reads its files. Field numbers: google/pprof,
proto/profile.proto.

Sample types, their order and the period are those of Go's block profile (runtime/pprof: printCountCycleProfile), so the two can be
merged and compared: ``contentions/count``, ``delay/nanoseconds``, period ``contentions/count`` 1. No default type is named, as there:
readers show the last, delay. Stacks begin and end where Go's do.
"""

from __future__ import annotations

import gzip
from collections.abc import Collection, Mapping, Sequence

from gotrace.common.vocabulary import CONTINUED, FrameKind
from gotrace.export.about import comments, start_ns
from gotrace.export.labels import NETPOLL_BOUNDARY, NO_CALLS, boundary_labels, split_boundary, waker_label
from gotrace.export.protobuf import chunk, integer, packed, text, varint
from gotrace.model.stacks import IN_KERNEL
from gotrace.profile.inrequests import by_band
from gotrace.profile.types import Frame, Profile, StackStat
from gotrace.render.frames import is_goroutine_root
from gotrace.render.text import sanitize

NAME_LIMIT = 1000
"""The most characters of one string."""

# Profile's fields.
_SAMPLE_TYPE, _SAMPLE, _MAPPING, _LOCATION, _FUNCTION, _STRING = 1, 2, 3, 4, 5, 6
_TIME, _DURATION, _PERIOD_TYPE, _PERIOD, _COMMENT = 9, 10, 11, 12, 13

_PARKING = frozenset((
    "runtime.gopark", "runtime.goparkunlock", "runtime.goyield", "runtime.chansend", "runtime.chanrecv", "runtime.semacquire1",
    "runtime.semrelease1", "runtime.netpollblock", "sync.(*Mutex).lockSlow", "sync.(*Mutex).unlockSlow",
    "internal/sync.(*Mutex).Lock", "internal/sync.(*Mutex).lockSlow", "internal/sync.(*Mutex).Unlock",
    "internal/sync.(*Mutex).unlockSlow",
))  # fmt: skip
_LINKED_PARKING = ("sync.runtime_", "internal/sync.runtime_", "internal/poll.runtime_")
"""The way from an operation that waits into the scheduler. Go's block profile leaves it out: runtime/chan.go, runtime/sema.go and
internal/sync/mutex.go (before Go 1.24 sync/mutex.go) skip as many frames. None of these calls the program's own functions."""

_OWN_LABELS = frozenset(("state", "reason", "syscall", "peer", "waker", "object", "process", "goroutine", "span", "band"))


def render_pprof(profile: Profile, labels: Collection[str] | None = None) -> bytes:
    """Returns a gzip-compressed ``perftools.profiles.Profile``. `labels`: which labels samples have, None for all of them.

    Values are the number of intervals (0 for a later part of one, so that they add up to the intervals of the summary and ``-mean_delay``
    is the mean of whole intervals) and the nanoseconds off the CPU inside the window. Labels: ``state``, ``reason``, ``syscall``, ``peer``,
    ``object`` (what was waited for, if that was asked for), ``waker`` (the function that made the goroutine runnable; its stack is not part
    of the sample's; ``by main.send``), ``goroutine`` (a number) if goroutines are kept apart, ``process`` if there are several; the
    profiler labels that were asked for, after the word ``label`` if they have one of these names; ``span`` and ``band`` (``p99-100``) for
    time inside requests, with the outermost span if several enclose each other: such a stack is divided into samples that add up to it.
    pprof makes frames of labels (``-tagroot``, ``-tagleaf``) and takes equal names for one function, so no frame has the name of a reason
    or a waker: the boundary is ``read (system call)``. Inlined calls are lines of their caller's location; kernel functions are in a
    mapping ``[kernel]``. The duration is the time in which waits were seen, so that rates are right. Comments: window, requests, filters
    and losses.

    Stacks are cut as in Go's own profiles: without ``runtime.goexit``, and without the way from the operation that waits into the
    scheduler. This is done here and not by ``drop_frames``: from several files pprof uses only that of the first, and other readers do
    not know it.
    """
    return gzip.compress(Encoder(profile, labels).encode(), compresslevel=6, mtime=0)


class Encoder:
    """Numbers the strings, functions and locations of one file."""

    def __init__(self, profile: Profile, labels: Collection[str] | None = None) -> None:
        self._profile = profile
        self._only = labels
        self._strings: dict[str, int] = {"": 0}
        self._functions: dict[tuple[int, int], int] = {}
        self._locations: dict[tuple[int, tuple[Frame, ...]], bytes] = {}
        self._seen: dict[int, dict[int, bytes]] = {}
        self._tables = bytearray()
        self._mappings = {target.pid: number for number, target in enumerate(profile.targets, 1)}
        self._kernel = len(profile.targets) + 1
        self._several = len(profile.targets) > 1
        self._process = {target.pid: f"{target.comm} ({target.pid})" for target in profile.targets}

    def encode(self) -> bytes:
        profile = self._profile
        contentions, delay = self._value_type("contentions", "count"), self._value_type("delay", "nanoseconds")
        head = chunk(_SAMPLE_TYPE, contentions) + chunk(_SAMPLE_TYPE, delay)
        for target in profile.targets:
            self._mapping(self._mappings[target.pid], target.exe, target.build_id)
        self._mapping(self._kernel, "[kernel]", "")
        samples: dict[tuple[bytes, bytes], list[int]] = {}
        inside = by_band(profile) if profile.requests and (self._wants("span") or self._wants("band")) else {}
        for stack in profile.stacks:
            locations, labels = self._stack(stack), self._labels(stack)
            count, total_ns = stack.distribution.count, stack.distribution.total_ns
            pieces = []
            for span, band, part in inside.get(stack.key, ()) if inside else ():
                pieces.append((labels + self._text_labels({"span": span.function, "band": band.name}), part.count, part.total_ns))
                count, total_ns = count - part.count, total_ns - part.total_ns
            if not pieces or count or total_ns:
                pieces.append((labels, count, total_ns))
            for labels, part_count, part_ns in pieces:
                # Equal once the waker's stack and descriptor numbers are left out.
                values = samples.setdefault((locations, labels), [0, 0])
                values[0] += 0 if stack.reason in CONTINUED else part_count
                values[1] += part_ns
        body = b"".join(
            chunk(_SAMPLE, chunk(1, locations) + packed(2, values) + labels)
            for (locations, labels), values in samples.items()
        )
        tail = b"".join((
            integer(_TIME, start_ns(profile)),
            integer(_DURATION, watched_ns(profile)),
            chunk(_PERIOD_TYPE, contentions),
            integer(_PERIOD, 1),
            packed(_COMMENT, [self._string(comment) for comment in comments(profile)]),
        ))
        strings = b"".join(text(_STRING, string) for string in self._strings)
        return b"".join((head, body, bytes(self._tables), tail, strings))

    def _string(self, value: str) -> int:
        index = self._strings.get(value)
        if index is None:
            # Never the same string twice: two names that differ only beyond the limit are one from here on.
            value = sanitize(value, NAME_LIMIT)
            index = self._strings.setdefault(value, len(self._strings))
        return index

    def _value_type(self, kind: str, unit: str) -> bytes:
        return integer(1, self._string(kind)) + integer(2, self._string(unit))

    def _mapping(self, number: int, name: str, build_id: str) -> None:
        # has_functions and the like keep pprof from searching for symbols itself.
        content = integer(1, number) + integer(5, self._string(name)) + integer(6, self._string(build_id))
        self._tables += chunk(_MAPPING, content + b"".join(integer(field, 1) for field in (7, 8, 9, 10)))

    def _stack(self, stack: StackStat) -> bytes:
        """The packed ids of the locations."""
        # Captures share frames among stacks: a known object is found without hashing its contents.
        seen = self._seen.setdefault(stack.pid, {})
        ids = []
        for group in physical_frames(stack.frames):
            encoded = seen.get(id(group[0])) if len(group) == 1 else None
            if encoded is None:
                encoded = self._location(stack.pid, group)
                if len(group) == 1:
                    seen[id(group[0])] = encoded
            ids.append(encoded)
        return b"".join(ids)

    def _location(self, pid: int, frames: tuple[Frame, ...]) -> bytes:
        beneath = frames[0].kind in _BENEATH
        mapping = self._kernel if beneath else self._mappings.get(pid, 0)
        encoded = self._locations.get((mapping, frames))
        if encoded is None:
            number = len(self._locations) + 1
            encoded = self._locations[mapping, frames] = varint(number)
            content = integer(1, number) + (integer(2, mapping) if mapping else b"")
            for frame in frames:
                content += chunk(4, integer(1, self._function(frame)) + integer(2, frame.line))
            self._tables += chunk(_LOCATION, content)
        return encoded

    def _function(self, frame: Frame) -> int:
        name = boundary_name(frame.name) if frame.kind is FrameKind.SYSCALL else frame.name
        key = self._string(name or "(no name)"), self._string(frame.file)
        number = self._functions.get(key)
        if number is None:
            number = self._functions[key] = len(self._functions) + 1
            self._tables += chunk(
                _FUNCTION, integer(1, number) + integer(2, key[0]) + integer(3, key[0]) + integer(4, key[1])
            )
        return number

    def _labels(self, stack: StackStat) -> bytes:
        syscall, peer = boundary_labels(stack)
        waker = waker_label(stack)
        labels = {
            **{f"label {key}" if key in _OWN_LABELS else key: value for key, value in stack.labels},
            "state": stack.state.value,
            "reason": stack.reason,
            "syscall": syscall,
            "peer": peer,
            "waker": f"by {waker}" if waker else "",
            "object": stack.waited.label if stack.waited is not None else "",
            "process": self._process.get(stack.pid, f"({stack.pid})") if self._several else "",
        }
        encoded = self._text_labels(labels)
        if stack.goid is not None and self._wants("goroutine"):
            encoded += chunk(3, integer(1, self._string("goroutine")) + integer(3, stack.goid))
        return encoded

    def _text_labels(self, labels: Mapping[str, str]) -> bytes:
        return b"".join(
            chunk(3, integer(1, self._string(key)) + integer(2, self._string(value))) for key, value in labels.items()
            if value and self._wants(key)
        )

    def _wants(self, label: str) -> bool:
        return self._only is None or label in self._only


def watched_ns(profile: Profile) -> int:
    """The part of the window that the sums cover."""
    return min(profile.window.attached_ns or profile.window.duration_ns, profile.window.duration_ns)


def boundary_name(boundary: str) -> str:
    """``read (system call)``, ``page fault (kernel)``: no reason has such a name."""
    name = split_boundary(boundary)[0]
    if not name or name == IN_KERNEL:
        return name
    return f"{name} (kernel)" if name in NO_CALLS else f"{name} (system call)"


def _is_parking(frame: Frame) -> bool:
    return frame.kind in _CODE and (frame.name in _PARKING or frame.name.startswith(_LINKED_PARKING))


_CODE = frozenset((FrameKind.GO, FrameKind.RUNTIME))


def _as_go_has_it(frames: Sequence[Frame]) -> list[Frame]:
    """The stack without the waker's, from the operation that waits to the goroutine's first function. The kernel part of the thread's stack
    stays. The mark of a wait for the netpoller is not a function: label ``peer`` has what it says."""
    own = [
        frame for frame in frames
        if frame.kind is not FrameKind.WAKER
        and not (frame.kind is FrameKind.SYSCALL and split_boundary(frame.name)[0] == NETPOLL_BOUNDARY)
    ]
    end = len(own)
    while end and is_goroutine_root(own[end - 1]):
        end -= 1
    start = next((index + 1 for index in reversed(range(end)) if _is_parking(own[index])), 0)
    kept = [*(frame for frame in own[:start] if frame.kind in _BENEATH), *own[start:end]]
    return kept if any(frame.kind not in _BENEATH for frame in kept) else own


_BENEATH = frozenset((FrameKind.KERNEL, FrameKind.SYSCALL))


def physical_frames(frames: Sequence[Frame]) -> list[tuple[Frame, ...]]:
    """Inlined calls together with the function that contains their code, innermost first, as in a Location's lines."""
    groups: list[tuple[Frame, ...]] = []
    inlined: list[Frame] = []
    for frame in _as_go_has_it(frames):
        if inlined and frame.kind in _BENEATH:
            groups.append(tuple(inlined))
            inlined = []
        inlined.append(frame)
        if not frame.inlined:
            groups.append(tuple(inlined))
            inlined = []
    if inlined:
        groups.append(tuple(inlined))
    return groups or [(Frame("[no stack]", kind=FrameKind.LOST),)]
