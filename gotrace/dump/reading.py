"""Reads all goroutines of a process once, without stopping it: `gotrace dump`."""

from __future__ import annotations

import gc
import time

from gotrace import __version__
from gotrace.common.errors import TargetGone
from gotrace.dump.objects import objects_of
from gotrace.dump.prospects import Found, prospects
from gotrace.dump.stacks import Seen, Stacks
from gotrace.dump.types import LOSSES, NO_THREAD, RUNNING, Dump, GoroutineState
from gotrace.dump.unreachable import unreachable
from gotrace.dump.waiting import AsParked, add_objects
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.program import FD_SYSCALLS
from gotrace.kernel.records import KernelObject, RawStack
from gotrace.live.goroutines import EMPTY_STACK, OFF_CPU, Unwinder
from gotrace.live.gstruct import Head, Status
from gotrace.live.labels import read_labels
from gotrace.live.objects import Parked
from gotrace.live.polled import polled
from gotrace.live.scan import Scanner, Snapshot
from gotrace.proc.stopped import note_of_stop
from gotrace.watch.inprogress.blocked import (
    IN_SOME_CALL,
    Asleep,
    asleep,
    asleep_thread,
    open_files,
    stack_of_thread,
    thread_numbers,
)
from gotrace.watch.target import OpenTarget, forked_copy, open_target

_TRIES = 8
_RETRY_S = 0.001
_PER_THREAD = 4
"""So many goroutines in the kernel are asked about, at most, for each thread: a sound process has no more of them than threads."""
_ALIVE = OFF_CPU | {Status.RUNNING, Status.SYSCALL, Status.COPYSTACK}
_OFF = OFF_CPU | {Status.SYSCALL}
_IN_KERNEL = frozenset((Status.SYSCALL, Status.RUNNING))
_DETAILS = ("waitsince", "parentGoid", "gopc", "startpc", "lockedm", "labels", "sleepWhen")
_WAITS = ("waiting", "timer")
_MOST_STACK_BYTES = 1 << 26
_INNERMOST = 16
"""So many functions tell for what a goroutine waits."""


def dump(pid: int, leaks: bool = False) -> Dump:
    """Returns every goroutine of process `pid`, each as of its own moment. `leaks`: the memory is searched for references to the channels
    for which goroutines wait.

    Raises:
        Refused, TargetGone, BadBinary: it can't be read.
    """
    target = open_target(pid, f"sudo gotrace dump {pid}")
    # Hundreds of thousands of records in which there are no cycles: looking for them would take a third of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        return _Reading(target).dump(leaks)
    except ProcessLookupError:
        raise TargetGone(f"process {pid} ended while it was read") from None
    finally:
        target.close()
        if collects:
            gc.enable()


