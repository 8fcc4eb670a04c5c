"""The records of the kernel side: addresses, no symbols."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from gotrace.common.vocabulary import Part


@dataclass(frozen=True, slots=True)
class RawStack:
    """Program counters, leaf first.

    `leaf_caller` is the caller of ``pcs[0]``: certainly if the goroutine stopped in a prologue (`in_prologue`), otherwise only if that
    function has no frame. `async_caller` is the caller of ``pcs[ASYNC_AT]`` if that has no frame, or no complete one. 0: none.
    `exact`: ``pcs[0]`` is the next instruction, not a return address. `kernel`: the stack is the kernel's.
    `in_transit`: the thread was switching stacks or in a signal handler, and ``pcs[0]`` is the thread's own place.
    `span`: bytes from the stack pointer at ``pcs[0]`` to above the outermost return address, 0 if not known; `first`: to above the one to
    which the frame pointer there leads.
    """

    pcs: tuple[int, ...]
    leaf_caller: int = 0
    in_prologue: bool = False
    async_caller: int = 0
    exact: bool = False
    truncated: bool = False
    unreadable: bool = False
    in_transit: bool = False
    kernel: bool = False
    span: int = 0
    first: int = 0


NO_STACK = RawStack((), unreadable=True)


@dataclass(frozen=True, slots=True)
class KernelObject:
    """What a file descriptor was: `mode`, `ino`, `dev` of its inode; for a socket also family, type, state, and addresses (raw bytes, 4
    or 16 of them used) with ports; for a unix socket the path that it or its peer is bound to. `accepted`: a server has the
    connection at this end; None if that is not known."""

    fd: int
    mode: int
    ino: int
    dev: int
    family: int = 0
    type: int = 0
    state: int = 0
    local: bytes = b""
    local_port: int = 0
    peer: bytes = b""
    peer_port: int = 0
    path: str = ""
    accepted: bool | None = None


LabelValues: TypeAlias = tuple[str | None, ...]
"""The values of the labels that keep goroutines apart (``Options.label_keys``), in that order; None where a goroutine lacks one, () if it
lacks all."""


class RowKey(NamedTuple):
    """The key of a row of the kernel's table: ``struct interval_key``."""

    stack: int
    kernel_stack: int
    waker: int
    object: int
    goid: int
    labels: int
    reason: int
    kind: int
    part: int
    syscall: int


@dataclass(slots=True)
class IntervalRow:
    """Sums over one part of all closed intervals with one key. Durations are ns; `squares` is in (256 ns)**2. `variance`, in the same unit,
    is that of the total if short intervals were sampled. `margin_ns`: how much too small the total may be (mode ``lean``). `cases`: of a
    select, how many there are and the first channels."""

    key: RowKey
    stack: RawStack
    kernel_stack: RawStack | None = None
    waker: RawStack | None = None
    object: KernelObject | None = None
    cases: tuple[int, tuple[int, ...]] | None = None
    count: int = 0
    total_ns: int = 0
    max_ns: int = 0
    squares: int = 0
    in_progress: int = 0
    stopped_ns: int = 0
    halted_ns: int = 0
    late_ns: int = 0
    long_runs: int = 0
    long_run_max_ns: int = 0
    margin_ns: int = 0
    variance: int = 0
    histogram: dict[int, int] = field(default_factory=dict)
    labels: LabelValues = ()

    @property
    def part(self) -> Part:
        """The stage of the intervals."""
        return Part(self.key.part)


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """One part of a closed interval, streamed. `key` is that of its row, `tid` the thread on which the goroutine continued; `may_go_on` and
    `goes_on` are those of `SingleInterval`."""

    start_ns: int
    duration_ns: int
    goid: int
    waker_goid: int
    key: RowKey
    tid: int = 0
    may_go_on: bool = False
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class OpenInterval:
    """An interval that was still open: the goroutine struct, how it began, and how far it got. Times are CLOCK_MONOTONIC, 0 for a stage
    that was not reached. `waker` and `object` are numbers in the kernel's tables. `stopped_at_*`: how long the world had been stopped
    in total at that stage. `margin_ns`: how much earlier it may have begun (mode ``lean``)."""

    g: int
    kind: int
    start_ns: int
    data_ns: int = 0
    ready_ns: int = 0
    waker: int = 0
    object: int = 0
    stopped_at_start: int = 0
    stopped_at_data: int = 0
    stopped_at_ready: int = 0
    long_run_ns: int = 0
    margin_ns: int = 0
    halted_at_start: int = 0
    halted_at_ready: int = 0


@dataclass(frozen=True)
class WorldPause:
    """A stop-the-world pause; `duration_ns` is 0 while it lasts, `reason` a runtime.stwReason."""

    start_ns: int
    duration_ns: int
    reason: int


@dataclass(frozen=True, slots=True)
class OpenThread:
    """A thread off its CPU with a goroutine that Go takes for running. `carried_ns`: how long the same wait had lasted before a signal
    interrupted it; `counted`: a row already has that part; `before`: it began before the window. `halted_at_out`: how long the process
    had been stopped in total."""

    g: int
    goid: int
    kind: int
    out_ns: int
    woken_ns: int
    stack: int
    kernel_stack: int
    object: int
    syscall: int
    stopped_at_out: int = 0
    stopped_at_woken: int = 0
    long_run_ns: int = 0
    throttled: bool = False
    halted_at_out: int = 0
    carried_ns: int = 0
    counted: bool = False
    before: bool = False


@dataclass(frozen=True, slots=True)
class BlockedThread:
    """A thread that sleeps in the kernel with a goroutine, found from outside. `tid` is its number in our PID namespace; `kind` is a
    StartKind: SYSCALL, FAULT or STOPPED; `pc` and `sp` are its user registers; `interruptible`: a signal ends its sleep; `number` is
    the call's in /proc/PID/task/TID/syscall, -1 if there is none; `cpu_ns` is the CPU time that the thread has used, 0 if not known."""

    tid: int
    g: int
    goid: int
    kind: int
    syscall: int
    stack: RawStack
    kernel_stack: tuple[int, ...]
    object: KernelObject | None
    number: int
    pc: int
    sp: int
    interruptible: bool
    cpu_ns: int = 0


@dataclass(frozen=True, slots=True)
class RunnableThread:
    """A thread that has a goroutine and runs, or waits for a CPU."""

    tid: int
    g: int
    goid: int


@dataclass(frozen=True, slots=True)
class RunningTime:
    """How long the goroutine in one g ran with a CPU and was off it in closed intervals; `since_ns` is when its present run began, 0 if it
    does not run. `partial`: it was created inside the window, or ended in it."""

    g: int
    run_ns: int
    off_ns: int
    since_ns: int
    partial: bool


@dataclass(frozen=True, slots=True)
class UnseenWait:
    """A goroutine was found on a thread that had no CPU for the first `duration_ns` of the window, for an unknown cause."""

    goid: int
    duration_ns: int


@dataclass(frozen=True)
class ProgramRuns:
    """How often programs ran, and how long in total, in ns."""

    hits: int = 0
    run_ns: int = 0

    def __add__(self, other: ProgramRuns) -> ProgramRuns:
        return ProgramRuns(self.hits + other.hits, self.run_ns + other.run_ns)

    def __sub__(self, other: ProgramRuns) -> ProgramRuns:
        return ProgramRuns(self.hits - other.hits, self.run_ns - other.run_ns)
