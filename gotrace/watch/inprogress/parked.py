"""Goroutines that are off the CPU, found in the process's memory while it runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from gotrace.common.vocabulary import StartKind
from gotrace.gobin.binary import GoBinary
from gotrace.kernel.bpf import BpfError
from gotrace.kernel.records import RawStack
from gotrace.kernel.tables import Tables
from gotrace.live.goroutines import OFF_CPU, Goroutine, GoroutineReader
from gotrace.live.polled import waiting_for
from gotrace.model.snapshots import KIND_OF_STATUS
from gotrace.proc.memory import Memory
from gotrace.watch.inprogress.blocked import open_files
from gotrace.watch.inprogress.cutoff import Parked
from gotrace.watch.inprogress.waited import WaitedReader
from gotrace.watch.labels import WantedLabels

_READ_TRIES = 5
_RETRY_S = 0.002
_PATIENCE = 9
_AFFORDABLE, _AFFORDABLE_PER_S = 2000, 10_000
"""All goroutines are read at a window's end up to this number: the minimum, and per second of the window's length. If there are more,
only those with open intervals are read. The probes cost time meanwhile: about a tenth of a second for 10,000 goroutines."""
_BUSY_READ = 200


class ParkedReader:
    """Reads goroutines beside the kernel side's tables, which tell which ones have moved since.

    All methods raise ProcessLookupError or PermissionError if the process's memory can't be read any more. `ended` are the addresses of
    goroutines found to have ended. `partly_read` counts the window ends at which only goroutines with open intervals were read: the
    others' waits lack that window.
    """

    def __init__(
        self, pid: int, binary: GoBinary, memory: Memory, reader: GoroutineReader, tables: Tables, labels: WantedLabels | None = None,
    ) -> None:
        self.ended: set[int] = set()
        self.partly_read = 0
        self._pid = pid
        self._binary = binary
        self._memory = memory
        self._reader = reader
        self._tables = tables
        self.waited: WaitedReader | None = None
        """Reads what goroutines wait for in Go; None: that is not asked for."""
        self._labels = labels

    def read(self, addresses: Sequence[int]) -> dict[int, Parked]:
        """Reads the goroutines among `addresses` that are off the CPU and have run before, or wait for their first turn."""
        found: dict[int, Parked] = {}
        for attempt in range(_READ_TRIES):
            retry: list[int] = []
            waiting: list[Goroutine] = []
            for goroutine in self._reader.read(addresses):
                if goroutine.ended:
                    self.ended.add(goroutine.address)
                if goroutine.waits_for_first_turn:
                    found[goroutine.address] = self._created(goroutine)
                elif goroutine.status in OFF_CPU and goroutine.has_run:
                    waiting.append(goroutine)
            for goroutine, pcs in zip(waiting, self._reader.stacks(waiting), strict=False):
                if pcs is None and attempt + 1 < _READ_TRIES:
                    retry.append(goroutine.address)  # it moved, or its stack was being copied
                else:
                    found[goroutine.address] = _parked(goroutine, pcs)
            addresses = retry
            if not addresses:
                break
        return self._labelled(found)

    def read_elusive(self, parked: dict[int, Parked]) -> dict[int, Parked]:
        """Reads goroutines with an open interval that were missed, and those whose stack made no sense: the collector was moving it, or
        their thread hit the start probe and has not had a CPU since to change their state. Both pass; on a busy host they take as long
        as the kernel's scheduler does."""
        found: dict[int, Parked] = {}
        for attempt in range(_PATIENCE):
            opened, known, _unseen = self._tables.read_open()
            wanted = opened.keys() | parked.keys() - known  # the others have resumed: their intervals are closed
            missing = {g for g in wanted - self.ended if (record := found.get(g) or parked.get(g)) is None or record.stack.unreadable}
            if not missing:
                break
            time.sleep(_RETRY_S * 2**attempt)
            found |= self.read(list(missing))
        return found

    def labels_of(self, addresses: Sequence[int]) -> dict[int, int]:
        """The wanted labels of these goroutines, as numbers in the kernel's table; those that have none are left out, and
        all if the process is gone."""
        if self._labels is not None and addresses:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                return self._labels.numbers(addresses, self._tables.writer)
        return {}

    def _labelled(self, found: dict[int, Parked]) -> dict[int, Parked]:
        labels = self.labels_of(list(found))
        return {g: replace(parked, labels=labels[g]) if g in labels else parked for g, parked in found.items()} if labels else found

    # -- in two steps --------------------------------------------------------------------------------------------------

    def heads(self, length_ns: int) -> tuple[dict[int, Goroutine], list[int]]:
        """Returns the goroutines as they are after the end of a window of that length, while the probes still see which ones move, and
        those whose stacks must be read before the probes are removed: a goroutine that moved in the window may soon move again."""
        opened, _known, _unseen = self._tables.read_open()
        addresses: Sequence[int]
        if self._reader.count() <= max(_AFFORDABLE, _AFFORDABLE_PER_S * length_ns // 1_000_000_000):
            addresses = self._reader.addresses()
        else:
            addresses = list(opened)
            self.partly_read += 1
        heads = {goroutine.address: goroutine for goroutine in self._reader.read(addresses)}
        for _ in range(_READ_TRIES):
            # These are on their way off the CPU: the start probe comes first.
            moving = [g for g in opened if g in heads and heads[g].status not in OFF_CPU]
            if not moving:
                break
            heads |= {goroutine.address: goroutine for goroutine in self._reader.read(moving)}
        self.ended = {g for g, head in heads.items() if head.ended}
        return heads, [g for g in opened if g in heads][:_BUSY_READ]

    def stacks(self, heads: dict[int, Goroutine], wanted: list[int]) -> dict[int, Parked]:
        """Returns those that were off the CPU when their heads were read, with their stacks if they have not moved since."""
        found = {}
        for now in self._reader.read([g for g in wanted if heads[g].status in OFF_CPU]):
            head = heads[now.address]
            if head.waits_for_first_turn:
                found[head.address] = self._created(head)
            elif head.has_run:
                found[head.address] = _parked(head, self._reader.stack(now) if _unmoved(head, now) else None)
        return self._labelled(found)

    def _created(self, goroutine: Goroutine) -> Parked:
        stack = RawStack(self._reader.first_frames(goroutine), exact=True)
        return Parked(goroutine.address, goroutine.goid, 0, stack, created=True)

    # -- what the kernel side did not see ------------------------------------------------------------------------------

    def stack_in_syscall(self, g: int) -> int:
        """The number of the stack with which the goroutine is in a system call now, 0 if it can't be read."""
        with contextlib.suppress(BpfError, ProcessLookupError):
            for goroutine in self._reader.read([g]):
                pcs = self._reader.stack(goroutine)
                if pcs:
                    return self._tables.writer.put_stack(pcs)
        return 0

    def things(self, parked: dict[int, Parked], files: bool) -> dict[int, int]:
        """What goroutines wait for, by g, as numbers in the kernel's tables: for waits that began before the window. `files`: files and
        sockets are known."""
        found = self._files(parked) if files and parked else {}
        if self.waited is not None and parked:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                found = self.waited.numbers(parked) | found
        return found

    def note_before(self, parked: dict[int, Parked]) -> None:
        """Has the kernel side know what these goroutines wait for, which no probe saw park; call it in the window."""
        if self.waited is None or not parked:
            return
        numbers = self.waited.numbers(parked)
        _opened, known, _unseen = self._tables.read_open()
        self._tables.writer.put_waited_before({g: number for g, number in numbers.items() if g not in known})

    def _files(self, parked: dict[int, Parked]) -> dict[int, int]:
        reasons = self._binary.wait_reasons
        waiters = {g for g, found in parked.items() if found.reason < len(reasons) and reasons[found.reason] == "IO wait"}
        if not waiters:
            return {}
        try:
            fds = {g: fd for g, fd in waiting_for(self._pid, self._memory, self._binary.layout).items() if g in waiters}
        except (ProcessLookupError, PermissionError):
            return {}
        files = open_files(self._pid, set(fds.values()))
        numbers = {}
        for fd, thing in files.items():
            with contextlib.suppress(BpfError):
                numbers[fd] = self._tables.writer.put_object(thing)
        return {g: numbers[fd] for g, fd in fds.items() if fd in numbers}


def _unmoved(head: Goroutine, now: Goroutine) -> bool:
    return now.status in OFF_CPU and (now.goid, now.pc, now.sp, now.bp) == (head.goid, head.pc, head.sp, head.bp)


def _parked(goroutine: Goroutine, pcs: tuple[int, ...] | None) -> Parked:
    stack = _whole_stack(pcs) if pcs else RawStack((goroutine.pc,), unreadable=True)
    kind = KIND_OF_STATUS.get(goroutine.status, StartKind.BEFORE)
    return Parked(goroutine.address, goroutine.goid, goroutine.wait_reason, stack, kind=kind)


@lru_cache(1 << 12)
def _whole_stack(pcs: tuple[int, ...]) -> RawStack:
    return RawStack(pcs)
