"""All goroutines of a process at one moment: what `gotrace dump` shows."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from gotrace.live.ahead import Operation as Operation
from gotrace.profile.types import Frame, Target
from gotrace.profile.verdict import Verdict as Verdict

RUNNING = "running"
NO_THREAD = "no thread"
"""Go takes it for running, or in a system call, on a thread that does not exist: in a forked copy of a process."""


class WaitedObject:
    """What a goroutine waits for. `kind` is ``chan``, ``select``, ``mutex``, ``rwmutex``, ``waitgroup``, ``cond``, ``semaphore``, ``fd`` or
    ``timer``. `at` is its address, None for what has none. docs/output.md explains `detail`, which objects may share.

    There may be a million. The cases of a select are kept as their addresses, each followed by what is known of that case; of what is known
    by its due time alone that is kept.
    """

    __slots__ = ("_about", "at", "kind")

    def __init__(self, kind: str, address: str | int | None, detail: dict[str, object] | tuple[object, ...] | int | None = None) -> None:
        self.kind = kind
        self.at = int(address, 16) if isinstance(address, str) else address
        self._about = detail if detail is not None else {}

    @property
    def address(self) -> str | None:
        """In hexadecimal, as Go prints pointers."""
        return f"{self.at:#x}" if self.at is not None else None

    @property
    def addresses(self) -> Sequence[int]:
        """Its address, or those of the channels of a select."""
        if self.kind != "select":
            return (self.at,) if self.at is not None else ()
        return self._about[::2] if isinstance(self._about, tuple) else [at for at, _ in self.cases]  # type: ignore[return-value]

    @property
    def cases(self) -> list[tuple[int, dict[str, object]]]:
        """The address of each channel of a select, with what is known of it and of the operation."""
        about = self._about
        if isinstance(about, tuple):
            return list(zip(about[::2], about[1::2], strict=True))  # type: ignore[arg-type]
        cases = about.get("cases") if isinstance(about, dict) else None
        return [
            (int(str(case["address"]), 16), {name: value for name, value in case.items() if name != "address"})
            for case in (cases if isinstance(cases, list) else [])
        ]

    @property
    def detail(self) -> dict[str, object]:
        """What else is known."""
        if isinstance(self._about, tuple):
            return {"cases": [{"address": f"{at:#x}", **detail} for at, detail in self.cases]}
        if isinstance(self._about, int):
            return {"due_in_ns": self._about}
        return self._about

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WaitedObject) and (self.kind, self.at, self.detail) == (other.kind, other.at, other.detail)

    def __hash__(self) -> int:
        return hash((self.kind, self.at))


@dataclass(frozen=True)
class ObjectState:
    """A thing that goroutines wait for; `goroutines` are their ids. `oldest_wait_ns` is None if no wait's length is known."""

    kind: str
    address: str
    waiters: int
    oldest_wait_ns: int | None
    detail: dict[str, object]
    goroutines: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class Situation:
    """What goroutines at one place have in common. `state` is a State, ``running`` or ``no thread``; frames are leaf first, () if it runs:
    its stack changes while it is read. "" if the version does not keep a field, or if there is nothing to report."""

    state: str
    reason: str
    created_by: str
    created_at: str
    start_function: str
    locked_to_thread: bool
    labels: dict[str, str]
    frames: tuple[Frame, ...]


@dataclass(slots=True, eq=False)
class GoroutineState:
    """One goroutine. `situation` is what it shares with others. `wait_ns` is how long it has waited, to within a cycle of the garbage
    collector, None if not known. `parent_id` is 0 if the version does not keep it."""

    id: int
    situation: Situation
    wait_ns: int | None = None
    parent_id: int = 0
    object: WaitedObject | None = None

    @property
    def state(self) -> str:
        """As in `Situation`."""
        return self.situation.state

    @property
    def reason(self) -> str:
        """As in `Situation`."""
        return self.situation.reason

    @property
    def created_by(self) -> str:
        """The function that created it."""
        return self.situation.created_by

    @property
    def created_at(self) -> str:
        """Where it was created."""
        return self.situation.created_at

    @property
    def start_function(self) -> str:
        """Its first function."""
        return self.situation.start_function

    @property
    def locked_to_thread(self) -> bool:
        """Whether it has its thread for itself."""
        return self.situation.locked_to_thread

    @property
    def labels(self) -> dict[str, str]:
        """Its profiler labels."""
        return self.situation.labels

    @property
    def frames(self) -> tuple[Frame, ...]:
        """Its stack, leaf first."""
        return self.situation.frames


class AllBut:
    """A set of all ids but some."""

    def __init__(self, but: Container[int]) -> None:
        self._but = but

    def __contains__(self, one: object) -> bool:
        return one not in self._but


@dataclass(frozen=True)
class Prospects:
    """What verdicts rest on beside the dump: `ahead` is what goroutines will do to locks and channels once they go on, by id; `still` are
    the ids of those that have not moved for `still_ns`; `followed` says of how many the code was followed. `stopped`: the process is
    stopped, so nothing moves. `holding_up`: the ids of those that have run throughout that time although the world was asked to stop.
    `gomaxprocs` and `cpu_quota` (CPUs) are None where they are not known, or there is no quota."""

    ahead: dict[int, tuple[Operation, ...]] = field(default_factory=dict)
    still: Container[int] = frozenset()
    still_ns: int = 0
    followed: int = 0
    stopped: bool = False
    threads: int = 0
    gomaxprocs: int | None = None
    cpu_quota: float | None = None
    holding_up: frozenset[int] = frozenset()


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
    objects: Sequence[ObjectState] = ()
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
    "labels_unread": "goroutines whose profiler labels could not be read, or are beyond 64 MB of different ones",
    "fields_unread": (
        "fields of runtime.g that do not fit the live process or are not known: what they would tell is missing "
        "(gotrace probes PID)"
    ),
    "unknown_function": "distinct program counters that belong to no known function",
}
