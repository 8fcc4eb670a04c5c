"""Reads all goroutines of a process once, without stopping it: `gotrace dump`."""

from __future__ import annotations

import time

from gotrace import __version__
from gotrace.common.errors import TargetGone
from gotrace.dump.types import LOSSES, NO_THREAD, RUNNING, Dump, GoroutineState
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.program import FD_SYSCALLS
from gotrace.kernel.records import KernelObject, RawStack
from gotrace.live.goroutines import EMPTY_STACK, OFF_CPU, Unwinder
from gotrace.live.gstruct import Head, Status
from gotrace.live.labels import read_labels
from gotrace.live.polled import waiting_for
from gotrace.live.scan import Scanner, Snapshot
from gotrace.model.chains import CodePoint
from gotrace.model.snapshots import interpret
from gotrace.model.stacks import StackModel
from gotrace.proc.descriptors import Descriptors
from gotrace.proc.stopped import note_of_stop
from gotrace.profile.symbolize import Symbolizer, shown_name
from gotrace.profile.types import Frame
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
_ALIVE = OFF_CPU | {Status.RUNNING, Status.SYSCALL, Status.COPYSTACK}
_OFF = OFF_CPU | {Status.SYSCALL}
_IN_KERNEL = frozenset((Status.SYSCALL, Status.RUNNING))
_DETAILS = ("waitsince", "parentGoid", "gopc", "startpc", "lockedm", "labels")


def dump(pid: int) -> Dump:
    """Returns every goroutine of process `pid`, each as of its own moment.

    Raises:
        Refused, TargetGone, BadBinary: it can't be read.
    """
    target = open_target(pid, f"sudo gotrace dump {pid}")
    try:
        return _Reading(target).dump()
    except ProcessLookupError:
        raise TargetGone(f"process {pid} ended while it was read") from None
    finally:
        target.close()


