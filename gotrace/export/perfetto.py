"""Perfetto's trace format: a track per goroutine with its states as slices, wake-ups as flow arrows. Field numbers:
google/perfetto, protos/perfetto/trace.

Time off the CPU is a slice; between two slices the goroutine ran, or was not seen. The tracks of the threads below show which
goroutine each thread ran.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gotrace.common.errors import GotraceError
from gotrace.common.vocabulary import FrameKind, State
from gotrace.export.about import comments, start_ns
from gotrace.export.labels import boundary_labels
from gotrace.export.perfetto_requests import draw_requests
from gotrace.export.protobuf import chunk, fixed64, integer, text
from gotrace.export.threads import runs_by_thread
from gotrace.profile.types import Frame, Profile, StackStat
from gotrace.render.frames import folded_frames, is_goroutine_root, reason_label, without_waker
from gotrace.render.text import sanitize

NAME_LIMIT = 600
"""The most characters of one string: as many as the HTML page holds."""

# TracePacket's fields, TrackEvent's types, and InternedData's fields.
_CLOCK_SNAPSHOT, _TIMESTAMP, _SEQUENCE, _TRACK_EVENT, _INTERNED, _FLAGS, _TRACK_DESCRIPTOR = 6, 8, 10, 11, 12, 13, 60
_BEGIN, _END, _INSTANT = 1, 2, 3
_CATEGORIES, _NAMES, _ANNOTATION_NAMES, _FUNCTIONS, _FRAMES, _CALLSTACKS = 1, 2, 3, 5, 6, 7
_MAPPING_PATHS, _SOURCES, _MAPPINGS, _STRINGS = 17, 18, 19, 29
# One sequence; its first packet clears what readers have interned, and all others depend on it.
_NEEDS_INTERNED = integer(_SEQUENCE, 1) + integer(_FLAGS, 2)
_FIRST = integer(_SEQUENCE, 1) + integer(_FLAGS, 1 | 2)
_REALTIME, _BOOTTIME = 1, 6
_EXPLICIT_ORDER, _NEVER_MERGED = 3, 2
_FIRST_UUID = 0x676F7472 << 32
_KERNEL = -1
"""In place of a pid: the mapping of code in the kernel."""


def require_timeline(profile: Profile) -> None:
    """Raises `GotraceError` if neither single intervals nor paths of requests were recorded: nothing could be put on a time axis."""
    if not profile.timeline and not any(exemplar.path for span in profile.requests for exemplar in span.exemplars):
        raise GotraceError(
            "the capture has no single intervals, and a Perfetto trace shows nothing else",
            "record them: sudo gotrace attach --per-goroutine -o FILE.gotrace PID",
        )


def render_perfetto(profile: Profile) -> bytes:
    """Returns a ``perfetto.protos.Trace``; `require_timeline` tells whether there is anything to show in it.

    Time 0 is the window's start. Slices are named by state and reason and carry ``function`` (the first of the program's own), ``peer``,
    ``syscall``, ``woken_by`` (goroutine id) and the call stack. Waits in progress at the window's end are not among the single intervals:
    if goroutines were kept apart, their slices are derived from the sums, and marked ``in_progress``; those that can't be drawn are
    mentioned with the losses. An instant ``wakes goroutine N`` on the waker's track starts the arrow to the slice in which N became
    runnable, or to an instant if it ran at once. The threads have tracks of their own, with the goroutine that each ran. Each of the
    slowest requests has a track, with tracks for the goroutines of its path below (`gotrace.export.perfetto_requests`). Stop-the-world
    pauses have a track, window and losses another.
    """
    return _Trace(profile).encode()


@dataclass
class _Slice:
    start_ns: int
    end_ns: int
    stack: StackStat
    waker: int = 0
    in_progress: bool = False


class _Interned:
    """Texts (or other keys) of one field of InternedData, numbered from 1."""

    def __init__(self) -> None:
        self.ids: dict[Any, int] = {}

    def __call__(self, key: Any) -> int:
        return self.ids.setdefault(key, len(self.ids) + 1)


class _Trace:
    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._interned = {
            field: _Interned()
            for field in (
                _CATEGORIES, _NAMES, _ANNOTATION_NAMES, _FUNCTIONS, _FRAMES, _CALLSTACKS, _SOURCES, _MAPPINGS, _STRINGS,
            )
        }
        self._bodies: dict[int, bytes] = {}
        self._frame_ids: dict[tuple[int, int], bytes] = {}
        self._uuid = _FIRST_UUID
        self._descriptors: list[bytes] = []
        self._events: list[tuple[int, bytes]] = []
        self._flow = 0

    def encode(self) -> bytes:
        profile = self._profile
        processes = {target.pid: target.comm for target in profile.targets}
        slices = _slices(profile)
        self._about(_not_drawn(profile, slices))
        for pid in dict.fromkeys((*processes, *(pid for pid, _ in slices))):
            own = {goid: found for (owner, goid), found in slices.items() if owner == pid}
            self._process(pid, processes.get(pid, ""), own)
        packets = [self._clocks(), self._first_packet(), *self._descriptors]
        # Stable: events of a track at the same moment keep their order, an end before the next begin.
        packets += [event for _, event in sorted(self._events, key=lambda event: event[0])]
        return b"".join(chunk(1, packet) for packet in packets)

    # -- tracks --------------------------------------------------------------------------------------------------------

    def track(self, name: str, parent: int = 0, rank: int | None = None, more: bytes = b"") -> int:
        """A new track below `parent`, ordered by `rank`. Returns its id."""
        self._uuid += 1
        content = integer(1, self._uuid) + (text(2, sanitize(name, NAME_LIMIT)) if name else b"") + more
        if parent:
            content += integer(5, parent) + integer(15, _NEVER_MERGED)
        if rank is not None:
            content += integer(12, rank)
        self._descriptors.append(chunk(_TRACK_DESCRIPTOR, content) + _NEEDS_INTERNED)
        return self._uuid

    def flow(self) -> int:
        """The number of a new arrow."""
        self._flow += 1
        return self._flow

    def _process(self, pid: int, comm: str, slices: dict[int, list[_Slice]]) -> None:
        description = integer(1, pid) + text(6, sanitize(comm, NAME_LIMIT))
        process = self.track("", more=chunk(3, description))
        pauses = [pause for pause in self._profile.pauses if pause.pid == pid]
        if pauses:
            track = self.track("stop the world", process)
            for pause in pauses:
                end_ns = pause.start_ns + pause.duration_ns
                self.span(track, pause.start_ns, end_ns, self.plain("pause", pause.reason))
        draw_requests(self, [span for span in self._profile.requests if span.pid == pid], process)
        # Tracks that are direct children of a process are listed among its threads, in an order that we can't set.
        parent = self.track("goroutines", process, more=integer(11, _EXPLICIT_ORDER))
        wakers = {part.waker for parts in slices.values() for part in parts if part.waker}
        tracks = {}
        for goid in sorted({*slices, *wakers}):
            start = next((_start_function(part.stack) for part in slices.get(goid, ())), "")
            tracks[goid] = self.track(f"goroutine {goid} {start}".rstrip(), parent, goid)
        self._threads(pid, process)
        for goid, parts in slices.items():
            wakes = dict(_wakes(parts))
            for index, part in enumerate(parts):
                flow = self._wake(part, tracks[part.waker], goid, wakes[index]) if index in wakes else 0
                body = self._body(part.stack) + self._extra(part)
                at_once = flow and part.stack.state is not State.RUNNABLE
                target = integer(11, tracks[goid])
                begin = body + (fixed64(48, flow) if flow and not at_once else b"")
                self.event(part.start_ns, integer(9, _BEGIN) + target + begin)
                self.event(part.end_ns, integer(9, _END) + target)
                if at_once:
                    woken = self.plain("wake", f"woken by goroutine {part.waker}") + fixed64(48, flow)
                    self.event(part.end_ns, integer(9, _INSTANT) + target + woken)

    def _threads(self, pid: int, process: int) -> None:
        own = (part for part in self._profile.timeline if part.stack.pid == pid)
        threads = runs_by_thread(own, self._profile.window.duration_ns)
        if not threads:
            return
        parent = self.track("threads", process, more=integer(11, _EXPLICIT_ORDER))
        for tid, runs in threads.items():
            track = self.track(f"thread {tid}", parent, tid)
            for run in runs:
                self.span(track, run.start_ns, run.end_ns, self.plain("thread", f"goroutine {run.goid}"))

    def _wake(self, part: _Slice, waker_track: int, goid: int, at_ns: int) -> int:
        flow = self.flow()
        name = self.plain("wake", f"wakes goroutine {goid}")
        self.event(at_ns, integer(9, _INSTANT) + integer(11, waker_track) + name + fixed64(47, flow))
        return flow

    def _about(self, not_drawn: str) -> None:
        profile = self._profile
        lines = comments(profile)
        lost = [line for line in lines if line.startswith(("LOSS", "INCOMPLETE"))]
        name = "; ".join(lost) or f"gotrace {profile.version}: no losses"
        if not_drawn:
            lines.append(not_drawn)
            name += f"; {not_drawn}"
        notes = b"".join(self.annotation(f"note {number}", line) for number, line in enumerate(lines, 1))
        track = self.track("gotrace: window and losses")
        self.span(track, 0, profile.window.duration_ns, self.plain("gotrace", name) + notes)

    # -- events --------------------------------------------------------------------------------------------------------

    def event(self, at_ns: int, body: bytes) -> None:
        """One event; `body` says which, and on which track."""
        self._events.append((at_ns, integer(_TIMESTAMP, at_ns) + chunk(_TRACK_EVENT, body) + _NEEDS_INTERNED))

    def span(self, track: int, start_ns: int, end_ns: int, body: bytes) -> None:
        """A slice of a track."""
        self.event(start_ns, integer(9, _BEGIN) + integer(11, track) + body)
        self.event(end_ns, integer(9, _END) + integer(11, track))

    def plain(self, category: str, name: str) -> bytes:
        """Category and name of an event."""
        return integer(3, self._interned[_CATEGORIES](category)) + integer(10, self._interned[_NAMES](name))

    def annotation(self, name: str, value: str | int) -> bytes:
        """A note of an event."""
        key = integer(1, self._interned[_ANNOTATION_NAMES](name))
        if isinstance(value, int):
            return chunk(4, key + integer(4, value))
        return chunk(4, key + integer(17, self._interned[_STRINGS](value)))

    def _body(self, stack: StackStat) -> bytes:
        """What all slices of a stack have in common."""
        body = self._bodies.get(id(stack))
        if body is None:
            syscall, peer = boundary_labels(stack)
            own = folded_frames(without_waker(stack.frames))
            function = next((frame.name for frame in own if frame.kind in (FrameKind.GO, FrameKind.CGO)), "")
            body = self.plain(stack.state.value, reason_label(stack)[1:-1])
            body += self.callstack(stack.pid, without_waker(stack.frames))
            for name, value in (("function", function), ("syscall", syscall), ("peer", peer)):
                body += self.annotation(name, value) if value else b""
            for name, value in stack.labels:
                body += self.annotation(f"label {name}", value)
            self._bodies[id(stack)] = body
        return body

    def _extra(self, part: _Slice) -> bytes:
        body = self.annotation("woken_by", part.waker) if part.waker else b""
        return body + (self.annotation("in_progress", 1) if part.in_progress else b"")

    def callstack(self, pid: int, frames: tuple[Frame, ...]) -> bytes:
        """The stack of an event; nothing where there is none."""
        if not frames:
            return b""
        ids = []
        for frame in reversed(frames):
            # Captures share frames among stacks, even of several processes.
            encoded = self._frame_ids.get((pid, id(frame)))
            if encoded is None:
                source = self._interned[_SOURCES](frame.file) if frame.file else 0
                function = self._interned[_FUNCTIONS](frame.name or "(no name)")
                mapping = self._interned[_MAPPINGS](_KERNEL if frame.kind in (FrameKind.KERNEL, FrameKind.SYSCALL) else pid)
                number = self._interned[_FRAMES]((function, source, frame.line, mapping))
                # One by one: Perfetto's decoder accepts a packed list only for fields declared so.
                encoded = self._frame_ids[pid, id(frame)] = integer(2, number)
            ids.append(encoded)
        return integer(56, self._interned[_CALLSTACKS](b"".join(ids)))

    def _first_packet(self) -> bytes:
        """Everything interned. trace_processor drops a frame without a mapping: each process has one mapping, the kernel another."""
        content = bytearray()
        for field in (_CATEGORIES, _NAMES, _ANNOTATION_NAMES, _FUNCTIONS, _SOURCES, _STRINGS):
            for string, number in self._interned[field].ids.items():
                content += chunk(field, integer(1, number) + text(2, sanitize(str(string), NAME_LIMIT)))
        paths = {target.pid: target.exe for target in self._profile.targets} | {_KERNEL: "[kernel]"}
        for process, number in self._interned[_MAPPINGS].ids.items():
            path = text(2, sanitize(paths.get(process, ""), NAME_LIMIT))
            content += chunk(_MAPPING_PATHS, integer(1, number) + path) + chunk(_MAPPINGS, integer(1, number) + integer(7, number))
        for (function, source, line, mapping), number in self._interned[_FRAMES].ids.items():
            frame = integer(1, number) + integer(2, function) + integer(3, mapping)
            frame += (integer(5, source) if source else b"") + (integer(6, line) if line else b"")
            content += chunk(_FRAMES, frame)
        for ids, number in self._interned[_CALLSTACKS].ids.items():
            content += chunk(_CALLSTACKS, integer(1, number) + ids)
        return chunk(_INTERNED, bytes(content)) + _FIRST

    def _clocks(self) -> bytes:
        """Perfetto's default clock is 0 at the window's start; the wall clock's value at that moment lets it show the time of day."""
        clocks = [integer(1, _BOOTTIME) + integer(2, 0)]
        if start_ns(self._profile):
            clocks.append(integer(1, _REALTIME) + integer(2, start_ns(self._profile)))
        return chunk(_CLOCK_SNAPSHOT, b"".join(chunk(1, clock) for clock in clocks)) + integer(_SEQUENCE, 1)


