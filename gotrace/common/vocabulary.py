"""The words of every part of gotrace, its capture and its JSON: states, frame kinds, start kinds, losses.

The C side (``bpf/*.c``) gets `StartKind`, `Stat` and the map sizes as ``-D`` definitions that `gotrace.kernel.program` makes from these
enums, so there is no second list to keep in step.
"""

from __future__ import annotations

from enum import Enum, IntEnum

OUTSIDE_CODE = 1
"""In place of program counters that are not Go's. A word of the stack that is not in Go's code may be anything, even a secret: it is
never kept."""
SANITIZER_CODE = 2
"""In place of program counters in C code that the compiler's checks of memory accesses call (``-race``, ``-asan``, ``-msan``)."""


class State(str, Enum):
    """State of an off-CPU interval of a goroutine (the public vocabulary of the JSON and of ``--state``)."""

    WAITING = "waiting"
    NETPOLL = "netpoll"
    RUNNABLE = "runnable"
    RUNQUEUE = "runqueue"
    SYSCALL = "syscall"
    PREEMPTED = "preempted"


class Mode(str, Enum):
    """How intervals are found (``--mode``)."""

    EXACT = "exact"
    """Probes where goroutines leave their CPU and come back: every interval."""
    LEAN = "lean"
    """A single probe, where they come back: one trap per interval. An interval starts where the thread turned to something else."""
    SAMPLE = "sample"
    """No probe: goroutines are read from the process's memory many times a second. Totals are estimates."""


class Stage(str, Enum):
    """What a trace can leave out while it runs, and what it can't do without."""

    CORE = "core"
    """Where goroutines leave their CPU and come back."""
    WAKERS = "wakers"
    """Who makes them runnable, and when: ``ready``, ``netpollready``, ``newproc``, and when data came for a socket."""
    KERNEL = "kernel"
    """What the kernel does with their threads: the tracepoints, and the ends of goroutines, which the tracepoints need."""
    REQUESTS = "requests"
    """Where functions that serve requests begin and end."""


ONGOING = "waits in progress"
"""The stage that a capture lacks if it was cut off, or is read during the trace, and does not have all waits in progress."""

NETPOLL = "netpoll"
"""Reason of the part of a network wait in which the kernel had the event and the netpoller had not yet harvested it."""
READY = "ready"
"""Reason of the part of a wait in which the goroutine was runnable and no P took it."""
WOKEN = "thread woken"
"""Reason of the part of a system call in which the thread was runnable and no CPU took it."""
WOKEN_THROTTLED = "thread woken, CPU quota"
"""The same, while the cgroup had used up its CPU quota."""
CONTINUED = frozenset((NETPOLL, READY, WOKEN, WOKEN_THROTTLED))
"""Reasons of parts that continue an interval begun by another part: they add time, but are not intervals of their own."""


OTHER_VALUES, UNREAD = "(other values)", "(unread)"
"""In place of a label's value: there were more different ones than are kept; it could not be read."""


class FrameKind(str, Enum):
    """The kind of a frame of a merged stack."""

    GO = "go"
    RUNTIME = "runtime"
    CGO = "cgo"
    SYSCALL = "syscall"
    KERNEL = "kernel"
    WAKER = "waker"
    REASON = "reason"
    LOST = "lost"
    LABEL = "label"
    """A profiler label and its value (``--label``), at the root of a stack where one is drawn; in no stack itself."""


class StartKind(IntEnum):
    """How a goroutine left its CPU: one value for each start probe. Sources: runtime/proc.go, runtime/coro.go."""

    PARK = 0
    """``park_m``: gopark, so the wait reason in the g is fresh."""
    GOSCHED = 1
    """``goschedImpl``: runtime.Gosched, asynchronous and synchronous preemption."""
    YIELD = 2
    """``goyield_m``: the unlocker of a starving mutex or semaphore hands its P over."""
    PREEMPT_PARK = 3
    """``preemptPark``: suspended by the garbage collector (suspendG)."""
    EXIT_SYSCALL = 4
    """``exitsyscall0`` / ``exitsyscallNoP``: came back from a syscall and found no P."""
    COROSWITCH = 5
    """``coroswitch_m``: iter.Pull switched to the other side."""
    BEFORE = 6
    """Off the CPU since before the window; the kind is inferred from the stack's leaf."""
    SCHEDULE = 7
    """``schedule`` saw the M without its goroutine (probe set ``schedule``): the kind is inferred from the stack's leaf."""
    SYSCALL = 8
    """The thread was blocked in a system call (``sched_switch``)."""
    FAULT = 9
    """The thread was blocked in the kernel, but not in a system call: its kernel stack tells why."""
    CPU = 10
    """The kernel took the CPU from the thread (``sched_switch``, runnable)."""
    WAKER = 11
    """Not an interval: the stack of a goroutine's waker."""
    TRANSIT = 12
    """Not an interval: a thread whose goroutine's stack was being copied or switched."""
    CREATED = 13
    """``newproc``: a new goroutine waits for its first turn."""
    THROTTLED = 14
    """The kernel took the CPU from the thread because its cgroup had used up its CPU quota."""
    STOPPED = 15
    """The thread was stopped from outside: SIGSTOP, a debugger, a cgroup's freezer."""
    READY = 16
    """Probe set ``ready``: it became runnable (``ready``, ``netpollready``); when it left the CPU was not seen."""


