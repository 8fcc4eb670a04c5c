"""What `gotrace.run.session` needs of a process, whether its goroutines are watched by probes or by samples of its memory."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from gotrace.common.errors import GotraceError
from gotrace.common.vocabulary import Loss, Stat
from gotrace.gobin.binary import GoBinary
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.proc.priority import SamplePriority
from gotrace.proc.process import Process
from gotrace.profile.holders import LockHolders
from gotrace.profile.requests import Span
from gotrace.profile.types import Missing, Pause, SingleInterval, StackStat, Target
from gotrace.watch.target import OpenTarget


class Waits(NamedTuple):
    """Waits that are in progress, for a commit. `stacks` has those that stand alone; `grown` has whole stacks, where a wait prolongs one
    that is already counted. `lacking` says what is missing. `unseen`: why it can't be told now what waits, "" if it can."""

    stacks: list[StackStat] = []
    grown: list[StackStat] = []
    lacking: list[Missing] = []
    unseen: str = ""


class Watched(Protocol):
    """One process from `attach` to `close`. Moments are CLOCK_MONOTONIC, in ns; `end_ns` is 0 until its window is over."""

    target: OpenTarget
    symbols: KernelSymbols
    process: Process
    binary: GoBinary
    losses: dict[Loss, int]
    goroutines: int
    missing: list[Missing]
    notes: list[str]
    failure: GotraceError | None

    @property
    def running_ns(self) -> int | None:
        """For how long its goroutines had a CPU; None before the end, or if it is not known."""

    @property
    def start_ns(self) -> int:
        """When the window opened."""

    @property
    def end_ns(self) -> int:
        """When the window closed."""

    @property
    def pauses(self) -> list[Pause]:
        """The stop-the-world pauses that were read."""

    @property
    def samples(self) -> int:
        """How many samples of its memory were taken."""

    @property
    def paused_ns(self) -> int:
        """How long nothing was watched since `start_ns`, up to now or to the end."""

    @property
    def priority(self) -> SamplePriority | None:
        """The priority to take before waiting for the next sample of its memory, and to give back after `tick`; None without samples."""

    @property
    def execed(self) -> bool:
        """Whether the process has called exec, or ended."""

    def describe(self) -> Target:
        """What is known of the process."""

    def ready(self) -> str:
        """Says what is ready."""

    def attach(self) -> None:
        """Prepares everything, so that `begin` takes no time."""

    def begin(self) -> None:
        """Opens the window."""

    def tick(self) -> float:
        """Does what is due; returns the seconds until something is due again."""

    def end(self) -> None:
        """Ends the window: the process is gone, or has called exec."""

    def read(self, limit_ns: int = 0) -> tuple[list[StackStat], list[SingleInterval]]:
        """Returns the stacks whose figures changed since the last call, and the single intervals that ended since then. With `limit_ns`
        it stops soon after that time; the next calls return the rest."""

    def ongoing(self) -> Waits:
        """Returns the waits that are in progress. Call `read` first: it returns none of them."""

    def read_pauses(self) -> list[Pause]:
        """Returns the stop-the-world pauses that ended since the last call."""

    def stacks(self) -> list[StackStat]:
        """All stacks as of the last `read`."""

    def requests(self) -> list[Span]:
        """Calls of functions that serve requests, as of the last `read`."""

    def holders(self) -> list[LockHolders]:
        """Who held locks while others waited for them, as of the last `tick`."""

    def finish(self) -> tuple[list[StackStat], list[SingleInterval]]:
        """Closes the window and leaves nothing in the process; returns what `read` returns."""

    def counters(self) -> dict[Stat, int]:
        """Counters up to now; those that are missing are 0."""

    def current_losses(self) -> dict[Loss, int]:
        """Losses up to now."""

    def program_fds(self) -> list[int]:
        """The BPF programs that run for it."""

    def cpu_used_ns(self) -> int:
        """CPU time of the process since `begin`."""

    def close(self) -> None:
        """Removes what is left of the trace. Safe at any point, also twice."""
