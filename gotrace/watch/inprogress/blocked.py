"""What threads sleep in, as /proc tells from outside. No tracepoint tells it of goroutines that were blocked in the kernel before the
window began, nor in samples."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from gotrace.common.vocabulary import StartKind
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.program import FD_SYSCALLS
from gotrace.kernel.records import BlockedThread, KernelObject, RawStack, RunnableThread
from gotrace.kernel.structs import NO_SYSCALL
from gotrace.live.goroutines import Goroutine, GoroutineReader
from gotrace.live.gstruct import Status
from gotrace.model.kernelstacks import STOPPED, cause
from gotrace.proc.descriptors import open_file
from gotrace.proc.process import read_short
from gotrace.proc.sockets import internet_sockets

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
_MOST = 4096
_STOPPED = frozenset("Tt")


def sees_kernel_numbers() -> bool:
    """Whether we see the kernel's own process and thread numbers: we are in no PID namespace."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino == _INITIAL_PID_NAMESPACE
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Sleep:
    """What a thread sleeps in, as /proc/PID/task/TID/syscall says: the number of the system call (-1: none), its first argument, and the
    user registers. `place` is the whole line."""

    number: int
    first: int
    sp: int
    pc: int
    place: str


@dataclass(frozen=True, slots=True)
class Asleep:
    """A thread that sleeps in the kernel. `kind` is SYSCALL, FAULT (not in a call) or STOPPED; `number` is the call's, NO_SYSCALL if there
    is none or it is not known; `kernel` are the addresses of the functions that it is in, leaf first."""

    kind: StartKind
    number: int = NO_SYSCALL
    state: str = ""
    sleep: Sleep | None = None
    kernel: tuple[int, ...] = ()


IN_SOME_CALL = Asleep(StartKind.SYSCALL)


def asleep_thread(pid: int, tid: int, symbols: KernelSymbols | None = None) -> Asleep | None:
    """What the thread sleeps in, and with `symbols` where in the kernel; None if it is running or runnable."""
    sleep = asleep(pid, tid)
    if sleep is None:
        return None
    # Outside system calls the state tells whether it is stopped.
    state = thread_state(pid, tid)
    kind = StartKind.STOPPED if state in _STOPPED else StartKind.FAULT if sleep.number < 0 else StartKind.SYSCALL
    number = sleep.number if kind is StartKind.SYSCALL else NO_SYSCALL
    return Asleep(kind, number, state, sleep, kernel_stack(pid, tid, symbols) if symbols is not None else ())


def blocked_threads(
    pid: int, reader: GoroutineReader, symbols: KernelSymbols, running: bool = True
) -> Iterator[BlockedThread | RunnableThread]:
    """Yields the threads of process `pid` that sleep in the kernel with a goroutine, and those that have a goroutine and do not sleep. Go
    may know that they sleep (a system call) or take the goroutine for running (a page fault, a raw system call, vfork, a stop; only with
    `running`). Each may have moved on since: check with `still_blocked`."""
    wanted = frozenset((Status.SYSCALL, Status.RUNNING) if running else (Status.SYSCALL,))
    waiting = list(islice(reader.in_states(wanted), _MOST))
    if not waiting:
        return
    own_number = thread_numbers(pid)
    for goroutine in waiting:
        tid = own_number.get(reader.thread_of(goroutine))
        if tid is None or goroutine.outside_go:
            continue
        found = asleep_thread(pid, tid, symbols)
        if found is None or found.sleep is None:
            yield RunnableThread(tid, goroutine.address, goroutine.goid)
            continue
        # The goroutine may have parked before its thread went to sleep for want of another one.
        now = reader.read([goroutine.address])
        if not now or (now[0].goid, now[0].status, now[0].m) != (goroutine.goid, goroutine.status, goroutine.m) or now[0].outside_go:
            continue
        sleep, number = found.sleep, found.number
        thing = open_files(pid, {sleep.first}).get(sleep.first) if number in FD_SYSCALLS else None
        yield BlockedThread(
            tid, goroutine.address, goroutine.goid, found.kind, 0 if number == NO_SYSCALL else number,
            stack_of_thread(reader, goroutine, sleep), found.kernel, thing, sleep.number, sleep.pc, sleep.sp, found.state == "S",
            (_times(pid, tid) or (0, 0))[0],
        )


def stack_of_thread(reader: GoroutineReader, goroutine: Goroutine, sleep: Sleep) -> RawStack:
    """The goroutine's stack from its thread's user registers, if they point into it; else from where it switched to another stack, if
    the runtime has recorded that."""
    if goroutine.status == Status.RUNNING and goroutine.stack_lo <= sleep.sp < goroutine.stack_hi:
        pcs = reader.stack(goroutine._replace(pc=sleep.pc, sp=sleep.sp), exact=True)
        return RawStack(pcs, exact=True) if pcs else RawStack((sleep.pc,), exact=True, unreadable=True)
    if goroutine.status == Status.SYSCALL or reader.is_on_system_stack(goroutine):
        pcs = reader.stack(goroutine)
        if pcs:
            return RawStack(pcs)
    return RawStack((sleep.pc,), exact=True, unreadable=True)


