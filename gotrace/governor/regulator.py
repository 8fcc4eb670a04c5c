"""Caps the cost of one traced process: measures, asks the governor, and does what it says."""

from __future__ import annotations

import time
from collections.abc import Callable

from gotrace.common.errors import GotraceError
from gotrace.common.vocabulary import Stage
from gotrace.governor.load import LoadMeter
from gotrace.governor.policy import LONGEST_PAUSE_NS, SAMPLE_NS, WINDOWED, Governor, Load, Rung, stages_on
from gotrace.governor.record import GovernorRecord
from gotrace.governor.shares import Share
from gotrace.kernel.placing import ProbesDoNotArrive
from gotrace.profile.types import GovernorReport, Missing
from gotrace.watch.probed import ProbedProcess
from gotrace.watch.sampled import SampleOptions

_TICK_NS, _CALM_TICK_NS = 50_000_000, 100_000_000
_CALM = 0.7
"""As a share of the cap: below this, the cost is measured less often, because measuring has a cost of its own."""
_SLACK_NS = 10_000_000
"""How early work may be done to avoid waking up twice."""
_PAUSE_TICK_S = 0.02
_FOLLOW_TICK_NS = 10_000_000
_CLOSING_NS = 500_000_000
"""A window is closed in time if nothing long is begun so shortly before its end."""
_SERVED, _SERVED_PER_S = 3, 1.0
"""A target serves requests if it has had more than so many, and as many a second."""
_WINDOWS_PER_BLOCK = 4
"""With --min-block, for how many such waits a window has room."""


