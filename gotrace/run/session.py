"""The pipeline from left to right: processes, plans, probes, records, stacks, and the sinks that take them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from gotrace.common.errors import GotraceError, Interrupted, UsageError
from gotrace.common.files import check_output
from gotrace.export import format_of
from gotrace.governor.policy import SAMPLE_NS
from gotrace.governor.regulator import Regulator
from gotrace.governor.shares import HostCap
from gotrace.profile.filters import filter_profile, filter_requests
from gotrace.profile.hotspots import find_hotspots
from gotrace.profile.types import Profile
from gotrace.run.accounting import Accounting
from gotrace.run.closing import closing_verdicts
from gotrace.run.handing import Handing
from gotrace.run.loop import Loop, Stop
from gotrace.run.options import AttachOptions
from gotrace.run.outputs import CaptureSink, FileSink, Talk, TimelineSink
from gotrace.run.preparing import Prepared, prepare
from gotrace.run.sinks import Progress, Sink
from gotrace.watch.probed import ProbedProcess
from gotrace.watch.protocol import Watched

_ASSUMED_TRAP_NS = 1000
"""If it can't be measured: twice the cost in a virtual machine."""
_MANY_STACKS = 10_000
"""With at least this many stacks a message says that the end takes a while."""


class Session:
    """One trace from `prepare` to the written outputs. Use as a context manager: leaving it removes every probe. `sinks` get what the trace
    yields, in addition to its outputs; add them before `run`.

    After `run`, `written` are the outputs that exist, `failure` is the first error of a sink or a process (all other outputs are
    complete), and `remarks` are further messages about them, one line each. `host`: a cap that is shared with other sessions.
    """

    def __init__(self, options: AttachOptions, host: HostCap | None = None) -> None:
        self.options, self._host = options, host
        self.sinks: list[Sink] = []
        self.written: list[Path] = []
        self.failure: GotraceError | None = None
        self.remarks: list[str] = []
        self.running = self.ending = False
        """Whether probes have been placed; whether the windows are closed or closing, and the outputs being written."""
        self._prepared = Prepared()
        self._regulators: dict[int, Regulator] = {}
        self._accounting = Accounting(options, self._prepared, self._regulators)
        self._handing = Handing(self._prepared.processes, self._regulators, self._accounting)
        self._stop = Stop()

    def __enter__(self) -> Session:
        self._cleanup = ExitStack()
        self._cleanup.callback(self._stop.close)
        return self

    def __exit__(self, *error: object) -> None:
        self._cleanup.close()

    @property
    def processes(self) -> list[Watched]:
        """The processes that are traced, after `prepare`."""
        return self._prepared.processes

    @property
    def obstacle(self) -> str:
        """Why tracepoints do not see system calls, "" if they do."""
        return self._prepared.obstacle

    @property
    def capture(self) -> CaptureSink | None:
        """The sink that writes the capture, once it exists."""
        return self._handing.capture

    def stop(self) -> None:
        """Ends the trace normally: outputs are written. May be called from a signal handler."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def use_outputs(self, outputs: tuple[str, ...]) -> None:
        """Sets the outputs of a session that was prepared without any."""
        for output in outputs:
            check_output(Path(output), self.options.force)
        self.options = replace(self.options, outputs=outputs)

    def prepare(self) -> None:
        """Opens, plans, checks and loads; attaches nothing yet.

        Raises:
            GotraceError: an option, an output, the host or a process does not allow the trace.
        """
        options = self.options
        if len(set(options.pids)) != len(options.pids):
            raise UsageError("a pid was given twice")
        for output in options.outputs:
            if output != "-":
                format_of(output)
                check_output(Path(output), options.force)
        prepare(options, self._prepared, self._cleanup)

    def run(
        self, started: Callable[[list[str]], None] | None = None, progress: Callable[[Progress], None] | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> Profile:
        """Attaches, traces until the duration is over, `stop` is called or every process has ended, and writes the outputs.

        `started` is called once the window is open, with one line for each stage known to be missing and each note; later ones are in the
        profile. `notice` gets one line for each change that the governor makes.

        Raises:
            GotraceError: a process can't be attached to, or the capture can't be created. What can't be written later is in `failure`.
            Interrupted: stopped before anything was recorded.
            KeyboardInterrupt: a signal handler raised it as the trace ended; the capture has what was committed.
        """
        if self._stop.is_set():
            raise Interrupted("interrupted before anything was recorded")
        self.running = True
        handing, options = self._handing, self.options
        for process in self.processes:
            process.attach()
        self._add_sinks(Talk(started, progress, notice))
        begin = time.monotonic()
        for process in self.processes:
            process.begin()
            if options.governed and isinstance(process, ProbedProcess):
                self._govern(process)
        self._accounting.begin(begin)
        handing.sinks.opened(handing.profile(complete=False))
        for sink, error in handing.sinks.failures:
            if sink is handing.capture:
                raise error  # before anything was traced
        try:
            loop = Loop(self.processes, self._regulators, self._accounting, handing, self._stop, options.stands_back)
            loop.follow(options.duration_ns)
            self.ending = True
            return self._end()
        except KeyboardInterrupt:
            handing.sinks.interrupted()
            raise

    def _add_sinks(self, talk: Talk) -> None:
        options, handing = self.options, self._handing
        captures = [output for output in options.outputs if output.endswith(".gotrace")]
        if captures:  # before `talk`, which says that the trace runs: if it is killed from then on, the capture is valid
            handing.capture = CaptureSink(Path(captures[0]), options.force, self._stop.set, talk.notice)
            handing.sinks.add(handing.capture)
        if options.keeps_singles:
            handing.timeline = TimelineSink()
            handing.sinks.add(handing.timeline)
        self._files = [
            FileSink(Path(output), options.runtime, options.force) for output in options.outputs
            if output != "-" and not output.endswith(".gotrace")
        ]
        for sink in (*self._files, *self.sinks, talk):
            handing.sinks.add(sink)

    def _govern(self, process: ProbedProcess) -> None:
        options, cap = self.options, self.options.max_overhead / 100
        share = self._host.join(cap) if self._host is not None else None
        if share is not None:
            self._cleanup.callback(share.leave)
        regulator = Regulator(
            process, cap, self._prepared.trap_ns or _ASSUMED_TRAP_NS, self._prepared.timed, self._handing.sinks.notice,
            options.for_samples(), options.sample_period_ns >= SAMPLE_NS, options.windows, share,
        )
        regulator.begin()
        self._regulators[process.process.pid] = regulator

    def _end(self) -> Profile:
        """Closes the windows, writes the outputs. Takes long if there are many stacks, and may be interrupted anywhere."""
        handing, sinks, capture = self._handing, self._handing.sinks, self.capture
        stacks = sum(len(process.stacks()) for process in self.processes)
        if stacks > _MANY_STACKS:
            then = ", with the capture as it was committed last" if capture is not None else ""
            sinks.notice(f"writing {stacks:,} stacks; Ctrl-C ends at once{then}")
        for regulator in self._regulators.values():
            regulator.finish()
        for process in self.processes:
            handing.last_batch(process)
            self.failure = self.failure or process.failure
        profile = handing.profile(complete=True)
        if self.options.verdicts:
            profile.verdicts, notes = closing_verdicts(self.processes)
            profile.notes += notes
        sinks.closed(profile)
        if profile.requests:
            profile = filter_requests(profile, self.options.band, self.options.slower_than_ns)
        elif self.options.band is not None or self.options.slower_than_ns:
            profile.notes.append("no request ended in the window: --band and --slower-than have nothing to choose from")
        profile.hotspots = find_hotspots(profile, self.options.hot)
        profile = filter_profile(profile, self.options.states, self.options.reasons, self.options.match)
        sinks.write(profile)
        self.failure = self.failure or next((error for _sink, error in sinks.failures), None)
        if capture is not None:
            self.written += [capture.path] * capture.written
            self.remarks += filter(None, [capture.remark])
        self.written += [file.path for file in self._files if file.written]
        return profile


def default_outputs(process: Watched, now: datetime) -> tuple[str, str]:
    """The capture and the flame graph that a trace without -o writes to the current directory."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", process.process.comm)[:32] or "go"
    stem = f"gotrace-{safe}-{process.process.pid}-{now:%Y%m%dT%H%M%S}"
    return f"{stem}.gotrace", f"{stem}.html"