class _Reading:
    def __init__(self, target: OpenTarget) -> None:
        self._target = target
        self._binary, self._memory = target.binary, target.memory
        self._scanner = Scanner(target.memory, target.reader, Unwinder(target.binary, target.bias), target.binary.layout)
        self._kernel = KernelSymbols()
        self._stacks_of = Stacks(target, self._kernel)
        self._losses = dict.fromkeys(LOSSES, 0)
        forked = forked_copy(target)
        self._notes = list(filter(None, [forked, note_of_stop(target.process.pid)]))
        self._stacks: dict[int, bytes] = {}
        self._stack_bytes = 0
        self._there: dict[int, int] | None = thread_numbers(target.process.pid) if forked else None

    def dump(self, leaks: bool) -> Dump:
        scanner, pid = self._scanner, self._target.process.pid
        wanted = [index for index in scanner.sample() if scanner.heads[index].status in _ALIVE]
        asked = {index: scanner.heads[index] for index in wanted}
        calls = self._asleep([index for index in wanted if asked[index].status in _IN_KERNEL])
        snapshots = self._snapshots(wanted)
        polls = polled(pid, self._memory, self._binary.layout, self._binary.wait_layout)
        fds = {index: poll.fd for index in snapshots if (poll := polls.get(scanner.address(index))) is not None}
        fds |= {index: call.sleep.first for index, (_, call, _) in calls.items() if call.number in FD_SYSCALLS and call.sleep is not None}
        files = open_files(pid, set(fds.values()))
        details = self._details(list(snapshots))
        found: dict[int, GoroutineState] = {}
        for index, snapshot in snapshots.items():
            head = snapshot.head
            if head.status not in _ALIVE:
                continue  # it has ended in the meantime
            same = asked[index] == head
            _, call, own = calls[index] if index in calls and (same or head.status == Status.RUNNING) else (0, None, None)
            if call is None and head.status == Status.SYSCALL:
                call = IN_SOME_CALL
            if head.status == Status.SYSCALL and 0 <= head.hi - head.sp <= EMPTY_STACK:
                continue  # a thread of C that is outside Go
            about = call is not None and call.number in FD_SYSCALLS or self._stacks_of.reason(head) == "IO wait"
            thing = files.get(fds.get(index, -1)) if same and about else None
            found[index] = self._goroutine(snapshot, call, own, thing, details.get(index, {}))
        parked = {index: self._parked(index, one, snapshots[index].head, details.get(index, {})) for index, one in found.items()}
        self._losses["objects_unread"] = add_objects(self._target, found, {i: one for i, one in parked.items() if one is not None}, polls)
        goroutines = sorted(found.values(), key=lambda one: one.id)
        self._losses["fields_unread"] = len(self._binary.misfits)
        self._losses["unknown_function"] = self._stacks_of.unknown
        read = Dump(__version__, self._target.describe(), goroutines, self._losses, self._notes, objects_of(goroutines))
        whole = [Found(scanner.address(index), snapshots[index], one) for index, one in found.items()]
        read.prospects = prospects(self._target, whole)
        if leaks:
            waiting = {scanner.address(index): more.get("waiting", 0) for index, more in details.items()}
            read.unreachable = unreachable(self._target, whole, waiting)
        return read

    def _parked(self, index: int, one: GoroutineState, head: Head, more: dict[str, int]) -> AsParked | None:
        if head.status not in (Status.WAITING, Status.LEAKED):
            return None
        return AsParked(head, Parked(
            self._scanner.address(index), self._stacks_of.reason(head), [frame.name for frame in one.frames[:_INNERMOST]],
            more.get("waiting", 0), more.get("timer", 0), more.get("sleepWhen", 0), self._stacks.get(index, b""),
        ))

    def _snapshots(self, wanted: list[int]) -> dict[int, Snapshot]:
        found: dict[int, Snapshot] = {}
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_RETRY_S)
            for index, copy in self._scanner.copies(wanted).items():
                found[index] = self._scanner.snapshot(copy)
                self._keep(index, copy.stack)
            wanted = [i for i in wanted if i not in found or (found[i].pcs is None and found[i].head.status in _OFF)]
            if not wanted:
                break
        self._losses["goroutines_unread"] = sum(index not in found for index in wanted)
        return found

    def _keep(self, index: int, stack: bytes | None) -> None:
        self._stack_bytes -= len(self._stacks.pop(index, b""))
        if stack is not None and self._stack_bytes + len(stack) <= _MOST_STACK_BYTES:
            self._stacks[index] = stack
            self._stack_bytes += len(stack)

    def _asleep(self, indexes: list[int]) -> dict[int, tuple[int, Asleep, RawStack | None]]:
        """For goroutines whose thread sleeps in the kernel, by index: the thread, what it sleeps in, and, if Go takes the goroutine for
        running, its stack by the thread's registers."""
        offset, pid = self._binary.layout.m_procid, self._target.process.pid
        if offset is None or not indexes:
            return {}
        self._kernel.load()  # takes so long that a goroutine which the runtime preempts would be on another thread by then
        tids = thread_numbers(pid)
        found: dict[int, tuple[int, Asleep, RawStack | None]] = {}
        for index in indexes[: _PER_THREAD * len(tids)]:
            head = self._scanner.heads[index]
            if head.status != Status.RUNNING:
                number = self._memory.u64(head.m + offset)
                tid = tids.get(number, 0) if number else 0
                call = asleep_thread(pid, tid, self._kernel) if tid else None
                if call is not None and call.sleep is not None:
                    found[index] = tid, call, None
                continue
            for _ in range(_TRIES):
                running = self._asleep_as_it_runs(self._scanner.address(index), head, tids)
                if running is not None:
                    found[index] = running
                    break
        return found

    def _asleep_as_it_runs(self, address: int, head: Head, tids: dict[int, int]) -> tuple[int, Asleep, RawStack] | None:
        """As of now: the runtime preempts every 10 ms who does not seem to come back, and another thread runs it then."""
        pid, offset = self._target.process.pid, self._binary.layout.m_procid
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
        return (tid, call, own) if again is not None and again.place == call.sleep.place else None

    def _has_no_thread(self, head: Head) -> bool:
        offset = self._binary.layout.m_procid
        return self._there is not None and offset is not None and self._memory.u64(head.m + offset) not in self._there

    def _details(self, indexes: list[int]) -> dict[int, dict[str, int]]:
        """The fields of the g that only a dump needs; those that the layout lacks are left out."""
        layout = self._binary.layout
        offsets = [(name, offset) for name in _DETAILS if (offset := getattr(layout, f"g_{name}")) is not None]
        more = self._binary.wait_layout
        offsets += [(name, offset) for name in _WAITS if (offset := getattr(more, f"g_{name}")) is not None]
        goid = layout.g_goid
        size = max([goid, *(offset for _, offset in offsets)]) + 8
        raws = self._memory.read_many([(self._scanner.address(index), size) for index in indexes])
        heads = self._scanner.heads
        return {
            index: {name: int.from_bytes(raw[offset : offset + 8], "little") for name, offset in offsets}
            for index, raw in zip(indexes, raws, strict=False)
            if raw is not None and int.from_bytes(raw[goid : goid + 8], "little") == heads[index].goid
        }

    def _goroutine(
        self, snapshot: Snapshot, call: Asleep | None, own: RawStack | None, thing: KernelObject | None, more: dict[str, int]
    ) -> GoroutineState:
        head = snapshot.head
        seen = Seen((), RUNNING, "")
        if head.status in _OFF or own is not None:
            self._losses["stack_torn"] += (own.unreadable if own is not None else snapshot.pcs is None)
            seen = self._stacks_of.seen(head, snapshot.pcs, call, own, thing)
            self._losses["stack_incomplete"] += seen.incomplete
        frames, state, reason = seen.frames, seen.state, seen.reason
        if head.status in _IN_KERNEL and self._has_no_thread(head):
            state, reason = NO_THREAD, ""
        labels = read_labels(self._memory, more.get("labels", 0), self._binary.version)
        self._losses["labels_unread"] += labels is None
        # The runtime itself creates the first one: Go's tracebacks do not say who created it either.
        created_by, created_at = self._stacks_of.creator(more.get("gopc", 0)) if head.goid != 1 else ("", "")
        return GoroutineState(
            head.goid, state, reason, self._waited(head, more.get("waitsince", 0)), more.get("parentGoid", 0), created_by,
            created_at, self._stacks_of.function(more.get("startpc", 0)), bool(more.get("lockedm")), labels or {}, frames,
        )

    def _waited(self, head: Head, since: int) -> int | None:
        """How long it has waited, to within a cycle of the collector, as in Go's own tracebacks. When the collector first meets a waiting
        goroutine, it notes when the previous cycle ended (runtime/mgcmark.go: markroot; mgc.go: gcMark sets work.tstart). The clock is ours
        as well: nanotime is CLOCK_MONOTONIC."""
        waited = time.monotonic_ns() - since
        return waited if since and waited >= 0 and head.status in (Status.WAITING, Status.SYSCALL, Status.LEAKED) else None
