"""Reads all goroutines of a process once, without stopping it: `gotrace dump`."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from operator import attrgetter

from gotrace import __version__
from gotrace.common.errors import TargetGone
from gotrace.dump.details import OWN_FIELDS, Details, DetailsStruct
from gotrace.dump.found import FoundGoroutines
from gotrace.dump.objects import objects_of
from gotrace.dump.prospects import prospects
from gotrace.dump.stacks import Seen, Stacks
from gotrace.dump.threads import Sleeping, ThreadsAsleep
from gotrace.dump.types import LOSSES, NO_THREAD, RUNNING, Dump, GoroutineState, Situation
from gotrace.dump.unreachable import unreachable
from gotrace.dump.waiting import add_objects
from gotrace.kernel.kallsyms import KernelSymbols, kernel_symbols
from gotrace.kernel.program import FD_SYSCALLS
from gotrace.kernel.records import KernelObject
from gotrace.live.alike import Crowd
from gotrace.live.goroutines import EMPTY_STACK, OFF_CPU, Unwinder
from gotrace.live.gstruct import Head, Status
from gotrace.live.labels import LabelSets
from gotrace.live.objects import COND_WAIT, SLEEP
from gotrace.live.polled import Polled, polled
from gotrace.live.scan import Scanner, Snapshot
from gotrace.proc.stopped import note_of_stop
from gotrace.watch.inprogress.blocked import IN_SOME_CALL, open_files
from gotrace.watch.target import OpenTarget, forked_copy, open_target

_WENT_ON = "{} goroutine{} went on before it was read which channel, lock or timer that was; gotrace attach --objects tells of short waits"

_TRIES = 8
_RETRY_S = 0.001
_ALIVE = OFF_CPU | {Status.RUNNING, Status.SYSCALL, Status.COPYSTACK}
_OFF = OFF_CPU | {Status.SYSCALL}
_IN_KERNEL = frozenset((Status.SYSCALL, Status.RUNNING))
_WAITING = frozenset((Status.WAITING, Status.LEAKED))
_AT_ONCE = 1024
_MOST_STACK_BYTES = 1 << 26
_MOST_SITUATIONS = 1 << 16


def dump(pid: int, leaks: bool = False, labels: bool = True) -> Dump:
    """Returns every goroutine of process `pid`, each as of its own moment. `leaks`: the memory is searched for references to the channels
    for which goroutines wait; `labels`: profiler labels are read.

    Raises:
        Refused, TargetGone, BadBinary: it can't be read.
    """
    target = open_target(pid, f"sudo gotrace dump {pid}")
    try:
        return dump_of(target, leaks, labels=labels)
    finally:
        target.close()


def dump_of(target: OpenTarget, leaks: bool = False, kernel: KernelSymbols | None = None, labels: bool = True) -> Dump:
    """The same of an open process, which stays open. `kernel`: the kernel's symbols, if they were read before.

    Raises:
        Refused, TargetGone: it can't be read.
    """
    # Hundreds of thousands of records in which there are no cycles: looking for them would take a third of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        return _Reading(target, kernel or kernel_symbols(), labels).dump(leaks)
    except ProcessLookupError:
        raise TargetGone(f"process {target.process.pid} ended while it was read") from None
    finally:
        if collects:
            gc.enable()


class _Reading:
    def __init__(self, target: OpenTarget, kernel: KernelSymbols, labels: bool) -> None:
        self._target = target
        self._wants_labels = labels
        self._binary, self._memory = target.binary, target.memory
        self._scanner = Scanner(target.memory, target.reader, Unwinder(target.binary, target.bias), target.binary.layout)
        self._stacks_of = Stacks(target, kernel)
        self._losses = dict.fromkeys(LOSSES, 0)
        forked = forked_copy(target)
        self._notes = list(filter(None, [forked, note_of_stop(target.process.pid)]))
        self._threads = ThreadsAsleep(target, self._scanner, kernel, bool(forked))
        self._details = DetailsStruct(target.binary.layout, target.binary.wait_layout)
        self._found = FoundGoroutines(self._scanner)
        self._situations: dict[tuple[object, ...], Situation] = {}
        self._no_labels: dict[str, str] = {}
        self._sets = LabelSets(self._memory, self._binary.version)
        self._polls: dict[int, Polled] = {}
        self._files: dict[int, KernelObject] = {}
        self._stacks: dict[int, bytes] = {}
        self._stack_bytes = 0

    def dump(self, leaks: bool) -> Dump:
        scanner, found = self._scanner, self._found
        scanner.sample()
        scanner.forget_samples()
        in_kernel = scanner.heads.in_states(_IN_KERNEL)
        asked = {index: scanner.heads[index] for index in in_kernel}
        calls = self._threads.asleep(in_kernel)
        pid = self._target.process.pid
        self._polls = polled(pid, self._memory, self._binary.layout, self._binary.wait_layout)
        fds = {poll.fd for poll in self._polls.values()}
        fds |= {call.sleep.first for call, _ in calls.values() if call.number in FD_SYSCALLS and call.sleep is not None}
        self._files = open_files(pid, fds)
        left: list[int] = []
        for crowd in scanner.crowds(scanner.heads.in_states(_ALIVE), left, self._details.size):
            self._take_crowd(crowd, left)
        for start in range(0, len(left), _AT_ONCE):
            self._take_each(left[start : start + _AT_ONCE], asked, calls)
        self._losses["objects_unread"], moved = add_objects(self._target, found, self._polls, self._stacks)
        notes = [*self._notes, *([_WENT_ON.format(moved, "" if moved == 1 else "s")] if moved else [])]
        goroutines = sorted(found.states, key=attrgetter("id"))
        self._losses["fields_unread"] = len(self._binary.misfits)
        self._losses["unknown_function"] = self._stacks_of.unknown
        read = Dump(__version__, self._target.describe(), goroutines, self._losses, notes, objects_of(goroutines))
        read.prospects = prospects(self._target, found)
        if leaks:
            waiting = {found.address(position): sudog for position, sudog in zip(found.parked, found.waiting, strict=True)}
            read.unreachable = unreachable(self._target, list(found.all()), waiting)
        return read

    # -- many at one place ---------------------------------------------------------------------------------------------

    def _take_crowd(self, crowd: Crowd, left: list[int]) -> None:
        """Adds goroutines with the same stack. Those of which more is to be found out go to `left`."""
        rows: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        numbers: dict[tuple[int, ...], list[int]] = {}
        parse = self._details.parse
        for index, raw in zip(crowd.indexes, crowd.raws, strict=True):
            fields = parse(raw)
            key = fields[OWN_FIELDS:]
            if key in rows:
                rows[key].append(fields[:OWN_FIELDS])
                numbers[key].append(index)
            else:
                rows[key], numbers[key] = [fields[:OWN_FIELDS]], [index]
        now = time.monotonic_ns()
        for key, own in rows.items():
            at = self._at(self._scanner.heads[numbers[key][0]], crowd.pcs, Details(*own[0], *key))
            goids, since, parents, dues, sudogs, timers = zip(*own, strict=True)
            if at is None or 1 in goids:
                left += numbers[key]
                continue
            situation, parked = at
            waits = {moment: now - moment if parked and moment and now >= moment else None for moment in set(since)}
            creators = {parent: parent for parent in set(parents)}  # each number once
            each = zip(goids, since, parents, strict=True)
            states = [GoroutineState(goid, situation, waits[moment], creators[parent]) for goid, moment, parent in each]
            self._found.add(numbers[key], states, crowd.pcs)
            if parked:
                self._found.park(sudogs, timers, dues, situation.reason == SLEEP)

    def _at(self, head: Head, pcs: tuple[int, ...], more: Details) -> tuple[Situation, bool] | None:
        """The situation of a goroutine whose thread does not matter, and whether Go takes it for waiting. None if its file or its stack's
        bytes are needed, or its labels can't be read."""
        reason = self._stacks_of.reason(head)
        if reason in (COND_WAIT, "IO wait") or self._labels_at(more.labels) is None:
            return None
        seen = self._stacks_of.seen(head, pcs, None, None, None)
        return (self._situation(head, seen, more), head.status in _WAITING) if not seen.incomplete else None

    # -- one by one ----------------------------------------------------------------------------------------------------

    def _take_each(self, wanted: list[int], asked: dict[int, Head], calls: dict[int, Sleeping]) -> None:
        before = {index: self._scanner.heads[index] for index in wanted}
        snapshots = self._snapshots(wanted)
        details = self._read_details(list(snapshots))
        for index, snapshot in snapshots.items():
            head, none = snapshot.head, (None, None)
            if head.status not in _ALIVE:
                continue  # it has ended in the meantime
            same = asked.get(index, before[index]) == head
            call, own = calls[index] if index in calls and (same or head.status == Status.RUNNING) else none
            if call is None and head.status == Status.SYSCALL:
                call = IN_SOME_CALL
            if head.status == Status.SYSCALL and 0 <= head.hi - head.sp <= EMPTY_STACK:
                continue  # a thread of C that is outside Go
            more = details.get(index) or Details()
            seen = Seen((), RUNNING, "")
            if head.status in _OFF or own is not None:
                self._losses["stack_torn"] += (own.unreadable if own is not None else snapshot.pcs is None)
                file = self._file(index, head, calls) if same else None
                seen = self._stacks_of.seen(head, snapshot.pcs, call, own, file)
                self._losses["stack_incomplete"] += seen.incomplete
            self._losses["labels_unread"] += self._labels_at(more.labels) is None
            situation, waited = self._situation(head, seen, more), self._waited(head, more.waitsince)
            self._found.add([index], [GoroutineState(head.goid, situation, waited, more.parentGoid)], snapshot.pcs)
            if head.status in _WAITING:
                self._found.park((more.waiting,), (more.timer,), (more.sleepWhen,), situation.reason == SLEEP)

    def _file(self, index: int, head: Head, calls: dict[int, Sleeping]) -> KernelObject | None:
        """The file that a goroutine waits for which has not moved."""
        call = calls[index].call if index in calls else None
        if call is not None and call.number in FD_SYSCALLS and call.sleep is not None:
            return self._files.get(call.sleep.first)
        poll = self._polls.get(self._scanner.address(index)) if self._stacks_of.reason(head) == "IO wait" else None
        return self._files.get(poll.fd) if poll is not None else None

    def _snapshots(self, wanted: list[int]) -> dict[int, Snapshot]:
        found: dict[int, Snapshot] = {}
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_RETRY_S)
            for index, copy in self._scanner.copies(wanted).items():
                found[index] = self._scanner.snapshot(copy)
                if index in self._stacks or self._stacks_of.reason(copy.head) == COND_WAIT:
                    self._keep(index, copy.stack)
            wanted = [i for i in wanted if i not in found or (found[i].pcs is None and found[i].head.status in _OFF)]
            if not wanted:
                break
        self._losses["goroutines_unread"] += sum(index not in found for index in wanted)
        return found

    def _keep(self, index: int, stack: bytes | None) -> None:
        self._stack_bytes -= len(self._stacks.pop(index, b""))
        if stack is not None and self._stack_bytes + len(stack) <= _MOST_STACK_BYTES:
            self._stacks[index] = stack
            self._stack_bytes += len(stack)

    def _read_details(self, indexes: Sequence[int]) -> dict[int, Details]:
        ranges = [(self._scanner.address(index), self._details.size) for index in indexes]
        found: dict[int, Details] = {}
        for index, raw in zip(indexes, self._memory.read_many(ranges), strict=True):
            more = Details._make(self._details.parse(raw)) if raw is not None else None
            if more is not None and more.goid == self._scanner.heads[index].goid:
                found[index] = more
        return found

    # -- what is known of each -----------------------------------------------------------------------------------------

    def _situation(self, head: Head, seen: Seen, more: Details) -> Situation:
        state, reason = seen.state, seen.reason
        if head.status in _IN_KERNEL and self._threads.lacks(head):
            state, reason = NO_THREAD, ""
        labels = self._labels_at(more.labels) or self._no_labels
        # The runtime itself creates the first one: Go's tracebacks do not say who created it either.
        gopc = more.gopc if head.goid != 1 else 0
        key = (id(seen.frames), state, reason, gopc, more.startpc, bool(more.lockedm), id(labels))
        known = self._situations.get(key)
        if known is None or known.frames is not seen.frames or known.labels is not labels:
            if len(self._situations) >= _MOST_SITUATIONS:
                self._situations.clear()
            by, at = self._stacks_of.creator(gopc)
            start = self._stacks_of.function(more.startpc)
            known = self._situations[key] = Situation(state, reason, by, at, start, bool(more.lockedm), labels, seen.frames)
        return known

    def _labels_at(self, pointer: int) -> dict[str, str] | None:
        return self._sets.at(pointer) if pointer and self._wants_labels else self._no_labels

    def _waited(self, head: Head, since: int) -> int | None:
        """How long it has waited, to within a cycle of the collector, as in Go's own tracebacks. When the collector first meets a waiting
        goroutine, it notes when the previous cycle ended (runtime/mgcmark.go: markroot; mgc.go: gcMark sets work.tstart). The clock is ours
        as well: nanotime is CLOCK_MONOTONIC."""
        waited = time.monotonic_ns() - since
        return waited if since and waited >= 0 and head.status in (Status.WAITING, Status.SYSCALL, Status.LEAKED) else None
