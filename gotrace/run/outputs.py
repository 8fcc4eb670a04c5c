"""The sinks of `gotrace attach`: the capture, a timeline, other files, and what is said while the trace goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gotrace.capture.writer import CaptureLocked, CaptureWriter
from gotrace.common.errors import GotraceError
from gotrace.common.files import write
from gotrace.export import format_of, render
from gotrace.profile.singles import GrowingWaits
from gotrace.profile.told import told
from gotrace.profile.types import Profile, SingleInterval, StackStat, TimelineInterval
from gotrace.run.sinks import Delta, Moment, Progress, Sink

_TIMELINE_LIMIT = 500_000
"""Single intervals that are kept in memory for an output with a time axis: up to 200 MB."""


class CaptureSink(Sink):
    """Writes the capture. `stop` ends the trace: where the capture can't be written, as on a disk that is full, there is no use in
    going on; `say` is told, in one line, of another's lock. After `closed`, `written` tells whether it is whole, and `remark` what
    else is to be said."""

    def __init__(self, path: Path, force: bool, stop: Callable[[], None], say: Callable[[str], None]) -> None:
        self.writer = CaptureWriter(path, force)
        self.name = str(path)
        self.written = False
        self.remark = ""
        self._stop = stop
        self._say = say
        self._uncommitted = ""

    @property
    def path(self) -> Path:
        """The file."""
        return self.writer.path

    def opened(self, profile: Profile) -> None:
        """Killed from here on, the run leaves a valid capture."""
        for target in profile.targets:
            self.writer.put_target(target)
        self.writer.commit(profile)

    def take(self, delta: Delta) -> None:
        """Keeps it for the next commit."""
        self.writer.put_stacks(delta.stacks)
        self.writer.put_intervals(delta.pid, delta.intervals)
        self.writer.put_pauses(delta.pauses)

    def commit(self, moment: Moment) -> None:
        """Where another holds the capture's lock the trace goes on, and what can't be written now is for the next commit."""
        ongoing: list[StackStat] = []
        try:
            profile = moment.profile()
            for waits in moment.waits():
                ongoing += waits.stacks
                self.writer.put_stacks(waits.grown)
                profile.missing += waits.lacking
            self.writer.put_ongoing(ongoing)
            self.writer.commit(profile)
            self._uncommitted = ""
        except CaptureLocked as error:
            if str(error) != self._uncommitted:
                self._say(f"{error}; it is tried again")
            self._uncommitted = str(error)
        except GotraceError:  # told at the end, where it is tried once more
            self._stop()

    def closed(self, profile: Profile) -> None:
        """The last commit; folds the log into the file."""
        failure: GotraceError | None = None
        try:
            self.writer.put_ongoing([])
            self.writer.commit(profile)
            self.written = True
        except GotraceError as error:
            failure = error
        try:
            if not self.writer.close():
                self.remark = f"{self.path}-wal stays until its readers close; what copies the capture needs both until then"
        except GotraceError as error:
            failure = failure or error
        if failure is not None:
            raise failure

    def interrupted(self) -> None:
        """The capture stays as it was committed last."""
        self.writer.leave()


class TimelineSink(Sink):
    """Keeps single intervals for an output with a time axis; `dropped` counts those that there was no room for."""

    name = "the timeline"

    def __init__(self) -> None:
        self.dropped = 0
        self._intervals: list[SingleInterval] = []
        self._growing = GrowingWaits()

    def take(self, delta: Delta) -> None:
        """Adds the intervals; one that goes on takes the place of its beginning."""
        for interval in delta.intervals:
            end = len(self._intervals)
            at = self._growing.place(delta.pid, interval, end)
            if at < end:
                self._intervals[at] = interval
            elif end < _TIMELINE_LIMIT:
                self._intervals.append(interval)
            else:
                self.dropped += 1

    def intervals(self, stacks: list[StackStat]) -> list[TimelineInterval]:
        """Those that were kept, each with its stack, which is among `stacks`."""
        by_key = {stack.key: stack for stack in stacks} if self._intervals else {}
        # A key holds a whole stack: it is hashed once for all intervals that share the object.
        known: dict[int, StackStat] = {}
        for interval in self._intervals:
            if id(interval.stack_key) not in known:
                known[id(interval.stack_key)] = by_key[interval.stack_key]
        return [
            TimelineInterval(i.goid, i.start_ns, i.duration_ns, known[id(i.stack_key)], i.waker_goid, i.tid) for i in self._intervals
        ]


class FileSink(Sink):
    """Writes one output file at the end, in the format of its suffix; `written` tells whether it is there."""

    def __init__(self, path: Path, runtime: bool, force: bool) -> None:
        self.path = path
        self.name = str(path)
        self.written = False
        self._runtime = runtime
        self._force = force

    def write(self, profile: Profile) -> None:
        """Renders and writes."""
        write(self.path, render(profile, format_of(self.name), self._runtime), self._force)
        self.written = True


class Talk(Sink):
    """Calls back those who show how a trace goes on: `started` with what is to be told as the window opens, `progress` and `notice`."""

    name = "the progress display"

    def __init__(
        self, started: Callable[[list[str]], None] | None, progress: Callable[[Progress], None] | None, notice: Callable[[str], None] | None
    ) -> None:
        self._started = started
        self._progress = progress
        self._notice = notice

    def opened(self, profile: Profile) -> None:
        """The window is open."""
        if self._started is not None:
            self._started(told(profile))

    def show(self, progress: Progress) -> None:
        """Where it stands."""
        if self._progress is not None:
            self._progress(progress)

    def notice(self, text: str) -> None:
        """Something to be said once."""
        if self._notice is not None:
            self._notice(text)
