"""The governor (``--max-overhead``): how much tracing may cost the target, and what to give up when it costs more. Pure.

The cost is the CPU time that our probes take from the target: for each hit the trap, as measured on this host before the trace, and the
run time of the BPF programs, as timed by the kernel, plus an addition for what can't be timed (gotrace/governor/load.py: UNTIMED). All
processes pass through the tracepoints on threads; only the target's part counts. What runs where data arrives, in the context of the
sender, does not count. The cap is a share of the CPU time that the target used *for itself*: what the kernel accounts to it, minus our
cost. That ratio does not depend on how much the trace slows the target down: each of its steps costs the same whether steps come fast
or slowly. A target that uses less than `FLOOR` CPUs is taken to use that much.

The ladder. Given up are, in this order: the wakers; what the kernel does with threads; each short interval by itself (`SAMPLE_NS`,
unbiased); the probes on the starts of intervals, which are then inferred (mode ``lean``); all probes for most of the time, in windows
with pauses between them, each pause long enough for the target to use as much CPU time for itself as justifies the previous window;
finally all probes for good: goroutines are sampled from outside (mode ``sample``).

Where the target serves requests the ladder is another one: a request is known whole or not at all, and its causes take wakers and
threads. First everything is traced in windows, with pauses in between. A window takes requests for a while, and then follows those that it
has taken until they have ended, so that long ones are seen as often as short ones; a limit cuts off the rest, which are counted. Where
no pause repays such a window, the core alone is traced in short ones, as on the other ladder.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

from gotrace.common.vocabulary import Stage

FLOOR = 1.0
"""CPUs that every target is taken to use. A service that mostly waits has thousands of waits per second and uses almost no CPU. Relative
to that use, a cap would give up what the service is traced for, to save some thousandths of a CPU."""
SAMPLE_NS = 100_000
"""Sampling period of the third rung. For a stack with a total of T, the standard error is sqrt(period / T): 1 % for one second."""
_SAMPLED_PROGRAM = 0.5
"""What remains of the core's programs when intervals are sampled, at most: no stack is walked, nothing is summed up."""
_RECENT_NS = 300_000_000
_QUIET = 0.4
"""As a share of the cap: a rung must cost no more than this for a while before the next lower one is tried. No rung saves more."""
_PATIENCE_NS = 3_000_000_000
_MOST_PATIENCE_NS = 60_000_000_000
_CYCLE_NS = 1_000_000_000
_SHORTEST_NS, _LONGEST_NS = 20_000_000, 500_000_000
LONGEST_PAUSE_NS = 10_000_000_000
"""If a pause would have to be longer, the shortest window counts as too expensive."""
_REQUEST_CYCLE_NS, _FOLLOWED_CYCLE_NS = 3_000_000_000, 6_000_000_000
"""How long a window and its pause last, by what a window takes requests for, and by what it may follow them for."""
_SHORTEST_TAKING_NS, _LONGEST_TAKING_NS = 50_000_000, 1_000_000_000
_SHORTEST_FOLLOWING_NS, _LONGEST_FOLLOWING_NS = 100_000_000, 2_000_000_000
_SAME = 0.7
"""As `_QUIET`, where the next lower rung costs the same for as long as it is traced."""
_REPAYABLE = 20
"""As a multiple of the cap: where the core alone costs no more in its windows, a window with everything can be repaid."""


class Rung(IntEnum):
    """What is given up. Each rung includes those before it, except REQUESTS, and that the windows of CONTINUITY have the probes on starts
    again. REQUESTS is everything, in windows."""

    NOTHING = 0
    REQUESTS = 1
    WAKERS = 2
    KERNEL = 3
    SINGLE = 4
    STARTS = 5
    CONTINUITY = 6
    PROBES = 7


WINDOWED = frozenset((Rung.REQUESTS, Rung.CONTINUITY))
"""Rungs with windows, and pauses between them."""
_WITH_REQUESTS = frozenset((Rung.NOTHING, Rung.REQUESTS, Rung.CONTINUITY, Rung.PROBES))


