"""Hands what the processes of a run yield to its sinks."""

from __future__ import annotations

from gotrace.governor.regulator import Regulator
from gotrace.profile.types import GovernorStep, Profile, SingleInterval, StackStat
from gotrace.run.accounting import Accounting
from gotrace.run.outputs import CaptureSink, TimelineSink
from gotrace.run.sinks import Delta, Moment, Sinks
from gotrace.watch.protocol import Waits, Watched

_READ_FOR_NS = 250_000_000
"""How long reading may take before a commit. With tens of thousands of changing stacks it would take seconds, of a CPU that the target
may want, and Ctrl-C would have to wait. The rest is read before the next commits, and at the end."""


class Handing:
    """Does so for one run. `timeline` and `capture` are the members of `sinks` whose own losses count for the run."""

    def __init__(self, processes: list[Watched], regulators: dict[int, Regulator], accounting: Accounting) -> None:
        self.sinks = Sinks()
        self.timeline: TimelineSink | None = None
        self.capture: CaptureSink | None = None
        self._processes = processes
        self._regulators = regulators
        self._accounting = accounting
        self._steps: dict[int, int] = {}

    def batch(self) -> None:
        """Hands on what has changed in all processes since the last batch, and where the run stands."""
        for process in self._processes:
            self._hand_on(process, *process.read(_READ_FOR_NS // len(self._processes)))
        self.sinks.commit(Moment(lambda: self.profile(complete=False), self._waits))

    def _waits(self) -> list[Waits]:
        return [process.ongoing() for process in self._processes]

    def last_batch(self, process: Watched) -> None:
        """Closes the process's window and hands on the rest."""
        self._hand_on(process, *process.finish())

    def _hand_on(self, process: Watched, stacks: list[StackStat], intervals: list[SingleInterval]) -> None:
        pid = process.process.pid
        self.sinks.take(Delta(pid, stacks, intervals, process.read_pauses(), process.losses, self._new_steps(pid)))

    def _new_steps(self, pid: int) -> tuple[GovernorStep, ...]:
        if pid not in self._regulators:
            return ()
        record = self._regulators[pid].record
        more, self._steps[pid] = record.noted - self._steps.get(pid, 0), record.noted
        return tuple(record.steps)[max(0, len(record.steps) - more) :]

    def show(self, now: float) -> None:
        """Shows where the run stands at `now` (time.monotonic)."""
        if self.sinks.shows_progress:
            self.sinks.show(self._accounting.progress(now))

    def profile(self, complete: bool) -> Profile:
        """All that is known so far."""
        dropped = self.timeline.dropped if self.timeline is not None else 0
        dropped += self.capture.writer.dropped if self.capture is not None else 0
        profile = self._accounting.profile(complete, [], dropped)
        if complete and self.timeline is not None:
            profile.timeline = self.timeline.intervals(profile.stacks)
        return profile
