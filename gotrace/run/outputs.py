"""The sinks of `gotrace attach`: the capture, a timeline, other files, and the messages during the trace."""

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
"""How many single intervals are kept in memory for an output with a time axis: up to 200 MB."""


class CaptureSink(Sink):
    """Writes the capture. `stop` ends the trace: if the capture can't be written, as on a full disk, there is no point in going on. `say`
    gets one line about a lock held by another process. After `closed`, `written` tells whether the capture is complete, and `remark`
    has anything else to say."""

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
        """Makes the capture valid, even if the run is killed from here on."""
        for target in profile.targets:
            self.writer.put_target(target)
        self.writer.commit(profile)

    def take(self, delta: Delta) -> None:
        """Keeps the batch for the next commit."""
        self.writer.put_stacks(delta.stacks)
        self.writer.put_intervals(delta.pid, delta.intervals)
        self.writer.put_pauses(delta.pauses)

    def commit(self, moment: Moment) -> None:
        """Commits. If another process holds the capture's lock, the trace goes on, and the next commit writes the rest."""
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
        except GotraceError:  # reported at the end, when it is tried once more
            self._stop()

    def closed(self, profile: Profile) -> None:
        """Makes the last commit; folds the log into the file."""
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
        """Leaves the capture as it was last committed."""
        self.writer.leave()


class TimelineSink(Sink):
    """Keeps single intervals for an output with a time axis; `dropped` counts those for which there was no room."""

    name = "the timeline"

    def __init__(self) -> None:
        self.dropped = 0
        self._intervals: list[SingleInterval] = []
        self._growing = GrowingWaits()

    def take(self, delta: Delta) -> None:
        """Adds the intervals; a longer version of an interval replaces the shorter one."""
        for interval in delta.intervals:
            kept, new = len(self._intervals), len(self._intervals) + self.dropped
            at = self._growing.place(delta.pid, interval, new)
            if at < kept:
                self._intervals[at] = interval
            elif at < new:
                pass  # of one for which there was no room
            elif kept < _TIMELINE_LIMIT:
                self._intervals.append(interval)
            else:
                self.dropped += 1

    def intervals(self, stacks: list[StackStat]) -> list[TimelineInterval]:
        """Returns the intervals, each with its stack, which is one of `stacks`."""
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
    """Writes one output file at the end, in the format of its suffix; `written` tells whether it exists."""

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
    """Calls those who display the trace: `started` with the first messages as the window opens, then `progress` and `notice`."""

    name = "the progress display"

    def __init__(
        self, started: Callable[[list[str]], None] | None, progress: Callable[[Progress], None] | None, notice: Callable[[str], None] | None
    ) -> None:
        self._started = started
        self._progress = progress
        self._notice = notice

    @property
    def shows_progress(self) -> bool:
        """Only if somebody does."""
        return self._progress is not None

    def opened(self, profile: Profile) -> None:
        """The window is open."""
        if self._started is not None:
            self._started(told(profile))

    def show(self, progress: Progress) -> None:
        """Where the trace stands."""
        if self._progress is not None:
            self._progress(progress)

    def notice(self, text: str) -> None:
        """A message to show once."""
        if self._notice is not None:
            self._notice(text)
