"""A profile: what one trace found, with symbols, weights and losses. Renderers are pure functions of it.

All durations are int nanoseconds. Stacks are leaf first: ``frames[0]`` is where the goroutine stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from gotrace.common.histogram import bucket_of, percentile
from gotrace.common.vocabulary import CONTINUED, FrameKind, Loss, State
from gotrace.profile.things import Waited
from gotrace.profile.verdict import VerdictOn

if TYPE_CHECKING:
    from gotrace.profile.holders import LockHolders
    from gotrace.profile.requests import Span

KERNEL_PATH = "[kernel path]"
"""`Frame.file` of a waker's frames in the kernel: the way that the data took, below the function where it arrived."""


class Frame(NamedTuple):
    """One function of a stack. `file` is "" and `line` 0 where they are not known. Stacks are keys, with all their frames."""

    name: str
    file: str = ""
    line: int = 0
    kind: FrameKind = FrameKind.GO
    inlined: bool = False


@dataclass(slots=True)
class Distribution:
    """Count, sum, spread and histogram of durations. `squares` is the sum of squares in (256 ns)**2."""

    count: int = 0
    total_ns: int = 0
    max_ns: int = 0
    squares: int = 0
    histogram: dict[int, int] = field(default_factory=dict)

    def add(self, other: Distribution) -> None:
        """Adds all of `other`'s durations."""
        self.count += other.count
        self.total_ns += other.total_ns
        self.max_ns = max(self.max_ns, other.max_ns)
        self.squares += other.squares
        for bucket, count in other.histogram.items():
            self.histogram[bucket] = self.histogram.get(bucket, 0) + count
            if not self.histogram[bucket]:
                del self.histogram[bucket]  # a wait that was counted there continued

    def percentile_ns(self, fraction: float) -> int:
        """E.g. 0.99 for the p99; the relative error is at most 1/16."""
        return percentile(self.histogram, fraction, self.max_ns)

    @property
    def mean_ns(self) -> int:
        """Arithmetic mean, 0 if there is none."""
        return self.total_ns // self.count if self.count else 0

    @property
    def jitter_ns(self) -> int:
        """Standard deviation, to a resolution of 256 ns."""
        if self.count < 2:
            return 0
        mean = self.total_ns / self.count
        variance = self.squares * 65536 / self.count - mean * mean
        return int(math.sqrt(variance)) if variance > 0 else 0


class SubWindow(NamedTuple):
    """The intervals of a stack that ended in one part of the window. `start_ns` is from the window's start, `squares` is in (256 ns)**2. A
    sub-window in which none ended has no row."""

    start_ns: int
    duration_ns: int
    count: int  # type: ignore[assignment]  # tuple's method of this name is not needed here
    total_ns: int
    squares: int

    def __add__(self, other: SubWindow) -> SubWindow:  # type: ignore[override]
        return self._replace(
            count=self.count + other.count, total_ns=self.total_ns + other.total_ns, squares=self.squares + other.squares
        )

    @property
    def jitter_ns(self) -> int:
        """Standard deviation, as that of `Distribution`."""
        return Distribution(self.count, self.total_ns, squares=self.squares).jitter_ns


Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Profiler labels (runtime/pprof): keys and values."""


class StackKey(tuple[object, ...]):
    """What makes a stack distinct. It holds all frames, so its hash is computed once."""

    _hash: int | None = None

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = super().__hash__()
        return self._hash


@dataclass(slots=True)
class StackStat:
    """All intervals that ended with the same stack, state and reason (and goroutine, if goroutines are kept apart)."""

    frames: tuple[Frame, ...]
    state: State
    reason: str
    distribution: Distribution
    goroutines: int = 0
    in_progress: int = 0
    goid: int | None = None
    pid: int = 0
    stopped_ns: int = 0
    """Part of the total inside stop-the-world pauses."""
    long_runs: int = 0
    """How many of the intervals ended a run of more than `LONG_RUN_NS` without a break."""
    long_run_max_ns: int = 0
    subwindows: list[SubWindow] = field(default_factory=list)
    """In time order; all of one length, a multiple of a second."""
    margin_ns: int | None = None
    """How far off the total may be: half of its 95 % confidence interval (mode ``sample``, sampled intervals). In mode ``lean`` it includes
    how much too small the total may be; it is never too large. None if the total is exact."""
    halted_ns: int = 0
    """Part of the total in which the process was stopped from outside: by a signal, a freezer or a debugger."""
    late_ns: int = 0
    """Part of the total after sleeps were due to end, until the runtime ran their timers. 0 if the Go version (before 1.23) does not keep
    that moment, in mode ``sample``, and for sleeps that the window's end cut off."""
    waited: Waited | None = None
    """What they waited for, if that was asked for (--objects)."""
    goroutines_there: int = 0
    """Where objects are told apart, distinct goroutines with the same frames, state and reason, whatever they waited for; else 0."""
    labels: Labels = ()
    """Those of the wanted labels (``--label``) that the goroutine had, in the order in which they are wanted."""
    _key: StackKey | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def key(self) -> StackKey:
        """What makes the stack distinct. The fields in it must not change once it has been requested."""
        if self._key is None:
            self._key = StackKey((self.pid, self.frames, self.state, self.reason, self.goid, self.waited, self.labels))
        return self._key