class Part(IntEnum):
    """The stages of an interval in order; ``PART_*`` in ``bpf/shared.h``."""

    MAIN = 0
    NETPOLL = 1
    RUNNABLE = 2
    RUNQUEUE = 3
    THROTTLED = 4
    """In place of RUNQUEUE: the cgroup had used up its CPU quota."""


class Stat(IntEnum):
    """Counters that the BPF programs keep, by index into ``struct counters`` (bpf/maps.c), one for each CPU."""

    HITS_START = 0
    HITS_END = 1
    INTERVALS = 2
    CREATED = 3
    """First run of a goroutine: an end probe hit without an interval, as expected."""
    FORGOTTEN = 4
    """The goroutine ended while stopped (iter.Pull's coroexit): its open interval was dropped."""
    FILTERED = 5
    """Intervals left out by --min-block, --state, --reason or --goroutine."""
    SAMPLED_OUT = 6
    GOROUTINE_TABLE_FULL = 7
    STACK_TABLE_FULL = 8
    GOROUTINE_SET_FULL = 9
    RING_FULL = 10
    STACK_TRUNCATED = 11
    STACK_UNREADABLE = 12
    START_WHILE_STOPPED = 13
    END_WHILE_RUNNING = 14
    INTERVAL_LOST = 15
    HITS_READY = 16
    RUN_NS = 17
    """Sum of the time that goroutines ran with a CPU."""
    WAKER_LOST = 18
    OBJECT_TABLE_FULL = 19
    KERNEL_STACK_LOST = 20
    STACK_IN_TRANSIT = 21
    HITS_EXIT = 22
    THREAD_STACK_UNREADABLE = 23
    PAUSE_TABLE_FULL = 24
    HITS_SYSCALL = 25
    """Hits of the probes on system calls, used if the kernel's tracepoints may not be."""
    START_UNSEEN = 26
    """Mode lean: a goroutine resumed before its thread had shown that it had left it."""
    SWITCH_UNSEEN = 27
    """A thread leaves a CPU that no program saw it get."""
    SWITCHES = 28
    """If the cost is governed: threads of the target that left a CPU or got one."""
    ARRIVAL_UNWATCHED = 29
    """A goroutine parks for a file that could not be read."""
    HITS_SPAN = 30
    SPAN_TABLE_FULL = 31
    SPAN_END_UNSEEN = 32
    SPAN_WAITS_FULL = 33
    SPAN_BEGUN = 34
    SPAN_ENDED = 35
    """Requests that were wanted: those that began, and those of them that have ended."""
    LABEL_VALUES_FULL = 36
    LABELS_UNREAD = 37


class Loss(str, Enum):
    """Every way in which a figure can be less than the truth. All are counted, printed and stored, even if 0."""

    GOROUTINE_TABLE_FULL = "goroutine_table_full"
    STACK_TABLE_FULL = "stack_table_full"
    GOROUTINE_SET_FULL = "goroutine_set_full"
    RING_FULL = "ring_full"
    INTERVAL_LOST = "interval_lost"
    STACK_TRUNCATED = "stack_truncated"
    STACK_UNREADABLE = "stack_unreadable"
    STACK_INCOMPLETE = "stack_incomplete"
    START_WHILE_STOPPED = "start_while_stopped"
    END_WHILE_RUNNING = "end_while_running"
    MISSED_HITS = "missed_hits"
    PARKED_UNREAD = "parked_unread"
    UNKNOWN_FUNCTION = "unknown_function"
    WAKER_LOST = "waker_lost"
    OBJECT_TABLE_FULL = "object_table_full"
    KERNEL_STACK_LOST = "kernel_stack_lost"
    STACK_IN_TRANSIT = "stack_in_transit"
    THREAD_STACK_UNREADABLE = "thread_stack_unreadable"
    PAUSE_TABLE_FULL = "pause_table_full"
    ARRIVALS_MISSED = "arrivals_missed"
    START_UNSEEN = "start_unseen"
    SWITCH_UNSEEN = "switch_unseen"
    TIMELINE_FULL = "timeline_full"
    RUNNING_UNKNOWN = "running_unknown"
    STACK_TORN = "stack_torn"
    LOOK_LATE = "look_late"
    SPAN_TABLE_FULL = "span_table_full"
    SPAN_END_UNSEEN = "span_end_unseen"
    SPAN_WAITS_FULL = "span_waits_full"
    HISTORY_LOST = "history_lost"
    WAITED_UNREAD = "waited_unread"
    WAITED_FULL = "waited_full"
    HOLDERS_UNFOLLOWED = "holders_unfollowed"
    LABEL_VALUES_FULL = "label_values_full"
    LABELS_UNREAD = "labels_unread"