class Regulator:
    """The governor of one process. `trap_ns`: the cost of a hit without its program, measured on this host. `timed`: the kernel times
    programs. `say` gets one line for each change. `sample_options`: how to sample goroutines without probes. `windows`: there may
    be windows with pauses between them; else memory is sampled in their place, if it can be. `share`: its part of a cap of the host.

    Call `begin` when the window opens, then `tick` whenever it says, `finish` at the end, `report` at any time.
    """

    def __init__(
        self, process: ProbedProcess, cap: float, trap_ns: int, timed: bool, say: Callable[[str], None], sample_options: SampleOptions,
        sampled_anyway: bool = False, windows: bool = True, share: Share | None = None,
    ) -> None:
        self.process, self._share = process, share
        self._cap = cap
        self._meter = LoadMeter(process, trap_ns, timed)
        self._say = say
        self._least_ns = _WINDOWS_PER_BLOCK * sample_options.min_block_ns
        self._sample_options = sample_options
        self._windowed = False
        self._sampled_anyway, self._windows = sampled_anyway, windows
        self._record = GovernorRecord(process, cap, say, sampled_anyway)
        self._broken = self._finished = False

    def begin(self) -> None:
        """Starts it, once the window is open."""
        process = self.process
        stages = self._had = process.tracer.probes.stages
        self.governor = Governor(self._cap, _rungs_for(process, stages, self._sampled_anyway, self._windows))
        self._now = self._first = self._last = self._before = self._since = self._opened = self._meter.read()
        self._began = self._record.begin()
        self._limit = 0
        self._due = self._began + _TICK_NS

    @property
    def record(self) -> GovernorRecord:
        """What it has done up to now."""
        return self._record

    @property
    def in_window(self) -> bool:
        """Whether a window is open that should be closed soon, and in time."""
        if self.governor.rung not in WINDOWED or self.process.steering.paused:
            return False
        return self.governor.rung is Rung.CONTINUITY or self._due - time.monotonic_ns() < _CLOSING_NS

    def tick(self) -> float:
        """Does what is due; returns the seconds until something is due again."""
        if self._broken:
            return 1.0
        windows = self.governor.rung in WINDOWED
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
        process.steering.detached.stop_sampling()
        if not process.steering.can_be_sampled:
            self._say(f"governor: nothing more is traced: {error}")
            return
        self._say(f"governor: {error}: from here on the process's memory is sampled")
        process.missing.append(Missing(
            "probes", str(error), "from then on intervals are estimated from samples of its memory", process.process.pid,
        ))
        if rung is not Rung.PROBES:
            self.governor.rung = Rung.PROBES
            self._record.note(rung, Rung.PROBES, self.governor.share)
        process.steering.detached.start_sampling(self._sample_options)

    # -- what it does -------------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        self._before, self._now = self._now, self._meter.read()
        rung = self.governor.rung
        self.governor.requests = self.governor.requests or self._serves()
        if self._share is not None:
            self._cap = self.governor.cap = self._record.cap = self._share.observe(self._now, rung is Rung.NOTHING)
        wanted = self.governor.observe(self._now - self._before)
        if wanted is not rung:
            self._go(rung, wanted)
        calm = self.governor.share <= _CALM * self._cap
        self._due = time.monotonic_ns() + (_CALM_TICK_NS if calm else _TICK_NS)

    def _serves(self) -> bool:
        begun = self.process.steering.requests_begun
        return begun > _SERVED and begun * 1e9 >= _SERVED_PER_S * (time.monotonic_ns() - self._began)

    # -- acting --------------------------------------------------------------------------------------------------------

    def _go(self, rung: Rung, wanted: Rung) -> None:
        self._record.note(rung, wanted, self.governor.share)
        process = self.process
        self._set_sampling(rung, wanted)
        if wanted is Rung.REQUESTS and not process.steering.paused:
            # What has been traced so far is a window, too: those that it has taken are followed.
            self._since, self._opened, self._windowed = self._before, self._now, False
            self._limit = time.monotonic_ns() + self.governor.following_ns()
            process.steering.take_no_more_requests()
            self._due = 0
            return
        if not process.steering.paused and (wanted >= Rung.CONTINUITY or Rung.STARTS in (rung, wanted)):
            process.steering.pause()
        if wanted is Rung.PROBES:
            process.steering.detached.start_sampling(self._sample_options)
        elif wanted in WINDOWED:
            self._since = self._before  # the cost that led to this is to be repaid as well
            self._windowed = False
            process.steering.detached.stop_sampling()
        elif process.steering.paused:  # lean: different programs over the same tables, in a window of their own
            process.steering.resume(0, lean=wanted is Rung.STARTS)
        if wanted < Rung.STARTS and wanted not in WINDOWED:
            stages = stages_on(wanted) & self._had
            process.steering.leave_out(process.tracer.probes.stages - stages)
            more = stages - process.tracer.probes.stages
            if more:
                process.steering.take_up(more)
        self._now = self._meter.read()

    def _set_sampling(self, rung: Rung, wanted: Rung) -> None:
        if wanted >= Rung.SINGLE > rung:
            self.process.steering.sample(SAMPLE_NS)
        elif wanted < Rung.SINGLE <= rung:
            self.process.steering.sample(0)

    def _close_window(self) -> None:
        governor, process, rung = self.governor, self.process, self.governor.rung
        if rung is Rung.REQUESTS and time.monotonic_ns() < self._limit and process.steering.requests_left > 0:
            self._due = min(time.monotonic_ns() + _FOLLOW_TICK_NS, self._limit)
            return
        inside = self._meter.read() - self._opened
        process.steering.pause()
        self._now = self._meter.read()
        wanted = governor.observe(inside, (self._now - self._since).elapsed_ns)
        if wanted is not rung:
            self._record.note(rung, wanted, governor.share)
            self._set_sampling(rung, wanted)
        if wanted in WINDOWED:
            self._due = 0
        else:  # from the next window on, which has no end, traced as on that rung
            self._open(0)

    def _maybe_resume(self) -> None:
        governor = self.governor
        self._now = self._meter.in_pause(self._now)
        since = self._now - self._since
        late = since.elapsed_ns >= LONGEST_PAUSE_NS
        if governor.repaid(since) or late and not self._windowed:
            self._open(governor.window_ns(self._least_ns))
            self._windowed = True
        elif late and Rung.PROBES in governor.rungs:
            rung = governor.rung
            self._go(rung, governor.give_windows_up())
        else:
            self._due = time.monotonic_ns() + round(_PAUSE_TICK_S * 1e9)

    def _open(self, length_ns: int) -> None:
        governor, steering = self.governor, self.process.steering
        self._since = self._now
        following_ns = governor.following_ns() if governor.rung is Rung.REQUESTS and length_ns else 0
        stages = stages_on(governor.rung) & self._had if governor.rung < Rung.WAKERS else frozenset((Stage.CORE,))
        steering.resume(length_ns + following_ns, governor.rung is Rung.STARTS, stages, length_ns if following_ns else 0)
        self._opened = self._now = self._meter.read()
        self._due = time.monotonic_ns() + (length_ns or _TICK_NS)
        self._limit = self._due + following_ns

    def finish(self) -> None:
        """The trace is about to end: nothing changes any more, and the costs up to now are final."""
        self._last = self._meter.read()
        self._finished = True

    # -- results -------------------------------------------------------------------------------------------------------

    def whole(self) -> Load:
        """The load from `begin` up to the newest measurement, at most a tick or a window ago; up to `finish` after that."""
        return (self._last if self._finished else self._now) - self._first

    def report(self) -> GovernorReport:
        """What was done so far."""
        return self._record.report(self.governor.rung, self.whole(), self._had)


def _rungs_for(process: ProbedProcess, stages: frozenset[Stage], sampled_anyway: bool, windows: bool) -> tuple[Rung, ...]:
    """The rungs that make a difference to a process of which these stages are traced. `sampled_anyway`: short intervals are; `windows`: as
    for `Regulator`."""
    steering = process.steering
    different = {
        Rung.REQUESTS: windows and Stage.REQUESTS in stages and steering.can_pause, Rung.WAKERS: Stage.WAKERS in stages,
        Rung.KERNEL: Stage.KERNEL in stages, Rung.SINGLE: not sampled_anyway, Rung.STARTS: steering.can_be_lean,
        Rung.CONTINUITY: steering.can_pause and (windows or not steering.can_be_sampled), Rung.PROBES: steering.can_be_sampled,
    }
    return tuple(rung for rung in Rung if different.get(rung, True))


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
        steps_dropped=sum(report.steps_dropped for report in reports),
    )