LONG_RUN_NS = 10_000_000
"""Go's own time slice (runtime/proc.go: forcePreemptNS)."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A stop-the-world pause, from the call that requests it to the call that ends it. `start_ns` is from the window's start."""

    reason: str
    start_ns: int
    duration_ns: int
    pid: int = 0


@dataclass(frozen=True, slots=True)
class TimelineInterval:
    """One part of a single interval of goroutine `goid`. `start_ns` is from the window's start; `stack` has state, reason and frames;
    `waker_goid`: who made it runnable, 0 if nobody or not known; `tid`: the thread on which it continued, as the kernel numbers it."""

    goid: int
    start_ns: int
    duration_ns: int
    stack: StackStat
    waker_goid: int = 0
    tid: int = 0


class SingleInterval(NamedTuple):
    """One part of a single interval; `start_ns` is from the window's start, `stack_key` the `StackStat.key` of its stack. `may_go_on`: a
    wait in the kernel, which a signal may have interrupted; `goes_on`: it replaces the goroutine's last one of these, which began at the
    same moment."""

    goid: int
    start_ns: int
    duration_ns: int
    stack_key: StackKey
    waker_goid: int = 0
    tid: int = 0
    may_go_on: bool = False
    goes_on: bool = False


@dataclass(frozen=True)
class Target:
    """The traced process and what was learnt from its binary. `host` is the machine's name, `container` and `pod` are ids (uid of the
    pod); "" where there is none, or it was not noted."""

    pid: int
    exe: str
    comm: str
    go_version: str
    go_version_source: str
    build_id: str
    stripped: bool
    pie: bool
    cgo: bool
    arch: str
    host: str = ""
    container: str = ""
    pod: str = ""


@dataclass(frozen=True)
class Window:
    """The traced time. `start` is RFC 3339; `attached_ns` < `duration_ns` if there were pauses; `samples` of mode ``sample``."""

    start: str
    duration_ns: int
    mode: str
    attached_ns: int
    samples: int = 0


@dataclass(frozen=True)
class Overhead:
    """What tracing cost. The fields whose name says so are estimates; under a cap the fraction is from the governor's accounting, which
    covers more than hits."""

    hits: int = 0
    hits_per_s: float = 0.0
    traps_per_interval: float = 0.0
    ns_per_hit_estimate: float = 0.0
    target_cpu_fraction_estimate: float = 0.0
    agent_cpu_s: float = 0.0
    agent_peak_rss_bytes: int = 0


@dataclass(frozen=True)
class GovernorStep:
    """A change of what is traced. `at_ns` is from the window's start, `rung` the name of a Rung, `share` what tracing had cost before."""

    at_ns: int
    pid: int
    rung: str
    share: float


@dataclass(frozen=True)
class GovernorReport:
    """What ``--max-overhead`` did. `max_overhead` is the cap and `share` what tracing cost in the whole window, both relative to the CPU
    time that the targets used for themselves (gotrace/governor/policy.py). `*_off_ns`: how long a stage was not traced, the longest time of
    all targets; `sampled_ns`: how long short intervals were sampled; `lean_ns`: how long the starts of intervals were inferred, as in mode
    lean; `looked_ns`: how long memory was sampled instead of placing probes, as in mode sample; `paused_ns`: how long there were no probes,
    and `windows` how many stretches with probes there were. `unlooked_windows`: at how many of their ends only goroutines with open
    intervals were read, because there were too many: waits of the others lack those windows. `steps` are the latest changes,
    `steps_dropped` is how many more there were before them."""

    max_overhead: float
    share: float = 0.0
    cost_ns: int = 0
    wakers_off_ns: int = 0
    kernel_off_ns: int = 0
    sampled_ns: int = 0
    lean_ns: int = 0
    looked_ns: int = 0
    paused_ns: int = 0
    windows: int = 1
    unlooked_windows: int = 0
    steps: tuple[GovernorStep, ...] = ()
    steps_dropped: int = 0

    @property
    def acted(self) -> bool:
        """Whether anything was given up."""
        return bool(self.steps)


@dataclass(frozen=True)
class Hotspot:
    """A stack worth investigating, with the reason in words. `share` is its part of all off-CPU time."""

    stack: int
    why: str
    p99_ns: int
    jitter_ns: int
    share: float


