"""Goroutines that were blocked in a system call before the window began: no tracepoint saw them go."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.program import FD_SYSCALLS
from gotrace.kernel.records import BlockedThread, KernelObject
from gotrace.live.goroutines import GoroutineReader
from gotrace.live.gstruct import Status
from gotrace.proc.descriptors import open_file
from gotrace.proc.sockets import internet_sockets

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
_MOST = 4096


def sees_kernel_numbers() -> bool:
    """Whether process and thread numbers, as we see them, are the kernel's own: we are in no PID namespace."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino == _INITIAL_PID_NAMESPACE
    except OSError:
        return False


def blocked_threads(pid: int, reader: GoroutineReader, symbols: KernelSymbols) -> Iterator[BlockedThread]:
    """Those of process `pid`. Each may have gone on since: ask `still_blocked` afterwards."""
    waiting = list(islice(reader.in_state(Status.SYSCALL), _MOST))
    if not waiting:
        return
    own_number = thread_numbers(pid)
    for goroutine in waiting:
        tid = own_number.get(reader.thread_of(goroutine))
        if tid is None:
            continue
        switches = _switches(pid, tid)
        call = system_call(pid, tid)
        stack = reader.stack(goroutine)
        if switches is None or call is None or stack is None:
            continue
        number, first, place = call
        thing = open_files(pid, {first}).get(first) if number in FD_SYSCALLS else None
        yield BlockedThread(
            tid, goroutine.address, goroutine.goid, number, stack, _kernel_stack(pid, tid, symbols), thing, switches, place
        )


def still_blocked(pid: int, thread: BlockedThread) -> bool:
    """Whether the thread has slept in that call ever since: it is in it now, and has not left a CPU again."""
    call = system_call(pid, thread.tid)
    return call is not None and call[2] == thread.place and _switches(pid, thread.tid) == thread.switches


def _switches(pid: int, tid: int) -> int | None:
    """How often the thread has left a CPU, None if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/task/{tid}/status").read_text().splitlines()
    except OSError:
        return None
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


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


def system_call(pid: int, tid: int) -> tuple[int, int, str] | None:
    """Number and first argument of the call in which the thread sleeps, and the whole that /proc says of it."""
    try:
        fd = os.open(f"/proc/{pid}/task/{tid}/syscall", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fields = os.read(fd, 512).decode().split()  # a look is before the target: no time for a pathlib.Path
    except OSError:
        return None
    finally:
        os.close(fd)
    # "running", or "-1 SP PC" where it sleeps elsewhere (proc(5)).
    if len(fields) < 9 or int(fields[0]) < 0:
        return None
    return int(fields[0]), int(fields[1], 16), " ".join(fields)


def open_files(pid: int, fds: set[int]) -> dict[int, KernelObject]:
    """What the descriptors of process `pid` are now, with the addresses of internet sockets. No file system is asked."""
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
            local_port=socket.local_port, peer=socket.peer, peer_port=socket.peer_port,
        )
    return found


def _kernel_stack(pid: int, tid: int, symbols: KernelSymbols) -> tuple[int, ...]:
    """From the names of /proc/PID/task/TID/stack; what has none is left out."""
    try:
        lines = Path(f"/proc/{pid}/task/{tid}/stack").read_text().splitlines()
    except OSError:
        return ()
    # "[<0>] pipe_read+0x123/0x456", a module's with " [name]" behind.
    names = [line.split("] ", 1)[-1].split("+")[0] for line in lines if "+" in line]
    return tuple(address for name in names if (address := symbols.address(name)) is not None)