# ---- slices ---------------------------------------------------------------------------------------------------------


def _slices(profile: Profile) -> dict[tuple[int, int], list[_Slice]]:
    """By pid and goroutine id, in time order, none overlapping the next."""
    found: dict[tuple[int, int], list[_Slice]] = {}
    for single in profile.timeline:
        part = _Slice(single.start_ns, single.start_ns + single.duration_ns, single.stack, single.waker_goid)
        found.setdefault((single.stack.pid, single.goid), []).append(part)
    for parts in found.values():
        parts.sort(key=lambda part: part.start_ns)
        before = 0
        for part in parts:
            # Slices of a track must nest or follow each other; a capture may contain anything.
            part.start_ns = max(part.start_ns, before)
            before = part.end_ns = max(part.start_ns, part.end_ns)
    for key, open_parts in ({} if _gave_up_intervals(profile) else _still_open(profile)).items():
        parts = found.setdefault(key, [])
        at_ns = profile.window.duration_ns - sum(ns for ns, _ in open_parts)
        if at_ns < (parts[-1].end_ns if parts else 0):
            continue  # something else is missing then: events that were lost, or too short for --events-over
        for ns, stack in open_parts:
            parts.append(_Slice(at_ns, at_ns + ns, stack, in_progress=True))
            at_ns += ns
    return dict(sorted((key, parts) for key, parts in found.items() if parts))


