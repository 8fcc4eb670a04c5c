"""Hands batches of changes from a run to sinks, behind one small interface. If a sink fails, the others continue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gotrace.common.errors import GotraceError
from gotrace.common.vocabulary import Loss
from gotrace.profile.types import GovernorStep, Pause, Profile, SingleInterval, StackStat
from gotrace.watch.protocol import Waits


@dataclass(frozen=True)
class Delta:
    """What has changed in one process since the last batch: stacks whose figures grew, single intervals that ended, stops of the world, and
    steps of the governor. `losses` are all losses so far."""

    pid: int
    stacks: list[StackStat]
    intervals: list[SingleInterval]
    pauses: list[Pause]
    losses: dict[Loss, int]
    steps: Sequence[GovernorStep] = ()


@dataclass(frozen=True)
class Progress:
    """Where a running trace stands. The overhead is an estimate, as a share of the CPU time that the target uses."""

    elapsed_ns: int
    intervals: int
    intervals_per_s: float
    losses: int
    overhead_estimate: float | None


@dataclass(frozen=True)
class Moment:
    """Where the trace stands between two batches; computed only on request."""

    profile: Callable[[], Profile]
    waits: Callable[[], list[Waits]]
    """Waits in progress, of each process: no batch contains them."""


class Sink:
    """Takes what a run yields. Each method may raise GotraceError: the sink then gets nothing more, and the run's exit code is 1. A sink
    bounds its own memory. `name` is its name in messages."""

    name = ""

    @property
    def shows_progress(self) -> bool:
        """Whether `show` does anything."""
        return type(self).show is not Sink.show

    def opened(self, profile: Profile) -> None:
        """The windows are open; the profile has targets, missing stages and notes."""

    def take(self, delta: Delta) -> None:
        """A batch of changes, about once a second and at the end."""

    def commit(self, moment: Moment) -> None:
        """All processes have handed on a batch: what is to survive a crash should be stored now."""

    def show(self, progress: Progress) -> None:
        """Progress, five times a second."""

    def notice(self, text: str) -> None:
        """A message to show once, in one line."""

    def closed(self, profile: Profile) -> None:
        """The windows are closed and everything has been handed on. The profile is complete."""

    def write(self, profile: Profile) -> None:
        """The profile to show: narrowed down by the filters, with hot spots."""

    def interrupted(self) -> None:
        """The run ends without waiting for outputs: what is stored stays as it is. No call follows."""


class Sinks(Sink):
    """Hands on to all sinks. `failures` are the errors of those that failed, in order."""

    def __init__(self) -> None:
        self.failures: list[tuple[Sink, GotraceError]] = []
        self._sinks: list[Sink] = []

    def add(self, sink: Sink) -> None:
        """Adds a sink, which gets everything from here on."""
        self._sinks.append(sink)

    @property
    def shows_progress(self) -> bool:
        """Whether any of them does."""
        return any(sink.shows_progress for sink in self._sinks)

    def _each(self, what: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                what(sink)
            except GotraceError as error:
                self._fail(sink, error)
            except Exception as error:  # the other sinks go on in any case
                self._fail(sink, GotraceError(f"{sink.name}: {type(error).__name__}: {error}", "the other outputs are whole"))

    def _fail(self, sink: Sink, error: GotraceError) -> None:
        self._sinks.remove(sink)
        self.failures.append((sink, error))

    def opened(self, profile: Profile) -> None:
        """Hands it on."""
        self._each(lambda sink: sink.opened(profile))

    def take(self, delta: Delta) -> None:
        """Hands it on."""
        self._each(lambda sink: sink.take(delta))

    def commit(self, moment: Moment) -> None:
        """Hands it on."""
        self._each(lambda sink: sink.commit(moment))

    def show(self, progress: Progress) -> None:
        """Hands it on."""
        self._each(lambda sink: sink.show(progress))

    def notice(self, text: str) -> None:
        """Hands it on."""
        self._each(lambda sink: sink.notice(text))

    def closed(self, profile: Profile) -> None:
        """Hands it on."""
        self._each(lambda sink: sink.closed(profile))

    def write(self, profile: Profile) -> None:
        """Hands it on."""
        self._each(lambda sink: sink.write(profile))

    def interrupted(self) -> None:
        """Hands it on."""
        self._each(lambda sink: sink.interrupted())
