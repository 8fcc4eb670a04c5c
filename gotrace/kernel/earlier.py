"""What began before a window, where no program saw it: user space adds it to the tables as the window opens."""

from __future__ import annotations

import contextlib
import struct

from gotrace.common.vocabulary import StartKind
from gotrace.kernel.bpf import BpfError
from gotrace.kernel.maps import ONLY, Maps
from gotrace.kernel.records import BlockedThread
from gotrace.kernel.rows import pack_stack, stack_hash
from gotrace.kernel.structs import (
    GOROUTINE_UNSURE,
    THREAD_BASE,
    THREAD_BEFORE,
    THREAD_HALTED,
    THREAD_OUTSIDE,
    THREAD_QUEUED,
    WAIT_BEFORE,
    WAIT_INTERRUPTED,
    WAIT_INTERRUPTIBLE,
    WAIT_SHORT,
    Goroutine,
    Halt,
    Thread,
    Wait,
)
from gotrace.kernel.tablewriter import TableWriter


class EarlierState:
    """Threads that are blocked or wait for a CPU, and a process that is stopped. Times are CLOCK_MONOTONIC."""

    def __init__(self, maps: Maps, writer: TableWriter) -> None:
        self._maps = maps
        self._writer = writer

    def add_blocked(self, thread: BlockedThread, since_ns: int) -> None:
        """Records that a thread has been off its CPU; does nothing if the kernel side has seen more of it."""
        kernel = stack_hash(thread.kernel_stack) if thread.kernel_stack else 0
        object_number = 0
        flags = thread.stack.exact, thread.stack.unreadable
        number = stack_hash((*thread.stack.pcs, *map(int, flags)) if any(flags) else thread.stack.pcs)
        with contextlib.suppress(BpfError):
            self._maps.put("stacks", number, pack_stack(thread.stack.pcs, thread.stack.exact, thread.stack.unreadable))
            if kernel:
                self._maps.put("stacks", kernel, pack_stack(thread.kernel_stack))
            if thread.object is not None:
                object_number = self._writer.put_object(thread.object)
            # It may have moved on before the window opens, and stopped elsewhere: no probe saw that.
            self._maps.put("goroutines", thread.g, Goroutine(flags=GOROUTINE_UNSURE))
        entry = Thread(
            out_ns=since_ns, g=thread.g, goid=thread.goid, stack=number, kernel_stack=kernel,
            object=object_number, kind=thread.kind, syscall=thread.syscall,
            flags=THREAD_BEFORE,
            ran_ns=thread.cpu_ns,
            halted_at_out=self._maps.halted_ns(since_ns),
        )
        if thread.kind != StartKind.STOPPED:
            wait = Wait(
                ip=thread.pc, sp=thread.sp, stack=number, kernel_stack=kernel, object=object_number, kind=thread.kind,
                syscall=thread.syscall,
                # The runtime may preempt it before the window opens, and another thread resume its wait: that counts as the
                # same wait.
                flags=WAIT_BEFORE | WAIT_SHORT | WAIT_INTERRUPTED | (WAIT_INTERRUPTIBLE if thread.interruptible else 0),
            )
            with contextlib.suppress(BpfError):
                self._maps.write("waits", struct.pack("<Q", thread.g), bytes(wait))
        self._put_thread(thread.tid, entry)

    def _put_thread(self, tid: int, entry: Thread) -> None:
        with contextlib.suppress(BpfError):
            self._maps.write("threads", struct.pack("<I", tid), bytes(entry), only_new=True)

    def add_blocked_late(self, thread: BlockedThread, start_ns: int) -> bool:
        """`add_blocked` for a thread that was found after the window opened at `start_ns`, if the kernel side has not seen it since: a
        thread that had a CPU then was seen leaving it. Returns whether it was recorded."""
        key = struct.pack("<I", thread.tid)
        entry: Thread | None = None
        with contextlib.suppress(BpfError):
            entry = self._maps.read("threads", key, Thread)
        if entry is not None:
            # The leading thread's row also says that the process is stopped.
            if entry.out_ns or entry.in_ns or entry.flags & (THREAD_OUTSIDE | THREAD_HALTED):
                return False
            # It may get a CPU right now: the kernel side then makes a row of its own, which stays as it is.
            self._maps.delete("threads", key)
        self.add_blocked(thread, start_ns)
        return True

    def add_thread_base(self, tid: int, cpu_ns: int, g: int = 0, goid: int = 0) -> None:
        """Records how much CPU time a thread had used when the window began, and the goroutine that it ran or was about to run, 0 if there
        is none or it is not known; does nothing if the thread has been seen since."""
        entry = Thread(base_ns=cpu_ns, flags=THREAD_BASE)
        if g:
            # If it waits for a CPU, it has done so since before the window; where it stopped is not known.
            entry.g, entry.goid, entry.kind = g, goid, StartKind.CPU
            entry.flags |= THREAD_QUEUED | THREAD_BEFORE
            with contextlib.suppress(BpfError):
                entry.stack = self._writer.put_stack(())
        self._put_thread(tid, entry)

    def add_halt(self, leader: int, since_ns: int) -> None:
        """Records that the process has been stopped since then; `leader` is the thread that shows when it continues. Call it after
        `add_blocked`, which may have given that thread a row."""
        self._maps.write("halt", ONLY, bytes(Halt(since=since_ns)))
        self._put_thread(leader, Thread())
        key = struct.pack("<I", leader)
        with contextlib.suppress(BpfError):
            entry = self._maps.read("threads", key, Thread)
            entry.flags |= THREAD_HALTED
            self._maps.write("threads", key, bytes(entry))

    def is_halted_since(self, since_ns: int) -> bool:
        """Whether what `add_halt` recorded still holds, as far as the kernel side has seen."""
        noted: int = self._maps.read("halt", ONLY, Halt).since
        return noted == since_ns

    def forget_halt(self) -> None:
        """Undoes `add_halt`: the process had already continued."""
        self._maps.write("halt", ONLY, bytes(Halt()))

    def forget_blocked(self, tid: int, since_ns: int) -> None:
        """Undoes `add_blocked`, unless the kernel side has taken over the entry."""
        key = struct.pack("<I", tid)
        with contextlib.suppress(BpfError):
            entry = self._maps.read("threads", key, Thread)
            if entry.out_ns != since_ns:
                return
            self._maps.delete("threads", key)
            # If it has parked since, and never moves, no probe sees it: it must not pass for one that was seen.
            g = struct.pack("<Q", entry.g)
            state = self._maps.read("goroutines", g, Goroutine)
            if not (state.start_ns or state.run_since or state.run_ns or state.off_ns):
                self._maps.delete("goroutines", g)

    def forget_queued(self, tid: int) -> None:
        """Undoes that the thread has a goroutine: by now another thread has it, or the kernel side has seen the thread."""
        key = struct.pack("<I", tid)
        with contextlib.suppress(BpfError):
            entry = self._maps.read("threads", key, Thread)
            if entry.flags & THREAD_QUEUED:
                entry.flags &= ~(THREAD_QUEUED | THREAD_BEFORE)
                entry.g = 0
                self._maps.write("threads", key, bytes(entry))
