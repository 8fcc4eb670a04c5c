"""A sink that keeps what a trace yields as places and requests, in windows of the past: what `gotrace top` shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from gotrace.common.vocabulary import FrameKind
from gotrace.export.labels import boundary_labels
from gotrace.export.requests_json import percentiles
from gotrace.profile.frames import place_of, plain_name
from gotrace.profile.gained import copied, difference
from gotrace.profile.hotspots import idle_by_design
from gotrace.profile.requests import Band, Span, bands
from gotrace.profile.types import Distribution, Frame, Profile, StackStat
from gotrace.run.sinks import Delta, Moment, Progress, Sink
from gotrace.top.history import History, Window
from gotrace.top.recent import Recent, cut, gained, snapshot
from gotrace.top.types import Place, RequestRow, Row, Screen

MOST_PLACES = 5000
"""Places beyond this number are one."""
TREND = 60
"""For how many seconds a row has its trend."""
OTHER = Place("(other places)", "", 0, "", "", "")
_SLOW = 0.99
_OWN = (FrameKind.GO, FrameKind.CGO, FrameKind.RUNTIME)


class LiveView(Sink):
    """Keeps the figures of one process. `changed` is called about once a second, when there is something new to show; `screen` may be
    called from another thread."""

    name = "the live view"

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self._changed = changed
        self._lock = threading.RLock()
        now = time.monotonic_ns()
        self._places: History[Place] = History(now)
        self._spans: History[str] = History(now)
        self._traced: History[str] = History(now)  # for how long, in ns, as a total
        # By identity: the references kept here keep the identities valid.
        self._seen: dict[int, tuple[StackStat, Place, StackStat]] = {}
        self._recent = Recent()
        self._known: set[Place] = set()
        self._cuts: History[str] = History(now)
        self._calls: dict[str, Distribution] = {}
        self._cut: dict[str, Distribution] = {}
        self._traced_ns: dict[str, int] = {}
        self._ongoing: dict[Place, Distribution] = {}
        self._waiting: list[StackStat] = []
        self._unseen = ""
        self._requests: list[Span] = []
        self._profile: Profile | None = None
        self._progress: Progress | None = None
        self._write: tuple[Window, Callable[[Profile], None]] | None = None

    def on_change(self, changed: Callable[[], None]) -> None:
        """Has `changed` called from now on."""
        self._changed = changed

    # -- what the run hands on -------------------------------------------------------------------------------------------

    def opened(self, profile: Profile) -> None:
        """The figures begin now."""
        with self._lock:
            self._profile = profile
            self._places.clear(time.monotonic_ns())
            self._spans.clear(time.monotonic_ns())
            self._traced.clear(time.monotonic_ns())
            self._cuts.clear(time.monotonic_ns())

    def take(self, delta: Delta) -> None:
        """Adds what the stacks have gained."""
        with self._lock:
            for stack in delta.stacks:
                _, place, before = self._seen.get(id(stack), (stack, None, None))
                place = place or self._place(stack)
                gain = gained(stack, before)
                self._places.add(place, gain.distribution)
                self._recent.add(id(stack), gain)
                self._seen[id(stack)] = stack, place, snapshot(stack)

    def commit(self, moment: Moment) -> None:
        """Ends a step, with the waits that are in progress."""
        with self._lock:
            self._ongoing, self._waiting, self._unseen = {}, [], ""
            for waits in moment.waits():
                self._waiting += waits.stacks
                self._unseen = self._unseen or waits.unseen
            for stack in self._waiting:
                self._ongoing.setdefault(self._place(stack), Distribution()).add(stack.distribution)
            self._end_step(moment.profile())
        if self._write is not None:
            (window, write), self._write = self._write, None
            write(self.profile(window))
        self._changed()

    def show(self, progress: Progress) -> None:
        """Keeps where the trace stands."""
        self._progress = progress

    def closed(self, profile: Profile) -> None:
        """The sums are whole now, and include the waits that the end has cut off."""
        with self._lock:
            self._end_step(profile)

    def _end_step(self, profile: Profile) -> None:
        self._profile = profile
        self._recent.step(profile)
        self._requests = profile.requests
        for span in profile.requests:
            before = self._calls.get(span.function, Distribution())
            self._spans.add(span.function, difference(span.latency, before))
            self._calls[span.function] = copied(span.latency)
            self._cuts.add(span.function, difference(span.cut, self._cut.get(span.function, Distribution())))
            self._cut[span.function] = copied(span.cut)
            traced_ns = self._traced_ns.get(span.function, 0)
            self._traced.add(span.function, Distribution(total_ns=max(0, span.traced_ns - traced_ns)))
            self._traced_ns[span.function] = max(traced_ns, span.traced_ns)
        now = time.monotonic_ns()
        self._places.step(now)
        self._spans.step(now)
        self._traced.step(now)
        self._cuts.step(now)

    def _place(self, stack: StackStat) -> Place:
        place = place_in(stack)
        if place not in self._known and len(self._known) >= MOST_PLACES:
            return OTHER
        self._known.add(place)
        return place

    # -- what is shown ---------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forgets the past: the windows begin now."""
        with self._lock:
            now = time.monotonic_ns()
            self._places.clear(now)
            self._spans.clear(now)
            self._traced.clear(now)
            self._cuts.clear(now)
            self._recent.reset({identity: last for identity, (_, _, last) in self._seen.items()})

    def screen(self, window: Window = Window.START, idle: bool = True, objects: bool = True) -> Screen | None:
        """Everything as of the last batch; None before the trace runs. Without `idle` the waits that are idle by design are left out;
        without `objects` those that differ only in file or peer are one row. Rows are those with most time first."""
        with self._lock:
            profile, progress = self._profile, self._progress
            if profile is None:
                return None
            governed = profile.governor.share if profile.governor is not None else None
            rows, states, length = self._rows(window, idle, objects, profile)
            return Screen(
                profile.targets[0], profile.window, length, rows, self._request_rows(window), states,
                progress.intervals_per_s if progress is not None else 0.0,
                governed if governed is not None or progress is None else progress.overhead_estimate, sum(profile.losses.values()),
                self._unseen,
            )

    def _rows(self, window: Window, idle: bool, objects: bool, profile: Profile) -> tuple[list[Row], dict[str, int], int]:
        complete = profile.complete
        sums, length = self._places.within(window)
        ongoing = self._ongoing
        if complete and window is Window.START:
            length = profile.window.duration_ns
        alike: dict[Place, list[Place]] = {}
        if not objects:
            sums, ongoing = _without_objects(sums), _without_objects(ongoing)
            for place in self._known:
                alike.setdefault(replace(place, object=""), []).append(place)
        rows: list[Row] = []
        states: dict[str, int] = {}
        for place in sums.keys() | ongoing.keys():
            ended, now = sums.get(place, Distribution()), ongoing.get(place, Distribution())
            whole = copied(ended)
            if not complete:  # at the end, the sums have what was in progress
                whole.add(cut(now, length))
            if not whole.count and not whole.total_ns:
                continue
            states[place.state] = states.get(place.state, 0) + whole.total_ns
            if place.idle and not idle:
                continue
            gone = max(0, ended.count - now.count) if complete else ended.count
            rows.append(Row(
                place, now.count if not self._unseen else None, gone * 1e9 / length if length else 0.0, whole.total_ns, 0.0,
                whole.percentile_ns(0.5), whole.percentile_ns(0.99), whole.max_ns, self._trend(alike.get(place, [place])),
            ))
        total = sum(row.total_ns for row in rows)
        rows = [replace(row, share=row.total_ns / total if total else 0.0) for row in rows]
        order = sorted(states.items(), key=lambda item: -item[1])
        return sorted(rows, key=lambda row: (-row.total_ns, row.place.name, row.place.reason)), dict(order), length

    def _trend(self, places: list[Place]) -> tuple[int, ...]:
        return tuple(map(sum, zip(*(self._places.trend(place, TREND) for place in places), strict=True)))

    def stacks_at(self, place: Place, most: int = 3) -> list[StackStat]:
        """The stacks of a place with most time since the trace began, as they are now; without an object those of all objects."""
        with self._lock:
            found = [
                stack for stack, at, _ in self._seen.values() if at == place or not place.object and replace(at, object="") == place
            ]
            found.sort(key=lambda stack: -stack.distribution.total_ns)
            return [replace(stack, distribution=copied(stack.distribution)) for stack in found[:most]]

    def save(self, window: Window, write: Callable[[Profile], None]) -> None:
        """Has `write` called with the profile of that window (`Recent.profile_of`), by the thread that runs the trace, at the next
        batch."""
        self._write = window, write

    def profile(self, window: Window) -> Profile:
        """The profile of that window as of the last batch; the trace runs."""
        with self._lock:
            assert self._profile is not None
            stacks = {identity: last for identity, (_, _, last) in self._seen.items()}
            return self._recent.profile_of(window, self._profile, stacks, self._waiting)

    def _request_rows(self, window: Window) -> list[RequestRow]:
        sums, length = self._spans.within(window)
        (traced, _), (cuts, _) = self._traced.within(window), self._cuts.within(window)
        none = Distribution()
        return [
            _request_row(
                span, sums.get(span.function, none), cuts.get(span.function, none),
                min(length, traced.get(span.function, none).total_ns),
            ) for span in self._requests
        ]


