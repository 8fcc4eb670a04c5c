"""All goroutines of a process at one moment: what `gotrace dump` shows."""

from __future__ import annotations

from dataclasses import dataclass, field

from gotrace.live.ahead import Operation as Operation
from gotrace.profile.types import Frame, Target

RUNNING = "running"
NO_THREAD = "no thread"
"""Go takes it for running, or in a system call, on a thread that does not exist: in a forked copy of a process."""


@dataclass(frozen=True, slots=True)
class WaitedObject:
    """What a goroutine waits for. `kind` is ``chan``, ``select``, ``mutex``, ``rwmutex``, ``waitgroup``, ``cond``, ``semaphore``, ``fd`` or
    ``timer``. `address` is hexadecimal, None for what has none. docs/output.md explains `detail`."""

    kind: str
    address: str | None
    detail: dict[str, object] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class ObjectState:
    """A thing that goroutines wait for; `goroutines` are their ids. `oldest_wait_ns` is None if no wait's length is known."""

    kind: str
    address: str
    waiters: int
    oldest_wait_ns: int | None
    detail: dict[str, object]
    goroutines: list[int]


@dataclass(frozen=True)
class Verdict:
    """What is wrong, in one sentence. `evidence` is what it rests on. `certain`: it is shown, and not only likely."""

    kind: str
    text: str
    goroutines: list[int]
    evidence: dict[str, object]
    certain: bool


@dataclass(frozen=True, slots=True)
class GoroutineState:
    """One goroutine. `state` is a State, ``running`` or ``no thread``; frames are leaf first, () if it runs: its stack changes while it is
    read. `wait_ns` is how long it has waited, to within a cycle of the garbage collector, None if not known. 0 and "" if the version does
    not keep a field, or if there is nothing to report."""

    id: int
    state: str
    reason: str
    wait_ns: int | None
    parent_id: int
    created_by: str
    created_at: str
    start_function: str
    locked_to_thread: bool
    labels: dict[str, str]
    frames: tuple[Frame, ...]
    object: WaitedObject | None = None


@dataclass(frozen=True)
class Prospects:
    """What verdicts rest on beside the dump: `ahead` is what goroutines will do to locks and channels once they go on, by id; `still` are
    the ids of those that have not moved for `still_ns`; `followed` says of how many the code was followed. `stopped`: the process is
    stopped, so nothing moves. `gomaxprocs` and `cpu_quota` (CPUs) are None where they are not known, or there is no quota."""

    ahead: dict[int, tuple[Operation, ...]] = field(default_factory=dict)
    still: frozenset[int] = frozenset()
    still_ns: int = 0
    followed: int = 0
    stopped: bool = False
    threads: int = 0
    gomaxprocs: int | None = None
    cpu_quota: float | None = None


@dataclass(frozen=True)
class Unreachable:
    """Goroutines at channels and locks that nobody else can reach, by id. `searched` bytes of memory were searched, in so many `rounds`;
    `complete`: the search was not given up."""

    goroutines: frozenset[int] = frozenset()
    searched: int = 0
    rounds: int = 0
    complete: bool = False


@dataclass
class Dump:
    """The goroutines by id. `losses` are counts by name; `LOSSES` explains them. `notes` are sentences about the process."""

    version: str
    target: Target
    goroutines: list[GoroutineState]
    losses: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    objects: list[ObjectState] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    prospects: Prospects = field(default_factory=Prospects)
    unreachable: Unreachable | None = None


LOSSES = {
    "stack_torn": "goroutines that moved whenever their stack was read: shown with their innermost frame alone",
    "stack_incomplete": (
        "goroutines whose stack ends before its root: code that is not Go's broke the chain of frames "
        "(shown as a lost frame)"
    ),
    "goroutines_unread": "goroutines that could not be read at all",
    "objects_unread": "goroutines at a channel, a lock or a timer of which it could not be read which one it is",
    "labels_unread": "goroutines whose profiler labels could not be read",
    "fields_unread": (
        "fields of runtime.g that do not fit the live process or are not known: what they would tell is missing "
        "(gotrace probes PID)"
    ),
    "unknown_function": "distinct program counters that belong to no known function",
}
