"""One process whose memory is sampled many times a second, without a probe: `gotrace attach --mode sample`.

What totals, counts and lengths then mean is in `gotrace.profile.estimate`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from gotrace.common.errors import GotraceError, TargetGone
from gotrace.common.vocabulary import Loss, Stat
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.proc.priority import SamplePriority
from gotrace.profile.estimate import Estimator
from gotrace.profile.subwindows import SubWindows
from gotrace.profile.types import Missing, Pause, SingleInterval, StackStat, Target
from gotrace.watch.accounting import CpuClock, RunQueueClock
from gotrace.watch.protocol import Waits
from gotrace.watch.sampling.clock import SamplingClock
from gotrace.watch.sampling.execcheck import ExecCheck
from gotrace.watch.sampling.places import Places
from gotrace.watch.sampling.sampler import Sampler
from gotrace.watch.sampling.threads import Threads
from gotrace.watch.target import OpenTarget, forked_copy, is_possible, missing_fields, open_target, plugins_loaded
from gotrace.watch.inprogress.blocked import is_halted, kernel_names, thread_numbers

DEFAULT_RATE_HZ = 20.0
_NOTED_SHARE = 0.02
"""Of the time in which threads could run: what they wait for a CPU is told from there on."""
BUSIEST, BUSIEST_AS_ASKED = 0.1, 0.5
"""Samples take at most so much of the time of one CPU, which the target may want: by default, and where a rate was asked for."""


@dataclass(frozen=True)
class SampleOptions:
    """`rate_hz` samples a second, fewer where they would take more than `busiest` of the time of one CPU. `min_block_ns` and
    `stream_ns` are those of `Estimator`. `syscalls`: the kernel is asked for what threads do in it."""

    rate_hz: float = DEFAULT_RATE_HZ
    busiest: float = BUSIEST
    per_goroutine: bool = False
    only_goid: int = 0
    min_block_ns: int = 0
    stream_ns: int | None = None
    syscalls: bool = True


class SampledProcess:
    """A process that is opened and sampled. Has the shape of `gotrace.watch.probed.ProbedProcess`.

    `prepare` raises Refused, TargetGone or BadBinary (all GotraceError) if it can't be read.
    """

    def __init__(self, target: OpenTarget, options: SampleOptions) -> None:
        self.process, self.binary = target.process, target.binary
        self.losses: dict[Loss, int] = {Loss.STACK_TORN: 0, Loss.STACK_INCOMPLETE: 0, Loss.LOOK_LATE: 0}
        self._target = target
        self._priority = SamplePriority()
        self._estimator = Estimator(options.min_block_ns, options.stream_ns)
        symbols = KernelSymbols()
        self._places = Places(target, symbols, self._estimator, options.per_goroutine)
        self._threads = Threads(target, symbols, options.syscalls)
        self._sampler = Sampler(target, self._estimator, self._places, self._threads, self._priority, self.losses, options.only_goid)
        self._clock = SamplingClock(options.rate_hz, options.busiest)
        self._subwindows = SubWindows()
        self._last_ns = 0
        self._exec_check = ExecCheck(self.process)
        self._cpu, self._run_queue = CpuClock(self.process.pid), RunQueueClock(self.process.pid)
        self._closed = False
        self.start_ns = self.end_ns = 0
        self.samples = 0
        self.running_ns: int | None = None
        self.goroutines = 0
        self.pauses: list[Pause] = []
        self.missing: list[Missing] = missing_fields(target.binary, target.process.pid)
        self.notes: list[str] = []
        self.failure: GotraceError | None = None

    @classmethod
    def prepare(cls, pid: int, options: SampleOptions) -> SampledProcess:
        """Opens the process, reads its binary and checks it against the live process."""
        target = open_target(pid, f"sudo gotrace attach {pid} --mode sample")
        try:
            sampled = cls(target, options)
            sampled.notes += filter(None, [forked_copy(target)])
            sampled.missing += plugins_loaded(target, probes=False)
            sampled._threads.existing = frozenset(thread_numbers(pid).values()) if sampled.notes else None
            return sampled
        except BaseException as error:
            target.close()
            if isinstance(error, ProcessLookupError):
                raise TargetGone(f"process {pid} ended while it was being examined") from None
            raise

    def describe(self) -> Target:
        """What is known of the process, for the capture and the summary."""
        return self._target.describe()

    # -- the trace -----------------------------------------------------------------------------------------------------

    def ready(self) -> str:
        """What has been made ready, in words."""
        return f"the layout of {self._target.reader.count():,} goroutine structs verified"

    def attach(self) -> None:
        """Places nothing anywhere. Walks the stacks of all goroutines for the first time, before the window opens."""
        self._sample()

    def begin(self) -> None:
        """Opens the window with a sample."""
        self._cpu.begin()
        self._run_queue.begin()
        self._sample()
        self.start_ns = self._last_ns = self._last_ns or time.monotonic_ns()
        self._estimator.begin(self.start_ns)
        if is_halted(self.process.pid, kernel_names(self.process.pid, self.process.pid)):
            self.notes.append("the process was stopped (by a signal, a debugger or a cgroup's freezer) as the window opened")
        self._sampler.begin()
        self._clock.begin(self.start_ns)
        self._plan(0)

    def tick(self) -> float:
        """Takes a sample if it is time; returns the seconds until the next one is due."""
        if self._clock.due:
            cpu = time.thread_time_ns()
            if self._sample():
                self.cpu_used_ns()
            self._plan(time.thread_time_ns() - cpu)
        return self._clock.wait_s

    def _plan(self, cost_ns: int) -> None:
        if not self._clock.plan(self._last_ns, cost_ns):
            self._sampler.came_late()

    def _sample(self) -> bool:
        moment = time.monotonic_ns()
        self._priority.begin()
        try:
            taken = self._sampler.sample((self._last_ns + moment) // 2 if self._last_ns else moment, self._exec_check.ask)
        except (ProcessLookupError, PermissionError):
            taken = False  # the session sees that it is gone
        if taken and self._sampler.counting:
            self._estimator.count_sample(moment - self._last_ns)
            self.samples += 1
        if taken:
            self._last_ns = moment
        return taken

    def end(self) -> None:
        """The process is gone, or another program: this is the end of its window."""
        self._priority.give_back()
        self.end_ns = self.end_ns or time.monotonic_ns()
        self._cpu.freeze()

    def read(self, limit_ns: int = 0) -> tuple[list[StackStat], list[SingleInterval]]:
        """Stacks whose figures changed since the last call, and single intervals where they are wanted; it takes no time worth
        a limit."""
        changed, single = self._estimator.take()
        self._subwindows.add(changed, (self.end_ns or time.monotonic_ns()) - self.start_ns)
        self.losses[Loss.UNKNOWN_FUNCTION] = self._places.unknown
        return changed, single

    def ongoing(self) -> Waits:
        """None: samples see waits in progress."""
        return Waits()

    def read_pauses(self) -> list[Pause]:
        """None: a stop of the world is not to be seen from samples."""
        return []

    # -- where it stands -----------------------------------------------------------------------------------------------

    @property
    def priority(self) -> SamplePriority | None:
        """What is to be taken before one waits for the next sample."""
        return self._priority

    @property
    def paused_ns(self) -> int:
        """None: what happens between two samples is estimated."""
        return 0

    @property
    def execed(self) -> bool:
        """Whether the process has called exec, or ended: as the last sample has seen, if that was not long ago."""
        return self._exec_check.execed

    def stacks(self) -> list[StackStat]:
        """All stacks as of now."""
        return self._estimator.stacks()

    def found(self) -> list[tuple[StackStat, set[int]]]:
        """The same, each with the goids of those that were there."""
        return self._estimator.found()

    def counters(self) -> dict[Stat, int]:
        """What there is of the kernel side's counters: no hits, and the intervals that were seen."""
        return {Stat.INTERVALS: self._estimator.intervals}

    def current_losses(self) -> dict[Loss, int]:
        """Losses up to now."""
        return self.losses

    def program_fds(self) -> list[int]:
        """No programs."""
        return []

    def cpu_used_ns(self) -> int:
        """CPU time of the process since `begin`, as of its last sign of life in the window."""
        return self._cpu.used_ns()

    # -- the end -------------------------------------------------------------------------------------------------------

    def finish(self) -> tuple[list[StackStat], list[SingleInterval]]:
        """Closes the window with a sample; returns what `read` returns, of all stacks."""
        self._priority.give_back()
        if not self.end_ns:
            seen = self._sample()
            self.cpu_used_ns()
            self._cpu.freeze()
            self.end_ns = self._last_ns if seen else time.monotonic_ns()
        self._estimator.finish(self.end_ns)
        self._sampler.counting = False
        self._account()
        self.goroutines = len(self._estimator.goids)
        _, single = self.read()
        return self.stacks(), single

    def _account(self) -> None:
        # Goroutines seem to run also while their threads wait for a CPU: that a sample can't tell.
        share = self._run_queue.share()
        if share >= _NOTED_SHARE:
            self.notes.append(
                f"threads waited for a CPU for {share:.0%} of the time in which they could run: so much is taken off the time that"
                " goroutines seemed to be on one (estimate)"
            )
        self.running_ns = round(self._estimator.running_ns * (1 - share))
        if self._threads.existing is not None:
            self.running_ns = None  # a forked copy: its scheduler's threads are those of another process
        elif not is_possible(self.running_ns, self.cpu_used_ns()):
            self.losses[Loss.RUNNING_UNKNOWN] = 1
            self.running_ns = None
        if outside := len(self._sampler.outside):
            self.notes.append(
                f"threads outside Go: {outside:,} of C's own, which had called into Go before; what they wait for is no goroutine's"
            )

    def close(self) -> None:
        """Closes the process."""
        if not self._closed:
            self._closed = True
            self._target.close()
