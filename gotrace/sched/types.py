"""The scheduler of a process at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field

PHASES = ("off", "mark", "mark termination")
"""The garbage collector's phases by number (runtime/mgc.go: gcphase)."""


@dataclass(frozen=True)
class Goroutines:
    """How many there are, the runtime's own included; `total` is the sum of the others. `waiting` includes those that a collector's scan
    has preempted, `running` those whose stack is being copied."""

    total: int | None = None
    running: int | None = None
    runnable: int | None = None
    waiting: int | None = None
    syscall: int | None = None


@dataclass(frozen=True)
class Collector:
    """`running`: a cycle marks. `cycles` are those that have ended since the process began, `pause_total_ns` how long all their pauses
    were. `phase` is one of `PHASES`."""

    running: bool | None = None
    cycles: int | None = None
    pause_total_ns: int | None = None
    phase: str | None = None


@dataclass(frozen=True)
class Timers:
    """`count` are those in the heaps of the Ps, deleted ones that are still there included. Each P knows its earliest: `next_ns` is how
    long it is to the first of these that is not due, `overdue_ns` by how much the most overdue is late, 0 if none is. None: there is
    none, or not known."""

    count: int | None = None
    next_ns: int | None = None
    overdue_ns: int | None = None


@dataclass(frozen=True)
class ToRun:
    """Waits until something could run; `total_ns` and what follows are of waits that ended in the trace or that its end cut off.
    `histogram` counts them by the power of two below their length in ns, 0 for those of 0 ns; a wait of 2**k ns counts at 2**k."""

    count: int = 0
    total_ns: int = 0
    p50_ns: int = 0
    p90_ns: int = 0
    p99_ns: int = 0
    p999_ns: int = 0
    max_ns: int = 0
    histogram: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Latency:
    """What a trace of `duration_ns` has seen. `runnable`: goroutines that were made ready, until a P ran them; `preempted`: those that had
    to stop or gave way, until a P ran them again; `runqueue`: threads with a goroutine, until the kernel ran them. None: this host can't
    show it. `*_traced_ns`: for how long each was measured, as a cap on the cost may give it up; `preempted` for as long as `runnable`.
    `notes`: what else is missing, one line each."""

    duration_ns: int
    runnable: ToRun | None
    runnable_traced_ns: int
    preempted: ToRun | None
    runqueue: ToRun | None
    runqueue_traced_ns: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Snapshot:
    """All values; None: not known. `time` is RFC 3339. `threads` are the runtime's Ms. `idle_threads` wait for work, `running_threads` run
    Go code, `spinning_threads` search for work, `syscall_threads` are in a system call with a goroutine, by name, and `cgo_threads` are in
    C code. `local_run_queues` are the lengths of the Ps' queues, without the one goroutine that each P may have set aside to run next.
    `throttled_ns` is how long the control group with the quota was throttled since it was made. `latency` is None but after a trace."""

    time: str
    gomaxprocs: int | None = None
    cpu_quota: float | None = None
    idle_procs: int | None = None
    threads: int | None = None
    spinning_threads: int | None = None
    idle_threads: int | None = None
    run_queue: int | None = None
    local_run_queues: list[int] | None = None
    goroutines: Goroutines = Goroutines()
    syscall_threads: dict[str, int] | None = field(default_factory=dict)
    gc: Collector = Collector()
    running_threads: int | None = None
    cgo_threads: int | None = None
    timers: Timers = Timers()
    throttled_ns: int | None = None
    latency: Latency | None = None