def _request_row(span: Span, ended: Distribution, cut_off: Distribution, traced_ns: int) -> RequestRow:
    cause, share = _cause(span)
    whole = copied(ended)
    whole.add(cut_off if span.windows > 1 else span.lasting)
    return RequestRow(
        plain_name(span.function), ended.count, span.in_progress, (ended.count + cut_off.count) * 1e9 / traced_ns if traced_ns else 0.0,
        ended.percentile_ns(0.5), ended.percentile_ns(0.9), ended.percentile_ns(0.99), ended.max_ns, traced_ns, cause, share,
        span.windows, cut_off.count, percentiles(whole), span.in_progress_before,
    )


def frame_in(frames: Sequence[Frame]) -> Frame | None:
    """The frame that a place is named after: of the goroutine's own code if there is any, else of the kernel's; None if there is none."""
    own = [frame for frame in frames if frame.kind in _OWN]
    rest = own or [frame for frame in frames if frame.kind is not FrameKind.WAKER]
    return rest[place_of(rest)] if rest else None


def place_in(stack: StackStat) -> Place:
    """The place of a stack."""
    at = frame_in(stack.frames)
    name, file, line = (plain_name(at.name), at.file, at.line) if at is not None else ("(no stack)", "", 0)
    return Place(name, file, line, stack.state.value, stack.reason, boundary_labels(stack)[1], idle_by_design(stack))


def _without_objects(sums: dict[Place, Distribution]) -> dict[Place, Distribution]:
    found: dict[Place, Distribution] = {}
    for place, one in sums.items():
        found.setdefault(replace(place, object=""), Distribution()).add(one)
    return found


def _cause(span: Span) -> tuple[str, float]:
    slow: Band = bands(span, (0.0, _SLOW, 1.0))[1]
    chosen = slow if slow.causes else bands(span, (0.0, 1.0))[0]
    if not chosen.causes or not chosen.total_ns:
        return "", 0.0
    cause, ns = next(iter(chosen.causes.items()))
    return cause.text, ns / chosen.total_ns