def _gave_up_intervals(profile: Profile) -> bool:
    """Whether the sums hold more than single intervals and what was open at the end: estimates, and waits that pauses cut. Without wakers,
    or without the kernel's part, they do not."""
    report = profile.governor
    return report is not None and any((report.sampled_ns, report.lean_ns, report.looked_ns, report.paused_ns))


def _not_drawn(profile: Profile, slices: dict[tuple[int, int], list[_Slice]]) -> str:
    """What to say of waits in progress at the window's end that have no slice; "" if there are none."""
    drawn = {id(part.stack) for parts in slices.values() for part in parts if part.in_progress}
    missing = [stack for stack in profile.stacks if stack.in_progress and id(stack) not in drawn]
    if not missing:
        return ""
    if _gave_up_intervals(profile):
        why = "the governor gave up single intervals or probes, so that it is not known when they began"
    elif profile.governor is not None and profile.governor.kernel_off_ns and all(stack.state in _OF_THREADS for stack in missing):
        why = "the governor gave up system calls and waits for a CPU, so that it is not known when they were in them"
    elif any(stack.goid is None for stack in missing):
        why = "goroutines were not kept apart (record with --per-goroutine)"
    else:
        why = "their stacks lack other intervals too, so that it is not known when they began"
    apart = {(stack.pid, stack.goid) for stack in missing}  # a wait may be in progress in several of its parts
    count = len(apart) if all(stack.goid is not None for stack in missing) else sum(stack.in_progress for stack in missing)
    waits = "1 wait" if count == 1 else f"{count:,} waits"
    return f"NOT DRAWN: {waits} that still went on when the window ended; goroutines that waited throughout have no track: {why}"


