"""What `gotrace.run.session` needs of a process, however its goroutines are watched: by probes, or by looks at its memory."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from gotrace.common.errors import GotraceError
from gotrace.common.vocabulary import Loss, Stat
from gotrace.gobin.binary import GoBinary
from gotrace.proc.priority import SamplePriority
from gotrace.proc.process import Process
from gotrace.profile.types import Missing, Pause, SingleInterval, StackStat, Target


class Waits(NamedTuple):
    """Waits that are in progress, for a commit: as `stacks` of their own; in `grown` with the whole stack that they are of, where they go
    on with a wait that is counted in it. `lacking` says what is not there."""

    stacks: list[StackStat] = []
    grown: list[StackStat] = []
    lacking: list[Missing] = []


class Watched(Protocol):
    """One process from `attach` to `close`. Moments are of CLOCK_MONOTONIC, in ns; `end_ns` is 0 until its window is over."""

    process: Process
    binary: GoBinary
    losses: dict[Loss, int]
    goroutines: int
    running_ns: int | None
    missing: list[Missing]
    notes: list[str]
    failure: GotraceError | None

    @property
    def start_ns(self) -> int:
        """When the window opened."""

    @property
    def end_ns(self) -> int:
        """When it was over."""

    @property
    def pauses(self) -> list[Pause]:
        """The stop-the-world pauses that were read."""

    @property
    def samples(self) -> int:
        """How many samples of its memory there are."""

    @property
    def paused_ns(self) -> int:
        """How long nothing was watched between `start_ns` and now, or the end."""

    @property
    def priority(self) -> SamplePriority | None:
        """What is to be taken before one waits for the next look at its memory, and to be given back after `tick`; None where there
        are no looks."""

    @property
    def execed(self) -> bool:
        """Whether the process has called exec, or ended."""

    def describe(self) -> Target:
        """What is known of the process."""

    def ready(self) -> str:
        """What has been made ready, in words."""

    def attach(self) -> None:
        """Makes everything ready, so that `begin` takes no time."""

    def begin(self) -> None:
        """Opens the window."""

    def tick(self) -> float:
        """Does what is due; returns the seconds until something is due again."""

    def end(self) -> None:
        """The process is gone, or has called exec: this is the end of its window."""

    def read(self, limit_ns: int = 0) -> tuple[list[StackStat], list[SingleInterval]]:
        """Stacks whose figures changed since they were read last, and the single intervals that ended since the last call. With
        `limit_ns` it takes hardly longer than that, and leaves what it does not get to for the next calls."""

    def ongoing(self) -> Waits:
        """Waits that are in progress now: `read`, which comes before, has none of them."""

    def read_pauses(self) -> list[Pause]:
        """The stop-the-world pauses that ended since the last call."""

    def stacks(self) -> list[StackStat]:
        """All stacks as of the last `read`."""

    def finish(self) -> tuple[list[StackStat], list[SingleInterval]]:
        """Closes the window; returns what `read` returns. Nothing is in the process any more."""

    def counters(self) -> dict[Stat, int]:
        """Counters up to now; what is missing is 0."""

    def current_losses(self) -> dict[Loss, int]:
        """Losses up to now."""

    def program_fds(self) -> list[int]:
        """The BPF programs that run for it."""

    def cpu_used_ns(self) -> int:
        """CPU time of the process since `begin`."""

    def close(self) -> None:
        """Removes what is left of the trace. Safe at any point, also twice."""
