"""Threads that blocked, or began to wait for a CPU, before the tracepoints were live: no tracepoint saw the start."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field

from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.records import BlockedThread, RunnableThread
from gotrace.kernel.tracer import Tracer
from gotrace.live.gstruct import Status
from gotrace.profile.types import Missing
from gotrace.watch.inprogress.blocked import (
    blocked_threads,
    is_halted,
    kernel_names,
    sees_kernel_numbers,
    still_blocked,
    threads_times,
)
from gotrace.watch.labels import WantedLabels
from gotrace.watch.target import OpenTarget

_NO_NUMBERS = (
    "threads blocked before the window", "gotrace runs in a PID namespace of its own, where it is not told the kernel's numbers of threads",
    "waits of goroutines that were blocked in the kernel as the window opened, and have not come back in it: such a goroutine may be in no"
    " row, or pass for running",
)
_HALTED = "the process was stopped (by a signal, a debugger or a cgroup's freezer) as the window opened"


@dataclass
class Noted:
    """What `EarlierThreads.note` found, and when it began to ask (CLOCK_MONOTONIC ns)."""

    since_ns: int
    blocked: list[BlockedThread] = field(default_factory=list)
    runnable: list[RunnableThread] = field(default_factory=list)


class EarlierThreads:
    """The earlier threads of one process. `by_calls`: probes on Go's side see system calls. `unread` counts threads whose stacks could not
    be read; `tgid` is the kernel's own number of the process, 0 if it is not known."""

    def __init__(
        self, target: OpenTarget, tracer: Tracer, symbols: KernelSymbols, by_calls: bool, labels: WantedLabels | None = None
    ) -> None:
        self.unread = 0
        self.tgid = target.process.pid if sees_kernel_numbers() else 0
        self.notes: list[str] = []
        self._pid = target.process.pid
        self._reader = target.reader
        self._tracer = tracer
        self._symbols = symbols
        self._labels = labels
        self._asks = tracer.sees_threads or by_calls

    def missing(self) -> list[Missing]:
        """What the figures lack where threads can't be asked."""
        return [Missing(*_NO_NUMBERS, self._pid)] if self._asks and not self.tgid else []

    def note(self) -> Noted:
        """Asks what the threads do, before the tracepoints are live. Notes the CPU time so far of those that do not sleep in the kernel."""
        noted = Noted(time.monotonic_ns())
        if not self.tgid or not self._asks:
            return noted
        pid, earlier = self._pid, self._tracer.tables.earlier
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            for thread in blocked_threads(pid, self._reader, self._symbols, self._tracer.sees_threads):
                if isinstance(thread, RunnableThread):
                    noted.runnable.append(thread)
                else:
                    self._put_labels(thread)
                    earlier.add_blocked(thread, noted.since_ns)
                    noted.blocked.append(thread)
            if self._tracer.sees_threads:
                if is_halted(pid, kernel_names(pid, pid)):
                    earlier.add_halt(pid, noted.since_ns)
                runnable = {thread.tid: thread for thread in noted.runnable}
                for tid, (cpu_ns, _waited_ns) in threads_times(pid).items():
                    one = runnable.get(tid)
                    earlier.add_thread_base(tid, cpu_ns, *((one.g, one.goid) if one is not None else ()))
        return noted

    def _put_labels(self, thread: BlockedThread) -> None:
        if self._labels is not None:
            self._labels.put_labelled(thread.g, self._tracer.tables.writer)

    def check(self, noted: Noted, opened_ns: int) -> None:
        """Corrects `noted` once the tracepoints are live, since `opened_ns`: takes back threads that had moved on before, and adds those
        that went to sleep after they were asked. What happened after that the kernel side has seen."""
        pid, earlier = self._pid, self._tracer.tables.earlier
        asleep = set()
        for thread in noted.blocked:
            if still_blocked(pid, thread):
                self.unread += thread.stack.unreadable
                asleep.add(thread.tid)
            else:
                earlier.forget_blocked(thread.tid, noted.since_ns)
        self._note_latecomers(asleep, opened_ns)
        with contextlib.suppress(ProcessLookupError):
            now = self._reader.read([thread.g for thread in noted.runnable])
            running = {found.address for found in now if found.status in (Status.RUNNING, Status.SYSCALL)}
            for queued in noted.runnable:
                if queued.g not in running:
                    earlier.forget_queued(queued.tid)
        if earlier.is_halted_since(noted.since_ns):
            if is_halted(pid, kernel_names(pid, pid)):
                self.notes.append(_HALTED)
            elif earlier.is_halted_since(noted.since_ns):
                earlier.forget_halt()

    def _note_latecomers(self, known: set[int], opened_ns: int) -> None:
        """Notes threads other than `known` that sleep and that no tracepoint has seen yet."""
        if not self.tgid or not self._asks:
            return
        pid, earlier = self._pid, self._tracer.tables.earlier
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            for thread in blocked_threads(pid, self._reader, self._symbols, self._tracer.sees_threads):
                if isinstance(thread, RunnableThread) or thread.tid in known:
                    continue
                self._put_labels(thread)
                if not earlier.add_blocked_late(thread, opened_ns):
                    continue
                if still_blocked(pid, thread):
                    self.unread += thread.stack.unreadable
                else:
                    earlier.forget_blocked(thread.tid, opened_ns)
