"""Caps the cost of one traced process: measures, asks the governor, and does what it says."""

from __future__ import annotations

import time
from collections.abc import Callable

from gotrace.common.errors import GotraceError
from gotrace.common.vocabulary import Stage
from gotrace.governor.load import LoadMeter
from gotrace.governor.policy import LONGEST_PAUSE_NS, RUNG_TEXT, SAMPLE_NS, Governor, Load, Rung, stages_on
from gotrace.kernel.placing import ProbesDoNotArrive
from gotrace.profile.types import GovernorReport, GovernorStep, Missing
from gotrace.watch.probed import ProbedProcess
from gotrace.watch.sampled import SampleOptions

_TICK_NS, _CALM_TICK_NS = 50_000_000, 100_000_000
_CALM = 0.7
"""As a share of the cap: below this, the cost is measured less often, because measuring has a cost of its own."""
_SLACK_NS = 10_000_000
"""How early work may be done to avoid waking up twice."""
_PAUSE_TICK_S = 0.02
_WINDOWS_PER_BLOCK = 4
"""With --min-block, for how many such waits a window has room."""


class Regulator:
    """The governor of one process. `trap_ns`: the cost of a hit without its program, measured on this host. `timed`: the kernel times
    programs. `say` gets one line for each change. `sample_options`: how to sample goroutines without probes.

    Call `begin` when the window opens, then `tick` whenever it says, `finish` at the end, `report` at any time.
    """

    def __init__(
        self, process: ProbedProcess, cap: float, trap_ns: int, timed: bool, say: Callable[[str], None], sample_options: SampleOptions,
        sampled_anyway: bool = False,
    ) -> None:
        self.process = process
        self._cap = cap
        self._meter = LoadMeter(process, trap_ns, timed)
        self._say = say
        self._least_ns = _WINDOWS_PER_BLOCK * sample_options.min_block_ns
        self._sample_options = sample_options
        self._windowed = False
        self._sampled_anyway = sampled_anyway
        self._steps: list[GovernorStep] = []
        self._on_rungs = dict.fromkeys(Rung, 0)
        self._broken = self._finished = False

    def begin(self) -> None:
        """Starts it, once the window is open."""
        stages = self.process.tracer.probes.stages
        self._had = stages
        self.governor = Governor(self._cap, tuple(rung for rung in Rung if self._makes_a_difference(rung, stages)))
        self._now = self._first = self._last = self._before = self._since = self._opened = self._meter.read()
        self._entered = time.monotonic_ns()
        self._due = self._entered + _TICK_NS

    def _makes_a_difference(self, rung: Rung, stages: frozenset[Stage]) -> bool:
        return {
            Rung.WAKERS: Stage.WAKERS in stages, Rung.KERNEL: Stage.KERNEL in stages, Rung.SINGLE: not self._sampled_anyway,
            Rung.STARTS: self.process.steering.can_be_lean, Rung.CONTINUITY: self.process.steering.can_pause,
        }.get(rung, True)

    @property
    def steps(self) -> list[GovernorStep]:
        """The changes up to now."""
        return self._steps

    @property
    def in_window(self) -> bool:
        """Whether a short window is open, which should be closed in time."""
        return self.governor.rung is Rung.CONTINUITY and not self.process.steering.paused

    def tick(self) -> float:
        """Does what is due; returns the seconds until something is due again."""
        if self._broken:
            return 1.0
        windows = self.governor.rung is Rung.CONTINUITY
        if time.monotonic_ns() >= self._due - (0 if windows else _SLACK_NS):
            try:
                if not windows:
                    self._measure()
                elif self.process.steering.paused:
                    self._maybe_resume()
                else:
                    self._close_window()
            except GotraceError as error:
                # The probes are gone: with the process, or because the kernel no longer accepts them.
                self._broken = True
                if not self.process.execed:
                    if isinstance(error, ProbesDoNotArrive):
                        self._without_probes(error)
                    else:
                        self._say(f"governor: nothing more is traced: {error}")
                        if not self.process.steering.paused:
                            self.process.steering.pause()
        return max(0.0, (self._due - time.monotonic_ns()) / 1e9)

    def _without_probes(self, error: ProbesDoNotArrive) -> None:
        """Samples goroutines to the end: a window would be full of waits whose end no probe has seen."""
        process, rung = self.process, self.governor.rung
        if not process.steering.paused:
            process.steering.pause()
        process.steering.stop_sampling()
        self._say(f"governor: {error}: from here on the process's memory is sampled")
        process.missing.append(Missing(
            "probes", str(error), "from then on intervals are estimated from samples of its memory", process.process.pid,
        ))
        if rung is not Rung.PROBES:
            self._note(rung, self.governor.give_windows_up())
        process.steering.start_sampling(self._sample_options)

    # -- what it does -------------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        self._before, self._now = self._now, self._meter.read()
        rung = self.governor.rung
        wanted = self.governor.observe(self._now - self._before)
        if wanted is not rung:
            self._go(rung, wanted)
        calm = self.governor.share <= _CALM * self._cap
        self._due = time.monotonic_ns() + (_CALM_TICK_NS if calm else _TICK_NS)

    # -- acting --------------------------------------------------------------------------------------------------------

    def _go(self, rung: Rung, wanted: Rung) -> None:
        self._note(rung, wanted)
        process = self.process
        if wanted >= Rung.SINGLE > rung:
            process.steering.sample(SAMPLE_NS)
        elif wanted < Rung.SINGLE <= rung:
            process.steering.sample(0)
        if not process.steering.paused and (wanted >= Rung.CONTINUITY or Rung.STARTS in (rung, wanted)):
            process.steering.pause()
        if wanted is Rung.PROBES:
            process.steering.start_sampling(self._sample_options)
        elif wanted is Rung.CONTINUITY:
            self._since = self._before  # the cost that led to this is to be repaid as well
            self._windowed = False
            process.steering.stop_sampling()
        elif process.steering.paused:  # lean: different programs over the same tables, in a window of their own
            process.steering.resume(0, lean=wanted is Rung.STARTS)
        if wanted < Rung.STARTS:
            stages = stages_on(wanted) & self._had
            process.steering.leave_out(process.tracer.probes.stages - stages)
            more = stages - process.tracer.probes.stages
            if more:
                process.steering.take_up(more)
        self._now = self._meter.read()

    def _note(self, rung: Rung, wanted: Rung) -> None:
        now, share = time.monotonic_ns(), self.governor.share
        self._on_rungs[rung] += now - self._entered
        self._entered = now
        process = self.process
        self._steps.append(GovernorStep(now - process.start_ns, process.process.pid, wanted.name.lower(), share))
        self._say(
            f"governor: tracing PID {process.process.pid} cost {100 * share:.2g} % of its own CPU time, or of one CPU "
            f"(cap {100 * self._cap:g} %): from here on {RUNG_TEXT[wanted]}"
        )

    def _close_window(self) -> None:
        governor, process = self.governor, self.process
        inside = self._meter.read() - self._opened
        process.steering.pause()
        self._now = self._meter.read()
        if governor.observe(inside, (self._now - self._since).elapsed_ns) is not Rung.CONTINUITY:
            # From the next window on, which has no end, traced as on that rung.
            self._note(Rung.CONTINUITY, governor.rung)
            self._open(0)
        else:
            self._due = 0

    def _maybe_resume(self) -> None:
        governor = self.governor
        self._now = self._meter.in_pause(self._now)
        since = self._now - self._since
        late = since.elapsed_ns >= LONGEST_PAUSE_NS
        if governor.repaid(since) or late and not self._windowed:
            self._open(governor.window_ns(self._least_ns))
            self._windowed = True
        elif late:
            self._go(Rung.CONTINUITY, governor.give_windows_up())
        else:
            self._due = time.monotonic_ns() + round(_PAUSE_TICK_S * 1e9)

    def _open(self, length_ns: int) -> None:
        self._since = self._now
        self.process.steering.resume(length_ns, lean=self.governor.rung is Rung.STARTS)
        self._opened = self._now = self._meter.read()
        self._due = time.monotonic_ns() + (length_ns or _TICK_NS)

    def finish(self) -> None:
        """The trace is about to end: nothing changes any more, and the costs up to now are final."""
        self._last = self._meter.read()
        self._finished = True

    # -- results -------------------------------------------------------------------------------------------------------

    def whole(self) -> Load:
        """The load since `begin`, up to `finish`."""
        if not self._finished:
            self._last = self._meter.read()
        return self._last - self._first

    def report(self) -> GovernorReport:
        """What was done so far."""
        process, now = self.process, self.process.end_ns or time.monotonic_ns()
        spent = self._on_rungs | {self.governor.rung: self._on_rungs[self.governor.rung] + max(0, now - self._entered)}
        load = self.whole()

        def since(rung: Rung) -> int:
            return sum(ns for at, ns in spent.items() if at >= rung)

        return GovernorReport(
            max_overhead=self._cap, share=load.share, cost_ns=load.cost_ns,
            wakers_off_ns=since(Rung.WAKERS) if Stage.WAKERS in self._had else 0,
            kernel_off_ns=since(Rung.KERNEL) if Stage.KERNEL in self._had else 0,
            sampled_ns=0 if self._sampled_anyway else since(Rung.SINGLE),
            lean_ns=spent[Rung.STARTS], looked_ns=process.steering.looked_ns, paused_ns=process.steering.paused_ns,
            windows=process.window.count,
            unlooked_windows=process.window.parked.partly_read, steps=tuple(self._steps),
        )


def together(regulators: list[Regulator]) -> GovernorReport:
    """One report for all processes of a trace."""
    reports = [regulator.report() for regulator in regulators]
    load = sum((regulator.whole() for regulator in regulators), Load())

    def most(name: str) -> int:
        times: list[int] = [getattr(report, name) for report in reports]
        return max(times)

    return GovernorReport(
        max_overhead=reports[0].max_overhead, share=load.share, cost_ns=load.cost_ns, wakers_off_ns=most("wakers_off_ns"),
        kernel_off_ns=most("kernel_off_ns"), sampled_ns=most("sampled_ns"), lean_ns=most("lean_ns"), looked_ns=most("looked_ns"),
        paused_ns=most("paused_ns"), windows=most("windows"), unlooked_windows=most("unlooked_windows"),
        steps=tuple(sorted((step for report in reports for step in report.steps), key=lambda step: step.at_ns)),
    )