class _Reading:
    def __init__(self, target: OpenTarget) -> None:
        self._target = target
        self._binary, self._memory = target.binary, target.memory
        self._scanner = Scanner(target.memory, target.reader, Unwinder(target.binary, target.bias), target.binary.layout)
        self._kernel = KernelSymbols()
        self._model = StackModel(target.binary, target.bias, self._kernel)
        self._symbolizer = Symbolizer(self._model, self._kernel, Descriptors(target.process.pid))
        self._losses = dict.fromkeys(LOSSES, 0)
        forked = forked_copy(target)
        self._notes = list(filter(None, [forked, note_of_stop(target.process.pid)]))
        self._there: dict[int, int] | None = thread_numbers(target.process.pid) if forked else None

    def dump(self) -> Dump:
        scanner, pid = self._scanner, self._target.process.pid
        wanted = [index for index in scanner.sample() if scanner.heads[index].status in _ALIVE]
        asked = {index: scanner.heads[index] for index in wanted}
        calls = self._asleep([index for index in wanted if asked[index].status in _IN_KERNEL])
        snapshots = self._snapshots(wanted)
        polled = waiting_for(pid, self._memory, self._binary.layout)
        fds = {index: fd for index in snapshots if (fd := polled.get(scanner.address(index))) is not None}
        fds |= {index: call.sleep.first for index, (_, call, _) in calls.items() if call.number in FD_SYSCALLS and call.sleep is not None}
        files = open_files(pid, set(fds.values()))
        details = self._details(list(snapshots))
        found = []
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
            about = call is not None and call.number in FD_SYSCALLS or self._reason(head) == "IO wait"
            thing = files.get(fds.get(index, -1)) if same and about else None
            found.append(self._goroutine(snapshot, call, own, thing, details.get(index, {})))
        self._losses["fields_unread"] = len(self._binary.misfits)
        self._losses["unknown_function"] = self._symbolizer.unknown
        return Dump(__version__, self._target.describe(), sorted(found, key=lambda one: one.id), self._losses, self._notes)

    def _reason(self, head: Head) -> str:
        reasons = self._binary.wait_reasons
        return reasons[head.reason] if head.status == Status.WAITING and head.reason < len(reasons) else ""

    def _snapshots(self, wanted: list[int]) -> dict[int, Snapshot]:
        found: dict[int, Snapshot] = {}
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_RETRY_S)
            found |= self._scanner.snapshots(wanted)
            wanted = [i for i in wanted if i not in found or (found[i].pcs is None and found[i].head.status in _OFF)]
            if not wanted:
                break
        self._losses["goroutines_unread"] = sum(index not in found for index in wanted)
        return found

    def _asleep(self, indexes: list[int]) -> dict[int, tuple[int, Asleep, RawStack | None]]:
        """For goroutines whose thread sleeps in the kernel, by index: the thread, what it sleeps in, and, if Go takes the goroutine for
        running, its stack by the thread's registers."""
        offset, pid = self._binary.layout.m_procid, self._target.process.pid
        if offset is None or not indexes:
            return {}
        tids, found = thread_numbers(pid), {}
        for index in indexes:
            head = self._scanner.heads[index]
            number = self._memory.u64(head.m + offset)
            tid = tids.get(number, 0) if number else 0
            call = asleep_thread(pid, tid, self._kernel) if tid else None
            if call is None or call.sleep is None:
                continue
            own = None
            if head.status == Status.RUNNING:
                now = self._target.reader.read([self._scanner.address(index)])
                if not now or (now[0].goid, now[0].status, now[0].m) != (head.goid, head.status, head.m):
                    continue
                own = stack_of_thread(self._target.reader, now[0], call.sleep)
                again = asleep(pid, tid)
                if again is None or again.place != call.sleep.place:
                    continue
            found[index] = tid, call, own
        return found

    def _has_no_thread(self, head: Head) -> bool:
        offset = self._binary.layout.m_procid
        return self._there is not None and offset is not None and self._memory.u64(head.m + offset) not in self._there

    def _details(self, indexes: list[int]) -> dict[int, dict[str, int]]:
        """The fields of the g that only a dump needs; those that the layout lacks are left out."""
        layout = self._binary.layout
        offsets = [(name, offset) for name in _DETAILS if (offset := getattr(layout, f"g_{name}")) is not None]
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
        head, state, reason = snapshot.head, RUNNING, ""
        frames: tuple[Frame, ...] = ()
        if head.status in _OFF or own is not None:
            self._losses["stack_torn"] += (own.unreadable if own is not None else snapshot.pcs is None)
            if call is not None:
                row, stack = interpret(
                    self._model, head, snapshot.pcs, call.number, thing=thing, kind=call.kind, kernel=call.kernel, own=own
                )
            else:
                row, stack = interpret(self._model, head, snapshot.pcs, 0, thing=thing)
            self._losses["stack_incomplete"] += stack.incomplete
            frames, state, reason = self._symbolizer.frames(stack, row), stack.state.value, stack.reason
        if head.status in _IN_KERNEL and self._has_no_thread(head):
            state, reason = NO_THREAD, ""
        labels = read_labels(self._memory, more.get("labels", 0), self._binary.version)
        self._losses["labels_unread"] += labels is None
        # The runtime itself creates the first one: Go's tracebacks do not say who created it either.
        created_by, created_at = self._creator(more.get("gopc", 0)) if head.goid != 1 else ("", "")
        return GoroutineState(
            head.goid, state, reason, self._waited(head, more.get("waitsince", 0)), more.get("parentGoid", 0), created_by,
            created_at, self._function(more.get("startpc", 0)), bool(more.get("lockedm")), labels or {}, frames,
        )

    def _waited(self, head: Head, since: int) -> int | None:
        """How long it has waited, to within a cycle of the collector, as in Go's own tracebacks. When the collector first meets a waiting
        goroutine, it notes when the previous cycle ended (runtime/mgcmark.go: markroot; mgc.go: gcMark sets work.tstart). The clock is ours
        as well: nanotime is CLOCK_MONOTONIC."""
        waited = time.monotonic_ns() - since
        return waited if since and waited >= 0 and head.status in (Status.WAITING, Status.SYSCALL, Status.LEAKED) else None

    def _creator(self, pc: int) -> tuple[str, str]:
        calls = self._model.calls(CodePoint(pc - self._target.bias)) if pc else []
        # As in Go's tracebacks: the function that contains the code, and the line of the code (printcreatedby1).
        return (shown_name(calls[-1].function), f"{calls[0].file}:{calls[0].line}") if calls else ("", "")

    def _function(self, pc: int) -> str:
        function = self._binary.table.function_at(pc - self._target.bias) if pc else None
        return shown_name(function.name) if function else ""