@dataclass(frozen=True)
class Missing:
    """A stage that a trace went without: what (``wakers``, ...), why, and what the figures lack because of it; each is one line."""

    stage: str
    why: str
    lacks: str
    pid: int = 0


@dataclass
class Profile:
    """One window of one or more processes. `stacks` is sorted by total time, largest first."""

    version: str
    targets: list[Target]
    window: Window
    stacks: list[StackStat]
    losses: dict[Loss, int]
    overhead: Overhead = Overhead()
    hotspots: list[Hotspot] = field(default_factory=list)
    goroutines: int = 0
    running_ns: int | None = None
    """Sum of the time that goroutines ran with a CPU; None if the kernel's tracepoints were left out."""
    cpu_ns: int = 0
    """CPU time of the processes in the window, as the kernel accounts it."""
    pauses: list[Pause] = field(default_factory=list)
    """Stop-the-world pauses in the order of their starts, as far as they are listed one by one."""
    timeline: list[TimelineInterval] = field(default_factory=list)
    """Single intervals, if they were requested (--per-goroutine, --events-over)."""
    filters: list[str] = field(default_factory=list)
    governor: GovernorReport | None = None
    """None without a cap on the cost."""
    complete: bool = True
    """False: gotrace was killed before the end; the figures are those of the last commit."""
    missing: list[Missing] = field(default_factory=list)
    """Stages that this trace went without."""
    notes: list[str] = field(default_factory=list)
    """What else a reader must know to understand the figures: the process was stopped, it is a forked copy, ..."""
    requests: list[Span] = field(default_factory=list)
    """Calls of span functions, those with most time first; empty where the program has none, or they were not asked for."""
    locks: list[LockHolders] = field(default_factory=list)
    """Who held locks while others waited, if objects were asked for; those for which was waited longest first."""
    verdicts: list[VerdictOn] = field(default_factory=list)
    """What is wrong in the processes, judged as the trace ended."""
    selected: tuple[str, int] | None = None
    """The flags by which `stacks` were chosen, and from how many; None if they are all stacks."""

    @property
    def has_objects(self) -> bool:
        """Whether stacks tell what was waited for."""
        return any(stack.waited is not None for stack in self.stacks)

    def by_state(self) -> dict[State, Distribution]:
        """Distribution of each state that occurs, largest total first."""
        return _group((stack.state, stack.distribution) for stack in self.stacks)

    def by_reason(self) -> dict[str, Distribution]:
        """Distribution of each reason that occurs, largest total first."""
        return _group((stack.reason, stack.distribution) for stack in self.stacks)

    def by_label(self) -> dict[str, dict[str | None, Distribution]]:
        """For the key of each label that some goroutine has: distribution of each value, largest total first; None for goroutines that
        have no such label."""
        keys = dict.fromkeys(key for stack in self.stacks for key, _ in stack.labels)
        return {key: _group((dict(stack.labels).get(key), stack.distribution) for stack in self.stacks) for key in keys}

    def pauses_by_reason(self) -> dict[str, Distribution]:
        """Distribution of the stop-the-world pauses of each reason, largest total first."""
        return _group((pause.reason, _single(pause.duration_ns)) for pause in self.pauses)

    @property
    def probed_ns(self) -> int:
        """For how much of the window's `attached_ns` there were probes, and not samples in their place."""
        return max(0, self.window.attached_ns - (self.governor.looked_ns if self.governor else 0))

    @property
    def margin_ns(self) -> int | None:
        """Half of the 95 % confidence interval of the sum of all totals, None if none is an estimate."""
        margins = [stack.margin_ns for stack in self.stacks if stack.margin_ns is not None]
        return round(math.hypot(*margins)) if margins else None

    @property
    def intervals(self) -> int:
        """The number of intervals: later parts of one (runnable after a wait, ...) are not counted again."""
        return sum(stack.distribution.count for stack in self.stacks if stack.reason not in CONTINUED)

    def total(self) -> Distribution:
        """Distribution of all parts of intervals."""
        result = Distribution()
        for stack in self.stacks:
            result.add(stack.distribution)
        return result


def _single(duration_ns: int) -> Distribution:
    return Distribution(1, duration_ns, duration_ns, (duration_ns >> 8) ** 2, {bucket_of(duration_ns): 1})


_Key = TypeVar("_Key", bound="str | None")


def _group(items: Iterable[tuple[_Key, Distribution]]) -> dict[_Key, Distribution]:
    groups: dict[_Key, Distribution] = {}
    for key, distribution in items:
        groups.setdefault(key, Distribution()).add(distribution)
    return dict(sorted(groups.items(), key=lambda item: -item[1].total_ns))
