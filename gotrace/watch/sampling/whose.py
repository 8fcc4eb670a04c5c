"""Which goroutines a sample is about, and where they are as Go sees it."""

from __future__ import annotations

from gotrace.live.goroutines import EMPTY_STACK, OFF_CPU
from gotrace.live.gstruct import Head, Status


class Whose:
    """All goroutines, or, with `only_goid`, if not 0, that one alone. `outside` are those of C's threads that were seen outside Go."""

    def __init__(self, only_goid: int) -> None:
        self._only_goid = only_goid
        self.outside: set[int] = set()

    def wanted(self, head: Head) -> bool:
        """Whether it is one of those to sample."""
        return self._only_goid in (0, head.goid)

    def off_cpu(self, head: Head) -> bool:
        """Whether it is one of those, and off the CPU as Go sees it."""
        if not self.wanted(head):
            return False
        # A waiting goroutine that still has an M runs on its system stack (runtime/proc.go: casGToWaiting; park_m drops it).
        return (head.status in OFF_CPU and not (head.status == Status.WAITING and head.m)) or head.status == Status.SYSCALL

    def is_to_be_asked(self, head: Head) -> bool:
        """Whether its thread decides where it is: Go takes it for running, or knows that it is in a system call."""
        return head.status in (Status.SYSCALL, Status.RUNNING) and self.wanted(head)

    def is_outside(self, index: int, head: Head) -> bool:
        """Notes, and tells, whether it belongs to a thread of C that is outside Go (gotrace/live/goroutines.py: Goroutine.outside_go)."""
        outside = head.status == Status.SYSCALL and 0 <= head.hi - head.sp <= EMPTY_STACK
        if outside:
            self.outside.add(index)
        return outside
