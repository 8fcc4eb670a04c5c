"""One process traced by probes, from its pid to symbolized stacks. `gotrace.run.session` runs one of these per process."""

from __future__ import annotations

from collections.abc import Sequence

from gotrace.common.errors import GotraceError, TargetGone
from gotrace.common.vocabulary import Loss, Stat
from gotrace.kernel.compilation import CompiledPrograms
from gotrace.kernel.host import SyscallSource
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.program import Options
from gotrace.kernel.tracer import Tracer
from gotrace.plan.probes import ProbeSet
from gotrace.proc.priority import SamplePriority
from gotrace.profile.holders import LockHolders
from gotrace.profile.requests import Span
from gotrace.profile.types import Pause, SingleInterval, StackStat, Target
from gotrace.watch.accounting import Account, RunningTime
from gotrace.watch.closing import Closing
from gotrace.watch.labels import no_labels
from gotrace.watch.loading import load_process
from gotrace.watch.planning import Planned, plan_process
from gotrace.watch.protocol import Waits
from gotrace.watch.requests.watcher import Requests
from gotrace.watch.rows import Rows
from gotrace.watch.steering import Steering
from gotrace.watch.window import Window

_TICK_S, _BUSY_TICK_S = 0.1, 0.02


class ProbedProcess:
    """A process that is planned for, loaded, traced and read, in that order. `load` sets `tracer`, `window`, `rows`, `symbols`
    (the kernel's) and, for the governor, `steering`.

    `prepare` raises Refused, TargetGone or BadBinary (all GotraceError) if the process can't be traced; nothing is attached then.
    """

    tracer: Tracer
    window: Window
    rows: Rows
    steering: Steering
    symbols: KernelSymbols
    _closing: Closing

    def __init__(self, planned: Planned) -> None:
        self.target = planned.target
        self.process = planned.target.process
        self.binary = planned.target.binary
        self.plan = planned.plan
        self.obstacle = planned.obstacle
        self.missing, self.notes = list(planned.missing), list(planned.notes)
        self.losses: dict[Loss, int] = {}
        self.failure: GotraceError | None = None
        self.goroutines = 0
        self.accounts: list[Account] = []
        self._running = RunningTime(self.process.pid, self.losses)
        self._requests: Requests | None = None
        self._loaded = self._finished = self._closed = False

    @classmethod
    def prepare(
        cls, pid: int, probe_set: ProbeSet = ProbeSet.COMPLETE, wakers: bool = True,
        syscalls: SyscallSource = SyscallSource.TRACEPOINTS, verb: str = "attach", requests: bool = False, spans: Sequence[str] = (),
    ) -> ProbedProcess:
        """Opens the process, reads its binary, plans, and checks plan and layout against the live process. `verb`: the command in hints;
        `requests`, `spans`: as for `make_plan`."""
        return cls(plan_process(pid, probe_set, wakers, syscalls, verb, requests, spans))

    def describe(self) -> Target:
        """What is known of the process, for the capture and the summary."""
        return self.target.describe()

    # -- before --------------------------------------------------------------------------------------------------------

    def load(self, options: Options, compiled: CompiledPrograms, kernel: dict[str, int] | None = None) -> None:
        """Loads the programs, verified for this process. `kernel` are the offsets in the kernel's structs that the tracepoints need;
        None or empty without tracepoints."""
        loaded = load_process(self.target, self.plan, options, compiled, (kernel or {}) if not self.obstacle else {}, self.losses)
        self.tracer, self.window, self.rows, self._requests = loaded.tracer, loaded.window, loaded.rows, loaded.requests
        self._loaded, self.symbols = True, loaded.symbols
        if loaded.options.label_keys and not loaded.options.labels:
            self.missing.append(no_labels(self.process.pid))
        self.steering = Steering(
            self.target, self.plan, self.tracer, self.window, self.rows, loaded.options, self.losses, lambda: self.execed,
            self._requests,
        )
        self._closing = Closing(self.target, self.plan, loaded, self._running, self.losses)

    def ready(self) -> str:
        """Says what is ready."""
        return f"{len(self.plan.probes)} probes planned, verified and loaded"

    def attach(self) -> None:
        """Places the probes; raises TargetGone if the process ended or called exec since it was examined."""
        self.tracer.probes.attach()
        if not self.process.same_program():
            raise TargetGone(f"process {self.process.pid} ended or called exec while the probes were being placed")

    # -- the trace -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Opens the window."""
        self._running.cpu.begin()
        self.missing += self.window.earlier.missing()
        self.window.open()
        self.notes += self.window.earlier.notes
        if self._requests is not None:
            self._requests.begin(self.window.start_ns, self.window.first_seen)

    def tick(self) -> float:
        """Makes room for single intervals; the kernel counts by itself. Returns the seconds until the next call is due."""
        if self._requests is not None:
            self._requests.tick(self.tracer.probes.stages)
        return self.steering.detached.tick(_BUSY_TICK_S if self.tracer.take_events() else _TICK_S)

    def end(self) -> None:
        """Ends the window: the process is gone, or has called exec."""
        self.steering.end()

    def read(self, limit_ns: int = 0) -> tuple[list[StackStat], list[SingleInterval]]:
        """Returns the stacks whose figures changed since the last call, and the single intervals streamed since then. With `limit_ns` it
        stops soon after that time; the next calls return the rest."""
        return self.rows.read(limit_ns, self.window.start_ns, self.window.end_ns, self.steering.detached.stacks())

    def requests(self) -> list[Span]:
        """Calls of functions that serve requests, as of the last `read`."""
        return self._requests.spans(self.window.start_ns, self.window.end_ns) if self._requests is not None else []

    def holders(self) -> list[LockHolders]:
        """Who held locks while others waited for them, as of the last `tick`."""
        holders = self._requests.holders if self._requests is not None else None
        return holders.found() if holders is not None else []

    def forget_requests(self, before_ns: int, history_bytes: int) -> None:
        """Forgets the slowest requests that ended before that moment: the slowest of those since then are kept in their place. What
        happened, by which causes are found, is kept in at most so many bytes."""
        if self._requests is not None:
            self._requests.forget(before_ns, history_bytes)

    def read_pauses(self) -> list[Pause]:
        """Returns the stop-the-world pauses that ended since the last call; after `finish` also one that still lasts."""
        return self.rows.read_pauses(self.binary, self.process.pid, self.window.start_ns, self.window.end_ns if self._finished else 0)

    def ongoing(self) -> Waits:
        """Returns the waits that are in progress; while no probe is placed, those that samples of its memory see, if any are taken."""
        return self.steering.detached.waits() if self.steering.paused or self.end_ns else self.window.waits(self.rows)

    # -- where it stands -----------------------------------------------------------------------------------------------

    @property
    def start_ns(self) -> int:
        """When the window opened."""
        return self.window.start_ns

    @property
    def end_ns(self) -> int:
        """When the window closed, 0 before that."""
        return self.window.end_ns

    @property
    def running_ns(self) -> int | None:
        """For how long its goroutines had a CPU; None before the end, or if it is not known."""
        return self._running.running_ns

    @property
    def execed(self) -> bool:
        """Whether the process has called exec, or ended."""
        seen = self.tracer.probes.watches_exec  # if not, asking takes longer
        return self.tracer.execed or not (self.process.alive() if seen else self.process.same_program())

    @property
    def paused_ns(self) -> int:
        """How long there were neither probes nor samples."""
        return self.steering.detached.paused_ns

    @property
    def priority(self) -> SamplePriority | None:
        """The scheduling priority of samples; None if no samples are taken now."""
        return self.steering.detached.priority

    @property
    def samples(self) -> int:
        """How many samples of its memory were taken while no probe was placed."""
        return self.steering.detached.samples

    @property
    def pauses(self) -> list[Pause]:
        """The stop-the-world pauses that were read."""
        return self.rows.pauses

    def stacks(self) -> list[StackStat]:
        """All stacks as of the last `read`."""
        return self.rows.tally.stacks()

    def counters(self) -> dict[Stat, int]:
        """The kernel side's counters."""
        return self.tracer.tables.read_stats()

    def current_losses(self) -> dict[Loss, int]:
        """Losses up to now, as far as they are known before the end."""
        return self.losses | self.tracer.tables.losses()

    def program_fds(self) -> list[int]:
        """The BPF programs that run for it."""
        return self.tracer.program_fds()

    def cpu_used_ns(self) -> int:
        """CPU time of the process since `begin`, as of its last sign of life in the window."""
        return self._running.cpu.used_ns()

    # -- the end -------------------------------------------------------------------------------------------------------

    def finish(self) -> tuple[list[StackStat], list[SingleInterval]]:
        """Closes the window, accounts for what is still parked, and removes the probes. Returns what `read` returns, for all stacks."""
        closing, placed = self._closing, not self.execed and not self.steering.paused
        self.failure = closing.stop(self.steering, placed, self.missing) or self.failure
        _, intervals = self.read()
        closing.settle(self.notes)
        self.goroutines, self.accounts = closing.goroutines, closing.accounts
        self._finished = True
        return self.stacks(), intervals  # the number of goroutines is known only now

    def close(self) -> None:
        """Removes what is left of the trace from the kernel. Safe at any point after `prepare`, also after an error."""
        if self._loaded:
            self.tracer.close()
        if not self._closed:
            self._closed = True
            self.process.close()
