"""What the threads of goroutines do in the kernel, which the goroutines' structs do not say."""

from __future__ import annotations

from gotrace.common.vocabulary import StartKind
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.live.gstruct import Head, Heads, Status
from gotrace.watch.inprogress.blocked import Asleep, Sleep, asleep, asleep_thread, thread_numbers
from gotrace.watch.target import OpenTarget

_MOST_CALLS = 64
"""Threads that are asked for their system call in one sample; the others count as in a call of unknown name."""

_REMEMBERED, _TRIES = 4096, 3
"""How many kernel stacks are remembered, and how often a new one is asked for."""


class Threads:
    """The threads of one process. Without `asked` none is asked what it sleeps in. `existing` are the numbers of the threads that really
    exist, in a forked copy of a process; None elsewhere."""

    def __init__(self, target: OpenTarget, symbols: KernelSymbols, asked: bool) -> None:
        self.existing: frozenset[int] | None = None
        self._process = target.process
        self._memory = target.memory
        self._at_procid = target.binary.layout.m_procid
        self._symbols = symbols
        self._asked = asked
        self._numbers: dict[int, int] = {}
        self._kernel_stacks: dict[tuple[int, StartKind, str], tuple[int, ...]] = {}

    def asleep(self, heads: Heads, indexes: list[int]) -> dict[int, Asleep | None]:
        """Returns what each goroutine's thread sleeps in, by index; None if it does not sleep. Asks all threads whose goroutine Go takes
        for running, and a limited number of others."""
        found: dict[int, Asleep | None] = {}
        if not self._asked:
            return found
        in_calls = [index for index in indexes if heads[index].status == Status.SYSCALL]
        for index in [index for index in indexes if heads[index].status == Status.RUNNING] + in_calls[:_MOST_CALLS]:
            tid = self._number(heads[index].m)
            if tid:
                found[index] = asleep_thread(self._process.pid, tid)
        return found

    def sleep(self, head: Head) -> Sleep | None:
        """What the goroutine's thread sleeps in now."""
        return asleep(self._process.pid, self._number(head.m))

    def kernel_stack(self, head: Head, call: Asleep) -> tuple[int, ...]:
        """Where in the kernel the thread sleeps, if it still does; asked once per stay. If the thread has moved since, because the runtime
        preempted its goroutine, returns what was found when the goroutine last slept in the same place."""
        if call.sleep is None:
            return ()
        place = head.goid, call.kind, call.sleep.place
        for _ in range(_TRIES if place not in self._kernel_stacks else 1):
            found = asleep_thread(self._process.pid, self._number(head.m), self._symbols)
            if found is not None and found.sleep is not None and found.sleep.place == call.sleep.place and found.kernel:
                if len(self._kernel_stacks) >= _REMEMBERED:
                    self._kernel_stacks.clear()
                self._kernel_stacks[place] = found.kernel
                return found.kernel
        return self._kernel_stacks.get(place, ())

    def lacks(self, head: Head) -> bool:
        """Whether the process is a forked copy that lacks the thread on which Go believes the goroutine to be."""
        if self.existing is None or head.status not in (Status.RUNNING, Status.SYSCALL):
            return False
        return self._number(head.m) not in self.existing

    def _number(self, m: int) -> int:
        """The number of an M's thread, 0 if it is not known."""
        if m not in self._numbers:
            number = self._memory.u64(m + self._at_procid) if m and self._at_procid is not None else None
            if not number:
                return 0
            if self._process.namespace_pid == self._process.pid:
                self._numbers[m] = number
            else:
                self._numbers[m] = thread_numbers(self._process.pid).get(number, 0)
        return self._numbers[m]
