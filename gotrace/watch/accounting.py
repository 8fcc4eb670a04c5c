"""Where a process's time went: its CPU time, and how long its goroutines had a CPU."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from gotrace.common.vocabulary import Loss, Stat
from gotrace.kernel.tables import Tables
from gotrace.proc.machine import stolen_ns
from gotrace.watch.inprogress.blocked import threads_times
from gotrace.watch.target import cpu_time_ns, is_possible


@dataclass(frozen=True)
class Account:
    """A goroutine's time since the window began, in ns. `partial`: it was created in the window, or ended in it."""

    g: int
    run_ns: int
    off_ns: int
    partial: bool


class CpuClock:
    """CPU time of a process since `begin`, and what a hypervisor took from the whole machine meanwhile."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._start_ns = self._used_ns = self._stolen_before_ns = self._stolen_ns = 0
        self._frozen = False

    def begin(self) -> None:
        """Starts the clock, just before the window opens."""
        self._start_ns, self._stolen_before_ns = cpu_time_ns(self._pid), stolen_ns()

    def used_ns(self) -> int:
        """CPU time since `begin`, as of the process's last sign of life; after `freeze` it no longer changes."""
        if not self._frozen:
            self._used_ns = max(self._used_ns, cpu_time_ns(self._pid) - self._start_ns)
        return self._used_ns

    def stolen_ns(self) -> int:
        """Of all CPUs, between `begin` and `freeze`; 0 before that."""
        return self._stolen_ns

    def freeze(self) -> None:
        """Stops the clock: the window is over."""
        if not self._frozen:
            self._stolen_ns = max(0, stolen_ns() - self._stolen_before_ns)
        self._frozen = True


class RunningTime:
    """The CPU time of a process in its window, and `running_ns`, for how long its goroutines had a CPU: None before the end, and where the
    CPU time shows that it can't be right, which is one of the `losses`."""

    def __init__(self, pid: int, losses: dict[Loss, int]) -> None:
        self.cpu = CpuClock(pid)
        self.running_ns: int | None = None
        self._losses = losses

    def end(self) -> None:
        """The window is over: takes the CPU time a last time."""
        self.cpu.used_ns()
        self.cpu.freeze()

    def settle(self, running_ns: int) -> None:
        """Takes what was counted of its goroutines."""
        possible = is_possible(running_ns, self.cpu.used_ns(), self.cpu.stolen_ns())
        self.running_ns = running_ns if possible else None
        if not possible:
            self._losses[Loss.RUNNING_UNKNOWN] = 1


class RunQueueClock:
    """How long the threads of a process wait for a CPU."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before: dict[int, tuple[int, int]] = {}

    def begin(self) -> None:
        """Starts the clock, just before the window opens."""
        self._before = threads_times(self._pid)

    def share(self) -> float:
        """The share of the time since `begin` in which threads could run but had no CPU."""
        had = waited = 0
        for tid, (cpu_ns, waited_ns) in threads_times(self._pid).items():
            before = self._before.get(tid, (0, 0))
            had, waited = had + max(0, cpu_ns - before[0]), waited + max(0, waited_ns - before[1])
        return waited / (had + waited) if had + waited else 0.0


def accounts(tables: Tables, start_ns: int, end_ns: int, ended: Container[int]) -> tuple[list[Account], int]:
    """The accounts of all goroutines, and how long they ran in total, in the window from `start_ns` to `end_ns`. `ended` are g structs
    whose goroutine has exited: when it last ran was not seen."""
    opened, _known, _unseen = tables.read_open()
    since = {thread.g: thread.out_ns for thread in tables.read_open_threads()}
    since |= {g: interval.start_ns for g, interval in opened.items()}
    running_ns, found = tables.read_stats()[Stat.RUN_NS], []
    for entry in tables.read_running():
        present = max(0, end_ns - entry.since_ns) if entry.since_ns and entry.g not in ended else 0
        off = entry.off_ns + (max(0, end_ns - max(since[entry.g], start_ns)) if entry.g in since else 0)
        running_ns += present
        found.append(Account(entry.g, entry.run_ns + present, off, entry.partial))
    return found, running_ns