RUNG_TEXT = {
    Rung.NOTHING: "everything is traced",
    Rung.REQUESTS: "traced in windows, with pauses between: in each the requests that begin in it, to their ends",
    Rung.WAKERS: "traced without wakers",
    Rung.KERNEL: "traced without wakers, system calls and waits for a CPU",
    Rung.SINGLE: "traced without wakers, system calls and waits for a CPU, with a weighted sample of short waits",
    Rung.STARTS: "traced without wakers, system calls and waits for a CPU, with a weighted sample of short waits, and with one probe: "
               "where waits begin is inferred",
    Rung.CONTINUITY: "traced in short windows, without wakers, system calls and waits for a CPU, with a weighted sample of "
                     "short waits",
    Rung.PROBES: "without probes: its memory is sampled, and all figures of that time are estimates",
}
"""What is traced on each rung, in one line."""


@dataclass(frozen=True)
class Load:
    """What tracing cost in a span of time, and what the target used in it, our cost included; all in ns. `core_trap_ns` are the traps of
    the probes that can't be left out, `core_program_ns` their programs. `starts_ns` are those of these traps that mode lean does not need;
    the work of their programs then happens where goroutines resume."""

    elapsed_ns: int = 0
    cpu_ns: int = 0
    core_trap_ns: int = 0
    core_program_ns: int = 0
    wakers_ns: int = 0
    kernel_ns: int = 0
    starts_ns: int = 0

    def __add__(self, other: Load) -> Load:
        return Load(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def __sub__(self, other: Load) -> Load:
        return Load(*(getattr(self, name) - getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def cost_ns(self) -> int:
        """The total cost."""
        return self.core_trap_ns + self.core_program_ns + self.wakers_ns + self.kernel_ns

    @property
    def own_ns(self) -> int:
        """What the target used for itself, at least `FLOOR`."""
        return max(self.cpu_ns - self.cost_ns, round(self.elapsed_ns * FLOOR))

    @property
    def share(self) -> float:
        """The cost as a share of what the target used for itself."""
        return self.cost_ns / self.own_ns if self.own_ns > 0 else 0.0

    def cost_on(self, rung: Rung) -> float:
        """What the same would have cost on a rung below the last one, if it was measured on no rung above it."""
        cost = float(self.cost_ns)
        if rung >= Rung.WAKERS:
            cost -= self.wakers_ns
        if rung >= Rung.KERNEL:
            cost -= self.kernel_ns
        if rung >= Rung.SINGLE:
            cost -= (1 - _SAMPLED_PROGRAM) * self.core_program_ns
        if rung >= Rung.STARTS:
            cost -= self.starts_ns
        return cost


def stages_on(rung: Rung) -> frozenset[Stage]:
    """The stages that are traced on a rung."""
    left_out = {Stage.WAKERS: Rung.WAKERS, Stage.REQUESTS: Rung.KERNEL, Stage.KERNEL: Rung.KERNEL}
    return frozenset(stage for stage in Stage if stage not in left_out or rung < left_out[stage])


@dataclass
class Governor:
    """Decides after each span of time which rung of the ladder is next. `cap` is a share (0.05 for 5 %); `rungs` are those that make a
    difference to this trace. `requests` may be set at any time: the target serves some."""

    cap: float
    rungs: tuple[Rung, ...] = tuple(Rung)
    rung: Rung = Rung.NOTHING
    requests: bool = False
    share: float = 0.0
    """What tracing has cost lately, as far as `observe` was told."""
    _recent: deque[Load] = field(default_factory=deque)
    _quiet_ns: int = 0
    _patience_ns: int = _PATIENCE_NS
    _held_ns: int = 0
    _descended: bool = False

    def observe(self, load: Load, lasted_ns: int = 0) -> Rung:
        """Takes the load of one more span of time, in which probes were placed on the present rung, and returns the rung for the next one.
        `lasted_ns`: its length including the pause before it, if there was one."""
        lasted_ns = lasted_ns or load.elapsed_ns
        self._recent.append(load)
        recent = sum(self._recent, Load())
        while len(self._recent) > 1 and recent.elapsed_ns - self._recent[0].elapsed_ns >= _RECENT_NS:
            recent -= self._recent.popleft()
        self.share = recent.share
        self._held_ns += lasted_ns
        if self.share > self.cap and self.rung not in WINDOWED and self._higher():
            self._climb(recent)
        elif self.share > self._quiet() * self.cap:
            self._quiet_ns = 0
        else:
            self._quiet_ns += lasted_ns
            lower = self._lower()
            if self._quiet_ns >= self._patience_ns and lower:
                self._move(lower[-1])
                self._descended = True
        if self._descended and self._held_ns >= 2 * self._patience_ns:
            self._descended, self._patience_ns = False, _PATIENCE_NS
        return self.rung

    def _usable(self) -> list[Rung]:
        """The rungs of the ladder, lowest first."""
        by_windows = self.requests and Rung.REQUESTS in self.rungs
        return [rung for rung in self.rungs if (rung in _WITH_REQUESTS if by_windows else rung is not Rung.REQUESTS)]

    def _higher(self) -> list[Rung]:
        # What had given up less than everything before there were requests gets windows with everything first.
        first = Rung.NOTHING if Rung.WAKERS <= self.rung <= Rung.STARTS and Rung.REQUESTS in self._usable() else self.rung
        return [rung for rung in self._usable() if rung > first]

    def _lower(self) -> list[Rung]:
        return [rung for rung in self._usable() if rung < self.rung]

    def _quiet(self) -> float:
        """As a multiple of the cap: how cheap it must be to give up less."""
        lower = self._lower()
        if self.rung is Rung.REQUESTS:
            return _SAME
        return _REPAYABLE if self.rung is Rung.CONTINUITY and lower and lower[-1] is Rung.REQUESTS else _QUIET

    def _climb(self, recent: Load) -> None:
        self._learn_patience()
        higher = self._higher()
        enough = (
            rung for rung in higher
            if rung in WINDOWED or rung >= Rung.CONTINUITY or recent.cost_on(rung) <= self.cap * recent.own_ns
        )
        self._move(next(enough, higher[-1]))

    def _learn_patience(self) -> None:
        if self._descended:  # that was too early
            self._descended, self._patience_ns = False, min(2 * self._patience_ns, _MOST_PATIENCE_NS)

    def _move(self, rung: Rung) -> None:
        self.rung = rung
        self._recent.clear()
        self._quiet_ns = self._held_ns = 0

    # -- windows and pauses --------------------------------------------------------------------------------------------

    def window_ns(self, least_ns: int = 0) -> int:
        """The length of the next window, from what tracing cost in the last one, such that one window per second is within the cap; of one
        for requests, for how long it takes them, such that one in three seconds is."""
        share = self.share or 1.0
        if self.rung is Rung.REQUESTS:
            return max(least_ns, min(_LONGEST_TAKING_NS, max(_SHORTEST_TAKING_NS, round(_REQUEST_CYCLE_NS * self.cap / share))))
        return max(least_ns, min(_LONGEST_NS, max(_SHORTEST_NS, round(_CYCLE_NS * self.cap / share))))

    def following_ns(self) -> int:
        """For how long the next window may follow the requests that it has taken."""
        return min(_LONGEST_FOLLOWING_NS, max(_SHORTEST_FOLLOWING_NS, round(_FOLLOWED_CYCLE_NS * self.cap / (self.share or 1.0))))

    def repaid(self, since: Load) -> bool:
        """Whether a pause may end: the cost since the last window opened is within the cap."""
        return since.cost_ns <= self.cap * since.own_ns

    def give_windows_up(self) -> Rung:
        """Moves to the rung after windows of this kind: no pause is long enough to repay one."""
        self._learn_patience()
        self._move(self._higher()[0])
        return self.rung
