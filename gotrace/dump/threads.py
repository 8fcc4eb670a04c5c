"""What the threads of goroutines sleep in, if Go takes these for running or in a system call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.records import RawStack
from gotrace.live.gstruct import Head, Status
from gotrace.live.scan import Scanner
from gotrace.watch.inprogress.blocked import Asleep, asleep, asleep_thread, stack_of_thread, thread_numbers
from gotrace.watch.target import OpenTarget

_TRIES = 8
_PER_THREAD = 4
"""So many goroutines in the kernel are asked about, at most, for each thread: a sound process has no more of them than threads."""


class Sleeping(NamedTuple):
    """What a goroutine's thread sleeps in, and, if Go takes the goroutine for running, its stack by the thread's registers."""

    call: Asleep
    own: RawStack | None


class ThreadsAsleep:
    """The threads of one process. `forked`: it is a forked copy, which lacks most of the threads that Go knows."""

    def __init__(self, target: OpenTarget, scanner: Scanner, kernel: KernelSymbols, forked: bool) -> None:
        self._target, self._scanner, self._kernel = target, scanner, kernel
        self._memory, self._at_procid = target.memory, target.binary.layout.m_procid
        self._there: dict[int, int] | None = thread_numbers(target.process.pid) if forked else None

    def lacks(self, head: Head) -> bool:
        """Whether the goroutine's thread does not exist."""
        offset = self._at_procid
        return self._there is not None and offset is not None and self._memory.u64(head.m + offset) not in self._there

    def asleep(self, indexes: Sequence[int]) -> dict[int, Sleeping]:
        """For goroutines whose thread sleeps in the kernel, by index."""
        offset, pid = self._at_procid, self._target.process.pid
        if offset is None or not indexes:
            return {}
        self._kernel.load()  # takes so long that a goroutine which the runtime preempts would be on another thread by then
        tids = thread_numbers(pid)
        found: dict[int, Sleeping] = {}
        for index in indexes[: _PER_THREAD * len(tids)]:
            head = self._scanner.heads[index]
            if head.status != Status.RUNNING:
                number = self._memory.u64(head.m + offset)
                tid = tids.get(number, 0) if number else 0
                call = asleep_thread(pid, tid, self._kernel) if tid else None
                if call is not None and call.sleep is not None:
                    found[index] = Sleeping(call, None)
                continue
            for _ in range(_TRIES):
                running = self._asleep_as_it_runs(self._scanner.address(index), head, tids)
                if running is not None:
                    found[index] = running
                    break
        return found

    def _asleep_as_it_runs(self, address: int, head: Head, tids: dict[int, int]) -> Sleeping | None:
        """As of now: the runtime preempts every 10 ms who does not seem to come back, and another thread runs it then."""
        pid, offset = self._target.process.pid, self._at_procid
        before = self._target.reader.read([address])
        if offset is None or not before or (before[0].goid, before[0].status) != (head.goid, Status.RUNNING):
            return None
        number = self._memory.u64(before[0].m + offset)
        tid = tids.get(number, 0) if number else 0
        call = asleep_thread(pid, tid, self._kernel) if tid else None
        if call is None or call.sleep is None:
            return None
        now = self._target.reader.read([address])
        if not now or (now[0].goid, now[0].status, now[0].m) != (head.goid, Status.RUNNING, before[0].m):
            return None
        own = stack_of_thread(self._target.reader, now[0], call.sleep)
        again = asleep(pid, tid)
        return Sleeping(call, own) if again is not None and again.place == call.sleep.place else None