LOSS_TEXT = {
    Loss.GOROUTINE_TABLE_FULL: "starts of intervals not recorded: more goroutines than the table holds",
    Loss.STACK_TABLE_FULL: "intervals not recorded: more distinct stacks (with wakers, sockets, files) than the table holds",
    Loss.GOROUTINE_SET_FULL: "goroutines missing from the distinct-goroutine counts (their time is counted)",
    Loss.RING_FULL: "single events not streamed: the ring buffer was full (totals are not affected)",
    Loss.INTERVAL_LOST: "intervals not recorded: the g could not be read, or too many probes met on one CPU",
    Loss.STACK_TRUNCATED: "intervals whose stack is deeper than the walk goes: their root frames are missing",
    Loss.STACK_UNREADABLE: "intervals whose stack could not be read: shown as a lost frame",
    Loss.STACK_INCOMPLETE: (
        "intervals whose stack ends before its root: code that is not Go's broke the chain of frames "
        "(shown as a lost frame)"
    ),
    Loss.START_WHILE_STOPPED: "state machine: a goroutine stopped that was already stopped",
    Loss.END_WHILE_RUNNING: "state machine: a goroutine resumed that was not known to be stopped",
    Loss.MISSED_HITS: "probe hits that the kernel did not deliver to the program",
    Loss.PARKED_UNREAD: "goroutines parked at the end of the window whose stack could not be read",
    Loss.UNKNOWN_FUNCTION: "distinct program counters that belong to no known function",
    Loss.WAKER_LOST: "wake-ups whose waker could not be read",
    Loss.OBJECT_TABLE_FULL: "intervals without their file or socket: more of those than the table holds",
    Loss.THREAD_STACK_UNREADABLE: "thread waits whose Go stack could not be read to its root: stopped between any two instructions",
    Loss.STACK_IN_TRANSIT: (
        "thread waits whose Go stack was nowhere to be found (in a signal handler, in C, or as it was being copied or "
        "switched): at most their innermost frame is shown"
    ),
    Loss.PAUSE_TABLE_FULL: "stop-the-world pauses that are not listed (the time inside them is counted)",
    Loss.ARRIVALS_MISSED: "moments at which data came that were not seen: some waits are not split there",
    Loss.TIMELINE_FULL: (
        "single intervals missing from the Perfetto trace, or from a capture that could not be written for long: more than is "
        "kept (totals have them)"
    ),
    Loss.START_UNSEEN: "mode lean: waits that were over before their thread turned to something else (some tens of us at most)",
    Loss.RUNNING_UNKNOWN: "processes whose goroutines seemed to run for longer than the process had CPU time: that time is left out",
    Loss.SWITCH_UNSEEN: "thread waits whose end the kernel did not show: it is derived from the thread's CPU time",
    Loss.STACK_TORN: "goroutines that moved while their stack was read (mode sample): counted, but with their innermost frame alone",
    Loss.LOOK_LATE: "samples that had to wait for a CPU (mode sample): goroutines that run are seen too rarely",
    Loss.KERNEL_STACK_LOST: "intervals in the kernel whose kernel stack could not be read",
    Loss.SPAN_TABLE_FULL: "requests not recorded: more at once, or of more durations and waits, than the table holds",
    Loss.SPAN_END_UNSEEN: "requests whose end was not seen: they are in no figure of the requests",
    Loss.SPAN_WAITS_FULL: "requests with more different waits than are kept of one: the other waits are told by state and reason alone",
    Loss.HISTORY_LOST: "single intervals that were overwritten before they could be read: some causes of requests are not known",
    Loss.WAITED_UNREAD: "waits of which it could not be read for which object they were: listed as those for an unknown one",
    Loss.WAITED_FULL: "waits for objects beyond the number that is told apart: listed together as those for other objects",
    Loss.HOLDERS_UNFOLLOWED:
        "waits for locks of which it is not told who ended them: there were too many, or they are left out (--min-block, --sample-period)",
    Loss.LABEL_VALUES_FULL: "sets of labels seen beyond the number of different ones that are kept: shown as other values",
    Loss.LABELS_UNREAD: "sets of labels that could not be read, or that are larger than what is searched: shown as unread",
}