def still_blocked(pid: int, thread: BlockedThread) -> bool:
    """Whether the thread sleeps where it did. A signal may have interrupted it in between, and the kernel or the program resumed the same
    wait."""
    sleep = asleep(pid, thread.tid)
    return sleep is not None and (sleep.number, sleep.pc, sleep.sp) == (thread.number, thread.pc, thread.sp)


def thread_state(pid: int, tid: int) -> str:
    """One letter, as in /proc/PID/task/TID/stat: R, S, D, T, t, ...; "" if the thread is gone."""
    stat = read_short(f"/proc/{pid}/task/{tid}/stat", 1024)
    return stat[stat.rindex(b")") + 2 :][:1].decode("ascii", "replace") if b")" in stat else ""


def threads_times(pid: int) -> dict[int, tuple[int, int]]:
    """How long each thread of the process, of at most 4096, has had a CPU and has waited for one, in ns (Documentation/scheduler/
    sched-stats.rst); {} where the kernel does not tell."""
    found: dict[int, tuple[int, int]] = {}
    for tid in islice(_threads(pid), _MOST):
        times = _times(pid, tid)
        if times is not None:
            found[tid] = times
    return found


def _times(pid: int, tid: int) -> tuple[int, int] | None:
    words = read_short(f"/proc/{pid}/task/{tid}/schedstat", 256).split()
    if len(words) < 2 or not (words[0].isdigit() and words[1].isdigit()):
        return None
    return int(words[0]), int(words[1])


def is_halted(pid: int, names: tuple[str, ...]) -> bool:
    """Whether the process is stopped now, by the state of its leading thread and by `names`, the functions of that thread's kernel
    stack."""
    return thread_state(pid, pid) in _STOPPED or cause(names) == STOPPED


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except FileNotFoundError:
        return []


def thread_numbers(pid: int) -> dict[int, int]:
    """Thread numbers as we see them, by those that the process itself sees (m.procid)."""
    found = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        try:
            status = Path(f"/proc/{pid}/task/{tid}/status").read_text()
        except OSError:
            continue
        inner = next((line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:")), tid)
        found[int(inner)] = int(tid)
    return found


def asleep(pid: int, tid: int) -> Sleep | None:
    """What the thread sleeps in; None if it is running or runnable."""
    place = read_short(f"/proc/{pid}/task/{tid}/syscall", 512).decode("ascii", "replace").strip()
    fields = place.split()
    # "running", "-1 SP PC" where it sleeps outside system calls, else "NUMBER ARG... SP PC" (proc(5)).
    if len(fields) < 3:
        return None
    try:
        number, sp, pc = int(fields[0]), int(fields[-2], 16), int(fields[-1], 16)
        return Sleep(number, int(fields[1], 16) if number >= 0 else 0, sp, pc, place)
    except ValueError:
        return None


def open_files(pid: int, fds: set[int]) -> dict[int, KernelObject]:
    """What the descriptors of process `pid` are now, with the addresses of internet sockets. Asks no file system."""
    found = {}
    for fd in fds:
        file = open_file(pid, fd)
        if file is not None:
            found[fd] = KernelObject(fd, file.mode, file.ino, file.dev, file.family)
    inodes = {thing.ino: fd for fd, thing in found.items() if stat.S_ISSOCK(thing.mode)}
    for inode, socket in (internet_sockets(pid, set(inodes)) if inodes else {}).items():
        fd = inodes[inode]
        found[fd] = replace(
            found[fd], family=socket.family, type=socket.type, state=socket.state, local=socket.local,
            local_port=socket.local_port, peer=socket.peer, peer_port=socket.peer_port, accepted=socket.accepted,
        )
    return found


def kernel_stack(pid: int, tid: int, symbols: KernelSymbols) -> tuple[int, ...]:
    """The addresses of the kernel functions that the thread is in, leaf first; those without an address are left out."""
    return tuple(address for name in kernel_names(pid, tid) if (address := symbols.address(name)) is not None)


def kernel_names(pid: int, tid: int) -> tuple[str, ...]:
    """Their names, as in /proc/PID/task/TID/stack; () if it may not be read (it takes CAP_SYS_ADMIN)."""
    lines = read_short(f"/proc/{pid}/task/{tid}/stack", 8192).decode("ascii", "replace").splitlines()
    # "[<0>] pipe_read+0x123/0x456"; " [name]" follows a module's function.
    return tuple(line.split("] ", 1)[-1].split("+")[0] for line in lines if "+" in line)
