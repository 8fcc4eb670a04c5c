"""Reads the scheduler of a process from outside: `gotrace sched`. No probe, no signal: memory and /proc."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timezone

from gotrace.common.errors import TargetGone
from gotrace.live.goroutines import Goroutine
from gotrace.live.gstruct import Status
from gotrace.live.states import States, states_of
from gotrace.model.syscalls import syscall_name
from gotrace.proc.cgroups import groups_of, quota_of
from gotrace.proc.process import read_short
from gotrace.sched.tables import Tables, Thread
from gotrace.sched.types import Goroutines, Snapshot
from gotrace.watch.inprogress.blocked import asleep, thread_numbers
from gotrace.watch.target import OpenTarget, open_target

_WITH_THREAD = frozenset((Status.RUNNING, Status.SYSCALL))
_RUNNING = (Status.RUNNING, Status.COPYSTACK)
_WAITING = (Status.WAITING, Status.PREEMPTED, Status.LEAKED)
_MOST_ASKED = 4096
"""How many threads are asked for their system call; the others are left out."""
OTHER_CALL = "other"
"""Stands for the system calls of threads that were not asked."""


class SchedReader:
    """The scheduler of process `pid`, which stays open until `close`. `target`: the process where it is open already; it must stay so, and
    `close` need not be called. `quota_group`: the control group with the quota, as `gotrace.proc.cgroups.Quota` has it, since the last
    reading.

    Raises:
        Refused, TargetGone, BadBinary: it can't be read.
    """

    def __init__(self, pid: int, target: OpenTarget | None = None) -> None:
        self._target: OpenTarget = target or open_target(pid, f"sudo gotrace sched {pid}")
        self._pid = pid
        self._tables = Tables(self._target)
        self._numbers: dict[int, int] = {}
        self.quota_group: tuple[int, int] = (0, 0)

    def close(self) -> None:
        """Closes the process."""
        self._target.close()

    def name(self) -> str:
        """The process's name, with its pid and Go version."""
        about = self._target.describe()
        return f"{about.comm} (pid {about.pid}) · {about.go_version}"

    def nothing(self) -> Snapshot:
        """A reading of now in which nothing is known."""
        return Snapshot(datetime.now(timezone.utc).astimezone().isoformat(timespec="milliseconds"), syscall_threads=None)

    def read(self) -> Snapshot:
        """Reads everything, each table as of its own moment.

        Raises:
            TargetGone: the process has ended.
        """
        try:
            if not self._target.process.alive():
                raise ProcessLookupError
            return self._read()
        except ProcessLookupError:
            raise TargetGone(f"process {self._pid} has ended") from None

    def _read(self) -> Snapshot:
        target, tables = self._target, self._tables
        layout = target.binary.layout
        states = states_of(target.memory, target.binary.allgs + target.bias, layout.g_atomicstatus, _WITH_THREAD)
        busy = target.reader.read(states.addresses) if states is not None else []
        procs, threads = tables.procs(), tables.threads()
        sched = tables.sched(procs, threads, states.counts.total() if states is not None else 0)
        quota = quota_of(groups_of(self._pid))
        self.quota_group = quota.group if quota is not None else (0, 0)
        running = {each.address for each in busy if each.status == Status.RUNNING}
        return replace(
            self.nothing(),
            gomaxprocs=procs.count if procs is not None else None,
            cpu_quota=quota.cpus if quota is not None else None,
            idle_procs=sched.idle_procs if sched is not None else None,
            threads=sched.threads if sched is not None else None,
            spinning_threads=sched.spinning_threads if sched is not None else None,
            idle_threads=sched.idle_threads if sched is not None else None,
            run_queue=sched.run_queue if sched is not None else None,
            local_run_queues=procs.queues if procs is not None else None,
            goroutines=_goroutines(states, busy),
            syscall_threads=self._calls(threads, busy),
            gc=tables.collector(),
            running_threads=sum(thread.goroutine in running for thread in threads) if threads is not None else None,
            cgo_threads=_in_cgo(threads),
            timers=procs.timers if procs is not None else Snapshot("").timers,
            throttled_ns=quota.throttled_ns if quota is not None else None,
        )

    def _calls(self, threads: list[Thread] | None, busy: list[Goroutine]) -> dict[str, int] | None:
        """How many threads sleep in each system call, with a goroutine whose call it is; None if that may not be read."""
        if threads is None or not read_short(f"/proc/{self._pid}/syscall", 512):
            return None
        by_address = {thread.address: thread for thread in threads}
        found: Counter[str] = Counter()
        for asked, goroutine in enumerate(each for each in busy if each.status == Status.SYSCALL and not each.outside_go):
            thread = by_address.get(goroutine.m)
            if thread is None or thread.in_cgo:
                continue
            if asked >= _MOST_ASKED:
                found[OTHER_CALL] += 1
                continue
            sleep = asleep(self._pid, self._own_number(thread.number))
            if sleep is not None and sleep.number >= 0:
                found[syscall_name(sleep.number)] += 1
        return dict(found.most_common())

    def _own_number(self, number: int) -> int:
        """A thread's number as we see it, by the one that the process sees."""
        process = self._target.process
        if process.namespace_pid == process.pid:
            return number
        if number not in self._numbers:
            self._numbers = thread_numbers(process.pid)
        return self._numbers.get(number, 0)


def _goroutines(states: States | None, busy: list[Goroutine]) -> Goroutines:
    if states is None:
        return Goroutines()
    counts = states.counts
    running, waiting = sum(counts[state] for state in _RUNNING), sum(counts[state] for state in _WAITING)
    # A thread of C that is outside Go has a g in that state (runtime/proc.go: oneNewExtraM).
    calls = max(0, counts[Status.SYSCALL] - sum(each.outside_go for each in busy))
    runnable = counts[Status.RUNNABLE]
    return Goroutines(running + runnable + waiting + calls, running, runnable, waiting, calls)


def _in_cgo(threads: list[Thread] | None) -> int | None:
    if threads is None or any(thread.in_cgo is None for thread in threads):
        return None
    return sum(bool(thread.in_cgo) for thread in threads)
