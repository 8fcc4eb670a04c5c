"""One process whose memory is sampled many times a second, without probes: `gotrace attach --mode sample`.

`gotrace.profile.estimate` explains what totals, counts and lengths mean here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from gotrace.common.errors import GotraceError, TargetGone
from gotrace.common.vocabulary import Loss, Stat
from gotrace.kernel.kallsyms import kernel_symbols
from gotrace.proc.priority import SamplePriority
from gotrace.profile.estimate import Estimator
from gotrace.profile.holders import LockHolders
from gotrace.profile.requests import Span
from gotrace.profile.subwindows import SubWindows
from gotrace.profile.types import Missing, Pause, SingleInterval, StackStat, Target
from gotrace.watch.accounting import RunningTime, RunQueueClock
from gotrace.watch.ending import outside_go, waited_for_cpu
from gotrace.watch.inprogress.blocked import is_halted, kernel_names, thread_numbers
from gotrace.watch.labels import WantedLabels, no_labels
from gotrace.watch.protocol import Waits
from gotrace.watch.sampling.clock import SamplingClock
from gotrace.watch.sampling.places import Places
from gotrace.watch.sampling.sampler import Sampler
from gotrace.watch.sampling.scheduled import ScheduledSamples
from gotrace.watch.sampling.threads import Threads
from gotrace.watch.target import OpenTarget, forked_copy, missing_fields, open_target, plugins_loaded

DEFAULT_RATE_HZ = 20.0
BUSIEST, BUSIEST_AS_ASKED = 0.1, 0.5
"""The most CPU time that samples take, as a share of one CPU, which the target may want: by default, and where a rate was given."""


@dataclass(frozen=True)
class SampleOptions:
    """`rate_hz` samples a second, fewer where they would take more than the share `busiest` of one CPU. `min_block_ns` and `stream_ns`
    are those of `Estimator`. `syscalls`: the kernel is asked what threads are doing in it. `label_keys`:
    the labels by which goroutines are kept apart. `fold_ports`: as for `gotrace.profile.symbolize.Symbolizer`."""

    rate_hz: float = DEFAULT_RATE_HZ
    busiest: float = BUSIEST
    per_goroutine: bool = False
    only_goid: int = 0
    min_block_ns: int = 0
    stream_ns: int | None = None
    syscalls: bool = True
    label_keys: tuple[str, ...] = ()
    fold_ports: bool = False


class SampledProcess:
    """A process that is opened and sampled. Has the interface of `gotrace.watch.probed.ProbedProcess`.

    `prepare` raises Refused, TargetGone or BadBinary (all GotraceError) if it can't be read.
    """

    def __init__(self, target: OpenTarget, options: SampleOptions) -> None:
        self.process, self.binary = target.process, target.binary
        self.losses: dict[Loss, int] = {Loss.STACK_TORN: 0, Loss.STACK_INCOMPLETE: 0, Loss.LOOK_LATE: 0}
        self.target = target
        self._priority = SamplePriority()
        self._estimator = Estimator(options.min_block_ns, options.stream_ns)
        symbols = self.symbols = kernel_symbols()
        self._places = Places(
            target, symbols, self._estimator, options.per_goroutine, options.label_keys, options.fold_ports,
        )
        self._threads = Threads(target, symbols, options.syscalls)
        labels = WantedLabels.of(target, tuple(key.encode() for key in options.label_keys))
        if options.label_keys:
            self.losses |= {Loss.LABEL_VALUES_FULL: 0, Loss.LABELS_UNREAD: 0}
        self._sampler = Sampler(
            target, self._estimator, self._places, self._threads, self._priority, self.losses, options.only_goid, labels,
        )
        clock = SamplingClock(options.rate_hz, options.busiest)
        self._samples = ScheduledSamples(self.process, self._sampler, clock, self._priority, self._estimator)
        self._subwindows = SubWindows()
        self._running, self._run_queue = RunningTime(self.process.pid, self.losses), RunQueueClock(self.process.pid)
        self._closed = False
        self.start_ns = self.end_ns = 0
        self.goroutines = 0
        self.pauses: list[Pause] = []
        self.missing: list[Missing] = missing_fields(target.binary, target.process.pid)
        if options.label_keys and labels is None:
            self.missing.append(no_labels(target.process.pid))
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
        return self.target.describe()

    # -- the trace -----------------------------------------------------------------------------------------------------

    def ready(self) -> str:
        """Says what is ready."""
        return f"the layout of {self.target.reader.count():,} goroutine structs verified"

    def attach(self) -> None:
        """Walks the stacks of all goroutines for the first time, before the window opens. Places nothing."""
        self._samples.take()

    def begin(self) -> None:
        """Opens the window with a sample."""
        self._running.cpu.begin()
        self._run_queue.begin()
        self.start_ns = self._samples.open()
        self._estimator.begin(self.start_ns)
        if is_halted(self.process.pid, kernel_names(self.process.pid, self.process.pid)):
            self.notes.append("the process was stopped (by a signal, a debugger or a cgroup's freezer) as the window opened")
        self._samples.begin(self.start_ns)

    def tick(self) -> float:
        """Takes a sample if one is due; returns the seconds until the next one."""
        return self._samples.tick(self.cpu_used_ns)

    def end(self) -> None:
        """Ends the window: the process is gone, or runs another program."""
        self._priority.give_back()
        self.end_ns = self.end_ns or time.monotonic_ns()
        self._running.cpu.freeze()

    def read(self, limit_ns: int = 0) -> tuple[list[StackStat], list[SingleInterval]]:
        """Returns the stacks whose figures changed since the last call, and single intervals where they are wanted. It is fast, and
        ignores the limit."""
        changed, single = self._estimator.take()
        self._subwindows.add(changed, (self.end_ns or time.monotonic_ns()) - self.start_ns)
        self.losses[Loss.UNKNOWN_FUNCTION] = self._places.unknown
        return changed, single

    def ongoing(self) -> Waits:
        """Returns the waits that are in progress, as of the last sample."""
        return Waits(self._estimator.staying(self._samples.last_ns)) if not self.end_ns else Waits()

    def read_pauses(self) -> list[Pause]:
        """None: samples can't see a stop of the world."""
        return []

    # -- where it stands -----------------------------------------------------------------------------------------------

    @property
    def priority(self) -> SamplePriority | None:
        """The priority to take before waiting for the next sample."""
        return self._priority

    @property
    def samples(self) -> int:
        """How many samples were taken in the window."""
        return self._samples.count

    @property
    def paused_ns(self) -> int:
        """None: what happens between two samples is estimated."""
        return 0

    @property
    def running_ns(self) -> int | None:
        """For how long its goroutines seem to have had a CPU (estimate); None before the end, or if it is not known."""
        return self._running.running_ns

    @property
    def execed(self) -> bool:
        """Whether the process has called exec, or ended, as the last sample saw it if that was not long ago."""
        return self._samples.exec_check.execed

    def stacks(self) -> list[StackStat]:
        """All stacks as of now."""
        return self._estimator.stacks()

    def found(self) -> list[tuple[StackStat, set[int]]]:
        """The same, each with the goids that were seen there."""
        return self._estimator.found()

    def counters(self) -> dict[Stat, int]:
        """The counters that exist here: no hits, and the intervals that were seen."""
        return {Stat.INTERVALS: self._estimator.intervals}

    def current_losses(self) -> dict[Loss, int]:
        """Losses up to now."""
        return self.losses

    def program_fds(self) -> list[int]:
        """No programs."""
        return []

    def cpu_used_ns(self) -> int:
        """CPU time of the process since `begin`, as of its last sign of life in the window."""
        return self._running.cpu.used_ns()

    # -- the end -------------------------------------------------------------------------------------------------------

    def requests(self) -> list[Span]:
        """None: without probes no request is seen."""
        return []

    def holders(self) -> list[LockHolders]:
        """None, likewise."""
        return []

    def finish(self) -> tuple[list[StackStat], list[SingleInterval]]:
        """Closes the window with a sample; returns what `read` returns, for all stacks."""
        self._priority.give_back()
        if not self.end_ns:
            seen = self._samples.take()
            self._running.end()
            self.end_ns = self._samples.last_ns if seen else time.monotonic_ns()
        self._estimator.finish(self.end_ns)
        self._sampler.counting = False
        self._account()
        self.goroutines = len(self._estimator.goids)
        _, single = self.read()
        return self.stacks(), single

    def _account(self) -> None:
        share = self._run_queue.share()
        self.notes += filter(None, [waited_for_cpu(share), outside_go(len(self._sampler.outside))])
        if self._threads.existing is None:  # else it is a forked copy: the scheduler's threads belong to another process
            self._running.settle(round(self._estimator.running_ns * (1 - share)))

    def close(self) -> None:
        """Closes the process."""
        if not self._closed:
            self._closed = True
            self.target.close()
