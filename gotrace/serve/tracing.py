"""One process that gotrace serve traces: a thread that runs one trace after another, and what is known of it."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from gotrace.common.errors import GotraceError, TargetGone
from gotrace.governor.shares import HostCap
from gotrace.host.choice import shown_name
from gotrace.proc.cgroups import container_of, groups_of, main_path
from gotrace.proc.memory import has_ended, living_thread
from gotrace.proc.pods import Whereabouts
from gotrace.proc.process import read_short
from gotrace.profile.types import Profile, StackStat, Target
from gotrace.run.options import AttachOptions
from gotrace.run.session import Session
from gotrace.sched.types import Snapshot
from gotrace.serve.expressions import LONGEST_NS
from gotrace.serve.hour import Hour
from gotrace.serve.options import ServeOptions
from gotrace.serve.recorder import Recorder
from gotrace.serve.ring import Ring
from gotrace.serve.scheduler import SchedWatch
from gotrace.serve.slices import slice_of
from gotrace.serve.steps import Step
from gotrace.serve.totals import Labels, Totals
from gotrace.serve.triggers import Deadlock, Fired, Judge, Now
from gotrace.watch.probed import ProbedProcess

EVENTS_OVER_NS = 100_000_000
"""Single intervals of at least this length are kept."""
HISTORY_LEAST = 2 << 20
"""Bytes for what happened in one process, by which the causes of its requests are found."""
_RING_BYTES = 1 << 20
"""For some 5,000 single intervals that are as long as that, at once."""
_AGAIN_S, _AGAIN_MOST_S = 1.0, 300.0
_MESSAGES = 20


class Condition(str, Enum):
    """How a target is."""

    STARTING = "starting"
    TRACING = "tracing"
    REFUSED = "refused"
    STOPPED = "stopped"
    ENDED = "ended"


@dataclass(frozen=True)
class Identity:
    """What tells a process and its program from others: a pid is used again, and exec puts another program into the process."""

    pid: int
    started: int
    executable: tuple[int, int]


def identity_of(pid: int) -> Identity | None:
    """What tells the process from others now, None if it is gone. Its main thread may have ended (pthread_exit in main): others have what
    /proc does not tell of that one any more."""
    stat = read_short(f"/proc/{pid}/stat")
    if b")" not in stat:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    with suppress(OSError, IndexError, ValueError):
        executable = os.stat(f"/proc/{living_thread(pid) if has_ended(fields) else pid}/exe")
        return Identity(pid, int(fields[19]), (executable.st_dev, executable.st_ino))
    return None


class Traced:
    """The process; `start` begins. `before`: an earlier one of the same process, to go on with. `fired` is called with what triggers fire,
    by the thread that runs the trace. `condition` and `why` say how it is, `since` since when (time.time); `messages` are what there was
    to say, with their time. `cap`: what tracing may cost all processes together. `history_bytes` may be set at any time."""

    def __init__(
        self, identity: Identity, options: ServeOptions, totals: Totals, fired: Callable[[Traced, list[Fired]], None],
        before: Traced | None = None, cap: HostCap | None = None,
    ) -> None:
        self.identity = identity
        self.pid = identity.pid
        groups = groups_of(identity.pid)
        container = container_of(groups)
        self.container, self.pod, self.cgroup = container.id, container.pod, main_path(groups)
        self.where = Whereabouts(container.id, container.pod)
        self.name = shown_name(identity.pid)
        self.labels = Labels(self.name, self.container[:12])
        self.ring: Ring = before.ring if before else Ring(max(options.keep_ns, LONGEST_NS if options.triggers else 0), options.keep_bytes)
        self.hour: Hour = before.hour if before else Hour()
        self.condition, self.why, self.since = Condition.STARTING, "", time.time()
        self.recorder: Recorder | None = before.recorder if before else None
        self.traces, self.rung, self.history_bytes = 0, "", HISTORY_LEAST
        self.deadlock = Deadlock()
        self.messages: deque[tuple[float, str]] = before.messages if before else deque(maxlen=_MESSAGES)
        self.target: Target | None = before.target if before else None
        self._options, self._totals, self._fired, self._cap = options, totals, fired, cap
        self._judge: Judge = before._judge if before else Judge(options.triggers, options.cooldown_ns)
        self.scheduler = SchedWatch(self.pid, totals, self.labels)
        self._session: Session | None = None
        self._wake = threading.Event()
        self._over, self._at_exit = threading.Event(), False
        self._lock = threading.Lock()
        self._dropped = self.ring.dropped_ns, self.ring.dropped_waits
        self._thread = threading.Thread(target=self._run, name=f"trace-{identity.pid}", daemon=True)

    def profile(self, begin_ns: int, until_ns: int) -> Profile | None:
        """What is kept of that time (CLOCK_MONOTONIC), None if nothing is. Of a process that has ended, times after its end mean as long a
        time before it."""
        known, ended_ns = self.recorder.known if self.recorder is not None else None, self.ring.span[1]
        if not self.alive and until_ns > ended_ns:
            begin_ns, until_ns = begin_ns - (until_ns - ended_ns), ended_ns
        return slice_of(self.ring, known, begin_ns, until_ns) if known is not None else None

    @property
    def sched(self) -> Snapshot | None:
        """What was last read of its scheduler."""
        return self.scheduler.snapshot

    def start(self) -> None:
        """Begins to trace."""
        self._thread.start()

    def stop(self, at_exit: bool = False) -> None:
        """Ends it; does not wait. `at_exit`: gotrace ends as well, so that its memory need not be given back."""
        with self._lock:
            self._at_exit |= at_exit
            self._over.set()
            self._wake.set()
            if self._session is not None and not self._session.stopping:
                self._session.stop()

    def retry(self) -> None:
        """Tries again at once if it was refused."""
        self._wake.set()

    def save_memory(self) -> None:
        """Frees what is only there to save time."""
        self._judge.forget()

    def join(self, timeout_s: float) -> bool:
        """Waits for its end; returns whether it has come."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether it is, or may be, traced."""
        return self._thread.is_alive()

    def _say(self, text: str) -> None:
        self.messages.append((time.time(), text))

    def _become(self, condition: Condition, why: str = "") -> None:
        if condition is not self.condition:
            self.since = time.time()
        self.condition, self.why = condition, why

    # -- the thread --------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        again_s = 0.0
        while not self._over.is_set():
            try:
                self._trace()
                again_s = 0.0
            except TargetGone as error:
                self._become(Condition.ENDED, str(error))
                break
            except GotraceError as error:  # it may not have started yet, or what the system is short of may be there again
                self._become(Condition.REFUSED, str(error))
                self._say(str(error))
                again_s = min(_AGAIN_MOST_S, max(_AGAIN_S, 2 * again_s))
            except Exception as error:  # one target is not to end the others
                self._become(Condition.REFUSED, f"internal error: {type(error).__name__}: {error}")
                self._say(self.why)
                again_s = _AGAIN_MOST_S
            _free(self._at_exit)
            if again_s:
                self._wake.wait(again_s)
                self._wake.clear()
        _free(self._at_exit)
        if self.condition is not Condition.ENDED:
            self._become(Condition.STOPPED)

    def _trace(self) -> None:
        """Runs one trace.

        Raises:
            TargetGone: the process has ended.
            GotraceError: it can't be traced.
        """
        options = self._options
        if identity_of(self.pid) not in (self.identity, None):
            raise TargetGone(f"process {self.pid} has ended, or runs another program")
        attach = AttachOptions(
            (self.pid,), duration_ns=0, max_overhead=options.max_overhead, requests=options.requests, spans=options.spans,
            exemplars=options.exemplars, events_over_ns=EVENTS_OVER_NS, stands_back=False, windows=False,
            objects=options.detail.objects, labels=options.detail.labels, fold_ports=True, ring_bytes=_RING_BYTES,
        )
        with Session(attach, self._cap) as session:
            with self._lock:
                if self._over.is_set():
                    return
                self._session = session
            try:
                session.prepare()
                process = session.processes[0]
                self.target = process.describe()
                process.target.binary.image.leave_in_file(process.target.process.exe_fd)
                if isinstance(process, ProbedProcess):
                    self.scheduler.begin(process.target)
                session.sinks.append(self._next_recorder(lambda profile: self._mind(session, profile)))
                self.traces += 1
                self._totals.note(self.labels, traces=1)
                if not session.stopping:
                    session.run(lambda _told: self._become(Condition.TRACING), None, self._say)
                gone = process.execed
            finally:
                self.scheduler.end()
                if self.recorder is not None:
                    self.recorder.release()
                with self._lock:
                    self._session = None
            if session.failure is not None:
                raise session.failure
            if gone and not self._over.is_set():
                raise TargetGone(f"process {self.pid} has ended, or runs another program")

    def _next_recorder(self, mind: Callable[[Profile], None]) -> Recorder:
        """That of the next trace. Until it begins, what is kept of those before it can be had."""
        recorder = Recorder(self.ring, self._stepped, mind)
        if self.recorder is not None:
            recorder.known = self.recorder.known
        self._judge.forget()
        self.recorder = recorder
        return recorder

    def _mind(self, session: Session, profile: Profile) -> None:
        """Called at each step, before it."""
        self.scheduler.tick()
        if profile.governor is not None:
            self.rung = profile.governor.steps[-1].rung if profile.governor.steps else "everything"
        oldest_ns = time.monotonic_ns() - self.ring.keep_ns
        for process in session.processes:
            if isinstance(process, ProbedProcess):
                process.forget_requests(oldest_ns, self.history_bytes)

    def _stepped(self, step: Step) -> None:
        """Called with each step."""
        self._totals.add(self.labels, step)
        self.hour.add(step, self.sched)
        dropped = self.ring.dropped_ns, self.ring.dropped_waits
        if dropped != self._dropped:
            more = dropped[0] - self._dropped[0], dropped[1] - self._dropped[1]
            self._totals.note(self.labels, dropped_ns=more[0], dropped_waits=more[1])
            self._dropped = dropped
        if (recorder := self.recorder) is None:
            return
        if self._options.triggers:
            fired = self._judge.judge(self._now(step, recorder.ongoing))
            if fired:
                self._fired(self, fired)
        if recorder.renew:
            with self._lock:
                if self._session is not None and not self._session.stopping:
                    self._session.stop()

    def _now(self, step: Step, ongoing: Sequence[StackStat]) -> Now:
        steps, _, _ = self.ring.since(step.end_ns - LONGEST_NS)
        return Now(step.end_ns, steps, ongoing, self.sched, self.scheduler.growth.ns, list(self.scheduler.throttled), self.deadlock)


def _free(at_exit: bool) -> None:
    """A trace is full of cycles, and holds the whole executable. The search for them takes long: not as gotrace ends."""
    if not at_exit:
        gc.collect()
