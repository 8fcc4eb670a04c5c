"""What is in progress where a window ends: collected from the kernel's tables and from memory, as rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from gotrace.common.vocabulary import StartKind
from gotrace.kernel.program import Options
from gotrace.kernel.records import IntervalRow, RowKey
from gotrace.kernel.tables import Tables
from gotrace.watch.inprogress.cutoff import CutOff, Follow, Parked
from gotrace.watch.inprogress.parked import ParkedReader

_CHUNK = 8192


class InProgress:
    """Collects for one process. Its rows continue from window to window. `knows_files`: files and sockets are known; `unread` counts
    goroutines whose stacks could not be read."""

    def __init__(self, tables: Tables, parked: ParkedReader, options: Options, knows_files: bool) -> None:
        self.unread = 0
        self._tables = tables
        self._parked = parked
        self._options = options
        self._knows_files = knows_files
        self._rows: dict[RowKey, IntervalRow] = {}
        self._goids: dict[RowKey, set[int]] = {}

    def threads(self, start_ns: int, end_ns: int) -> CutOff:
        """Threads that are off their CPU, up to `end_ns`, in the window that began at `start_ns`."""
        cut = self._new(start_ns, end_ns)
        self._add_threads(cut, end_ns)
        return self._resolved(cut)

    def everything(
        self, start_ns: int, end_ns: int, parked: dict[int, Parked], alive: bool, later: Iterable[int] = (), creation_unseen: bool = False,
        whole: bool = True, followed: Follow | None = None,
    ) -> CutOff:
        """Open intervals, and goroutines that no probe ever saw: those of `parked` that are not in the kernel's tables, and of `later`,
        which have yet to be read. `alive`: the process is still there; `whole`: the tables hold all goroutines that were seen;
        `creation_unseen`: a goroutine that waits for its first turn may be younger than the window; `followed`: as in `CutOff`."""
        cut = self._new(start_ns, end_ns, followed)
        opened, known, unseen = self._tables.read_open()
        things = self._things(parked) if alive else {}
        for g, interval in opened.items():
            if alive and g in self._parked.ended:
                continue  # a coroutine that ended while stopped (coro.go: coroexit)
            found = parked.get(g)
            if found is not None and found.created and interval.kind != StartKind.CREATED:
                continue  # it belongs to the g's previous goroutine; when the new one began to wait for its first turn was not seen
            self.unread += found is None or found.stack.unreadable
            if found is None:
                cut.add_lost(interval)  # gone with its process, or its stack never made sense
            else:
                cut.add_parked(found, interval, things.get(g, 0))
        if whole:
            self._add_unseen(cut, parked, known, things, creation_unseen)
            rest = (g for g in later if g not in known)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                while chunk := list(islice(rest, _CHUNK)):
                    read = self._parked.read(chunk)
                    self._add_unseen(cut, read, known, self._things(read), creation_unseen)
        self._add_threads(cut, end_ns)
        for wait in unseen:
            cut.add_unseen(wait)
        return self._resolved(cut)

    def _new(self, start_ns: int, end_ns: int, followed: Follow | None = None) -> CutOff:
        options = self._options
        return CutOff(
            start_ns, end_ns, options.per_goroutine, options.min_block_ns, options.only_goid, self._tables.stopped_ns(end_ns),
            self._tables.halted_ns(end_ns), self._rows, self._goids, followed,
        )

    def _resolved(self, cut: CutOff) -> CutOff:
        for row in cut.rows.values():
            self._tables.resolve(row)
        return cut

    def _add_threads(self, cut: CutOff, end_ns: int) -> None:
        threads = [thread for thread in self._tables.read_open_threads() if thread.out_ns < end_ns]
        labels = self._parked.labels_of([thread.g for thread in threads])
        for thread in threads:
            whole = thread if thread.stack else replace(thread, stack=self._parked.stack_in_syscall(thread.g))
            cut.add_thread(whole, labels.get(thread.g, 0))

    def _add_unseen(
        self, cut: CutOff, parked: dict[int, Parked], known: set[int], things: dict[int, int], creation_unseen: bool
    ) -> None:
        for g, found in parked.items():
            if g not in known and not (found.created and creation_unseen):
                self.unread += found.stack.unreadable
                cut.add_parked(found, None, things.get(g, 0))

    def _things(self, parked: dict[int, Parked]) -> dict[int, int]:
        return self._parked.things(parked, self._knows_files)