_ORDER = {State.NETPOLL: 1, State.RUNNABLE: 2, State.RUNQUEUE: 3}


_OF_THREADS = frozenset((State.SYSCALL, State.RUNQUEUE))


def _still_open(profile: Profile) -> dict[tuple[int, int], list[tuple[int, StackStat]]]:
    """What the sums of a goroutine's stacks hold beyond its single intervals, if that is exactly one part in progress. If the kernel's part
    was given up, waits of threads were cut at that point, not by the window's end."""
    cut = _OF_THREADS if profile.governor is not None and profile.governor.kernel_off_ns else frozenset()
    seen: dict[int, tuple[int, int]] = {}
    for part in profile.timeline:
        count, ns = seen.get(id(part.stack), (0, 0))
        seen[id(part.stack)] = count + 1, ns + part.duration_ns
    found: dict[tuple[int, int], list[tuple[int, StackStat]]] = {}
    for stack in profile.stacks:
        count, ns = seen.get(id(stack), (0, 0))
        rest_ns = stack.distribution.total_ns - ns
        if stack.state in cut:
            continue
        if stack.goid is not None and stack.in_progress and stack.distribution.count - count == 1 and rest_ns > 0:
            found.setdefault((stack.pid, stack.goid), []).append((rest_ns, stack))
    for parts in found.values():
        parts.sort(key=lambda part: _ORDER.get(part[1].state, 0))
    return found


def _wakes(parts: Iterable[_Slice]) -> Iterator[tuple[int, int]]:
    """Index of the slice to which a wake-up leads, and its moment. All parts of an interval name the waker; the goroutine was woken where
    its runnable part begins, or where the last part ends if it ran at once."""
    parts = list(parts)
    for index, part in enumerate(parts):
        if not part.waker:
            continue
        after = parts[index + 1] if index + 1 < len(parts) else None
        goes_on = after is not None and after.start_ns == part.end_ns and after.waker == part.waker
        if part.stack.state is State.RUNNABLE:
            yield index, part.start_ns
        elif not (goes_on and after is not None and after.stack.state in _ORDER):
            yield index, part.end_ns


def _start_function(stack: StackStat) -> str:
    code = (FrameKind.GO, FrameKind.RUNTIME, FrameKind.CGO)
    own = [frame for frame in stack.frames if frame.kind in code and not is_goroutine_root(frame)]
    if len(own) > 1 and own[-1].name == "runtime.main":
        own.pop()
    return own[-1].name if own else ""
