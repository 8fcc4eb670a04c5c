"""The governor (``--max-overhead``): how much tracing may cost the target, and what to give up when it costs more. Pure.

The cost is the CPU time that our probes take from the target: for each hit the trap, as measured on this host before the
trace, and what the BPF programs ran, as the kernel timed them, with an addition for what can't be timed
(gotrace/governor/load.py: UNTIMED). Of the tracepoints on threads, through which all processes pass, the target's part is counted;
what runs where data arrives, in the context of whoever sends it, is not. The cap is a share of the CPU time that the target
used *for itself*: what the kernel accounts to it, less our cost. That ratio does not depend on how much the trace slows the
target down: each of its steps costs the same whether steps come fast or slowly. A target that uses less than `FLOOR` CPUs is
taken to use that much.

The ladder: what is given up, in order, is who made goroutines runnable; what the kernel does with their threads; every
single short interval (`SAMPLE_NS`, unbiased); the probes on where intervals begin, which is then inferred (mode ``lean``); all
probes for most of the time, in windows with pauses between them, each as long as it takes the target to use so much CPU time for
itself that the window before was worth its cost; at last all probes for good: goroutines are looked at from without (mode
``sample``).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

from gotrace.common.vocabulary import Stage

FLOOR = 1.0
"""CPUs that every target is taken to use: a service that mostly waits has thousands of waits in a second and hardly uses its
CPU. Measured against that, a cap would take away what it is traced for, to spare some thousandths of a CPU."""
SAMPLE_NS = 100_000
"""Sampling period of the third rung: of a stack with a total of T, the standard error is sqrt(period / T): 1 % of one second."""
_SAMPLED_PROGRAM = 0.5
"""What sampling leaves of the core's programs, at most: no stack is walked, nothing is summed up."""
_RECENT_NS = 300_000_000
_QUIET = 0.4
"""Of the cap: what a rung must cost for a while before the next lower one is tried. Each makes tracing cheaper by no more."""
_PATIENCE_NS = 3_000_000_000
_MOST_PATIENCE_NS = 60_000_000_000
_CYCLE_NS = 1_000_000_000
_SHORTEST_NS, _LONGEST_NS = 20_000_000, 500_000_000
LONGEST_PAUSE_NS = 10_000_000_000
"""After which the shortest window counts as too dear."""


class Rung(IntEnum):
    """What is given up; each rung includes those before it, but that windows have the probes on starts again."""

    NOTHING = 0
    WAKERS = 1
    KERNEL = 2
    SINGLE = 3
    STARTS = 4
    CONTINUITY = 5
    PROBES = 6


RUNG_TEXT = {
    Rung.NOTHING: "everything is traced",
    Rung.WAKERS: "traced without wakers",
    Rung.KERNEL: "traced without wakers, system calls and waits for a CPU",
    Rung.SINGLE: "traced without wakers, system calls and waits for a CPU, with a weighted sample of short waits",
    Rung.STARTS: "traced without wakers, system calls and waits for a CPU, with a weighted sample of short waits, and with one probe: "
               "where waits begin is inferred",
    Rung.CONTINUITY: "traced in short windows, without wakers, system calls and waits for a CPU, with a weighted sample of "
                     "short waits",
    Rung.PROBES: "without probes: its memory is sampled, and all figures of that time are estimates",
}
"""What is traced on each, for one line."""


@dataclass(frozen=True)
class Load:
    """What tracing cost in a span of time, and what the target used in it, our cost included; all ns. `core_trap_ns` are the
    traps of the probes that can't be left out, `core_program_ns` their programs; `starts_ns` are the traps among them that mode lean
    does without (what their programs did is then done where goroutines resume)."""

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
        """All of it."""
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
        """What the same would have cost on a rung below the last one, if it was measured on none above it."""
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
    """Says after each span of time on which rung of the ladder to be. `cap` is a share (0.05 for 5 %); `rungs` are those that
    make a difference to this trace."""

    cap: float
    rungs: tuple[Rung, ...] = tuple(Rung)
    rung: Rung = Rung.NOTHING
    share: float = 0.0
    """What tracing cost of late, as far as `observe` was told."""
    _recent: deque[Load] = field(default_factory=deque)
    _quiet_ns: int = 0
    _patience_ns: int = _PATIENCE_NS
    _held_ns: int = 0
    _descended: bool = False

    def observe(self, load: Load, lasted_ns: int = 0) -> Rung:
        """Takes the load of one more span of time, in which probes were placed on the present rung, and returns the rung for
        the next one. `lasted_ns`: how long that was with the pause before it, if there was one."""
        lasted_ns = lasted_ns or load.elapsed_ns
        self._recent.append(load)
        recent = sum(self._recent, Load())
        while len(self._recent) > 1 and recent.elapsed_ns - self._recent[0].elapsed_ns >= _RECENT_NS:
            recent -= self._recent.popleft()
        self.share = recent.share
        self._held_ns += lasted_ns
        if self.share > self.cap and self.rung < Rung.CONTINUITY and self.rung is not self.rungs[-1]:
            self._climb(recent)
        elif self.share > _QUIET * self.cap:
            self._quiet_ns = 0
        else:
            self._quiet_ns += lasted_ns
            if self._quiet_ns >= self._patience_ns and self.rung is not self.rungs[0]:
                self._move(self.rungs[self.rungs.index(self.rung) - 1])
                self._descended = True
        if self._descended and self._held_ns >= 2 * self._patience_ns:
            self._descended, self._patience_ns = False, _PATIENCE_NS
        return self.rung

    def _climb(self, recent: Load) -> None:
        self._learn_patience()
        higher = self.rungs[self.rungs.index(self.rung) + 1 :]
        enough = (rung for rung in higher if rung >= Rung.CONTINUITY or recent.cost_on(rung) <= self.cap * recent.own_ns)
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
        """How long the next window is to be, from what tracing cost in the last one: so that one window a second is within
        the cap."""
        share = self.share or 1.0
        return max(least_ns, min(_LONGEST_NS, max(_SHORTEST_NS, round(_CYCLE_NS * self.cap / share))))

    def repaid(self, since: Load) -> bool:
        """Whether a pause may end: what was spent since the last window was opened is within the cap."""
        return since.cost_ns <= self.cap * since.own_ns

    def give_windows_up(self) -> Rung:
        """No pause is long enough to repay a window: goes on to the rung behind."""
        self._learn_patience()
        self._move(Rung.PROBES)
        return self.rung
