"""What is in progress while the trace runs: for each commit of a capture, the waits that `gotrace.watch.inprogress.collect` adds at
the end.

A stack is read from the process's memory once per wait; each commit reads a limited number, the longest waits first. Nothing here
changes what is found at the end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from gotrace.kernel.program import Options
from gotrace.kernel.records import OpenInterval
from gotrace.kernel.tables import Tables
from gotrace.watch.inprogress.cutoff import CutOff, Parked
from gotrace.watch.inprogress.parked import ParkedReader

_AT_ONCE, _MOST, _MOST_THREADS = 64, 1024, 64
"""Goroutines whose stacks are read with one call, and for one commit; threads likewise."""
_READ_FOR_NS = 20_000_000
_SHARE = 20
"""The time between two readings of all goroutines, as a multiple of what one costs: they take at most a twentieth of a CPU."""
_SHORT_NS = 1_000_000_000
"""A shorter wait that could not be read lacks no more than any commit lacks, which is a second old."""


@dataclass
class Found:
    """The waits, as rows. `left_out`: goroutines with longer waits that could not be read; `goroutines_read`: goroutines were read, not
    threads alone; `known`: how many goroutines are in the kernel's tables."""

    cut: CutOff
    left_out: int = 0
    goroutines_read: bool = True
    known: int = 0


@dataclass
class Ongoing:
    """Collects for one process, in one window after another. `first_seen` are goroutines that were off the CPU as the window began."""

    tables: Tables
    parked: ParkedReader
    options: Options
    knows_files: bool
    _stacks: dict[int, tuple[int, Parked]] = field(default_factory=dict)
    _alike: list[tuple[Parked, int, list[int]]] = field(default_factory=list)
    _grouped: dict[int, Parked] | None = None
    _due_ns: int = 0

    def collect(self, start_ns: int, first_seen: dict[int, Parked], creation_unseen: bool, whole: bool) -> Found:
        """What is in progress now, in the window that began at `start_ns`. `whole`: the tables hold all goroutines that were seen.

        Raises:
            ProcessLookupError, PermissionError: the process's memory can't be read any more.
        """
        now, options = time.monotonic_ns(), self.options
        cut = CutOff(
            start_ns, now, options.per_goroutine, options.min_block_ns, options.only_goid, self.tables.stopped_ns(now),
            self.tables.halted_ns(now),
        )
        found = Found(cut)
        if now < self._due_ns:
            found.goroutines_read = False
        else:
            begin = time.thread_time_ns()
            self._add_goroutines(found, first_seen, creation_unseen, whole)
            self._due_ns = now + _SHARE * (time.thread_time_ns() - begin)
        self._add_threads(cut)
        for row in cut.rows.values():
            self.tables.resolve(row)
        return found

    def _add_goroutines(self, found: Found, first_seen: dict[int, Parked], creation_unseen: bool, whole: bool) -> None:
        cut = found.cut
        opened, known, _unseen = self.tables.read_open()
        found.known = len(known)
        opened = {g: interval for g, interval in opened.items() if interval.start_ns < cut.end_ns}
        self._read(opened)
        for g, interval in opened.items():
            known_since, parked = self._stacks.get(g, (0, None))
            if parked is not None and known_since == interval.start_ns:
                cut.add_parked(parked, interval)
            else:
                found.left_out += cut.end_ns - interval.start_ns >= _SHORT_NS
        for parked, thing, addresses in self._alike_in(first_seen) if whole else ():
            if not (parked.created and creation_unseen):
                cut.add_unmoved(parked, thing, sum(g not in known for g in addresses))

    def _alike_in(self, first_seen: dict[int, Parked]) -> list[tuple[Parked, int, list[int]]]:
        """Groups goroutines that are alike, as one of them, the file that it waits for, and the addresses of all. Those that have not moved
        since still wait for the same thing, and there may be thousands at one place."""
        if self._grouped is not first_seen:
            things = self.parked.things(first_seen, self.knows_files)
            groups: dict[tuple[object, ...], tuple[Parked, int, list[int]]] = {}
            apart = self.options.per_goroutine or self.options.only_goid
            for g, parked in first_seen.items():
                thing = things.get(g, 0)
                like = (parked.stack.pcs, parked.reason, parked.created, parked.kind, thing, parked.labels, g if apart else 0)
                groups.setdefault(like, (parked, thing, []))[2].append(g)
            self._alike, self._grouped = list(groups.values()), first_seen
        return self._alike

    def _read(self, opened: dict[int, OpenInterval]) -> None:
        """Fills `_stacks` with the stacks of as many open intervals as there is time for, and of no others."""
        self._stacks = {g: (since, parked) for g, (since, parked) in self._stacks.items() if g in opened and opened[g].start_ns == since}
        wanted = sorted((interval.start_ns, g) for g, interval in opened.items() if g not in self._stacks)[:_MOST]
        begin = time.monotonic_ns()
        for at in range(0, len(wanted), _AT_ONCE):
            if time.monotonic_ns() - begin > _READ_FOR_NS:
                return
            batch = {g: since for since, g in wanted[at : at + _AT_ONCE]}
            for g, parked in self.parked.read(list(batch)).items():
                # It may have run on, and parked elsewhere.
                if not parked.stack.unreadable and self.tables.open_since(g) == batch[g]:
                    self._stacks[g] = batch[g], parked

    def _add_threads(self, cut: CutOff) -> None:
        unread = 0
        threads = [thread for thread in self.tables.read_open_threads() if thread.out_ns < cut.end_ns]
        labels = self.parked.labels_of([thread.g for thread in threads])
        for thread in threads:
            if not thread.stack and unread < _MOST_THREADS:
                unread += 1
                thread = replace(thread, stack=self.parked.stack_in_syscall(thread.g))
            cut.add_thread(thread, labels.get(thread.g, 0))
