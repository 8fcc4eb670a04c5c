"""The one way in which this kernel lets us place a uprobe, found by trying: a BPF link, else a perf event.

From Linux 6.15 on, and in stable kernels with the same change (ba677dbe77af, "perf: Revert to requiring CAP_SYS_ADMIN for
uprobes"), a perf event needs CAP_SYS_ADMIN. A link (Linux 6.6) needs CAP_BPF and CAP_PERFMON, as a perf event did before.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from gotrace.kernel.bpf import (
    AttachType,
    BpfError,
    MapType,
    ProgramType,
    attach_uprobe_link,
    create_map,
    load_program,
    read_element,
)
from gotrace.kernel.perf_event import UPROBE_TYPE, ProbeError, hold_uprobe, open_uprobe
from gotrace.proc.memory import living_thread

LOOP = bytes.fromhex("55 5d 48 ff cf 75 f9 c3")
"""f(n): 1: push %rbp; pop %rbp; dec %rdi; jnz 1b; ret. The push is emulated, like the probed instructions of the target."""

MAIN_THREAD_ENDED = "its main thread has ended, by which the kernel knows the process"
_TRIES = 8


def by_link() -> bool:
    """Whether uprobes are placed by links: wherever they work, for all threads of a process (until Linux 6.10 they saw only one:
    46ba0e49b642). They cost the target a little less, and the kernel removes them all at once; it removes perf events one by one, each
    with a grace period of its own."""
    return link_obstacle() == ""


def program_attach_type() -> AttachType:
    """The type as which a uprobe's program must be loaded."""
    return AttachType.TRACE_UPROBE_MULTI if by_link() else AttachType.NONE


def attach_uprobe(path: str, offset: int, pid: int, program_fd: int) -> int:
    """Runs the program, loaded as `program_attach_type`, whenever a thread of `pid` reaches file offset `offset` of `path`; closing the
    returned descriptor removes the probe.

    Raises:
        ProbeError: with the errno of the failing call.
    """
    if not by_link():
        return open_uprobe(path, offset, pid, program_fd)
    try:
        return attach_uprobe_link(path, offset, pid, program_fd)
    except BpfError as error:
        raise ProbeError(error.errno, error.strerror) from None


def hold_breakpoint(path: str, offset: int, pid: int) -> int | None:
    """Holds what a probe of `attach_uprobe` needs in addition if the process's main thread has ended; None in any other process.

    A link runs its program in all threads of the process, no matter which of them live (kernel/trace/bpf_trace.c: uprobe_prog_run), but
    wants a breakpoint only in the memory of the main thread, which has none any more (uprobe_multi_link_filter). A perf event for a living
    thread wants one in that thread's memory (trace_uprobe.c: uprobe_perf_filter), and the same breakpoint serves both.

    Raises:
        ProbeError: with the errno of the failing call; EOPNOTSUPP if probes are not links: a perf event then sees one thread alone.
    """
    for _ in range(_TRIES):
        thread = living_thread(pid)
        if thread in (0, pid):
            return None
        if not by_link() or not UPROBE_TYPE.exists():
            raise ProbeError(errno.EOPNOTSUPP, MAIN_THREAD_ENDED)
        try:
            return hold_uprobe(path, offset, thread)
        except ProbeError as error:
            if error.errno != errno.ESRCH:  # ESRCH: that thread has ended as well
                raise
    raise ProbeError(errno.ESRCH, "its threads end faster than they can be found")


@cache
def link_obstacle() -> str:
    """Why links can't be used for uprobes, "" if they can: one is placed on a few bytes of our own code."""
    try:
        counter = create_map(MapType.ARRAY, 4, 8, 1, "hits")
    except BpfError as error:
        return str(error.strerror)
    try:
        program = load_program(ProgramType.KPROBE, _count_into(counter), "count", AttachType.TRACE_UPROBE_MULTI)
        try:
            with probed_code() as (path, loop):
                link = attach_uprobe_link(path, 0, os.getpid(), program)
                try:
                    thread = threading.Thread(target=loop, args=(1,))
                    thread.start()
                    thread.join()
                finally:
                    os.close(link)
        finally:
            os.close(program)
        hits, = struct.unpack("<Q", read_element(counter, bytes(4), 8))
        return "" if hits == 1 else "a uprobe link does not see all threads of a process"
    except OSError as error:
        return str(error.strerror)
    except RuntimeError as error:  # threading: no new thread
        return str(error)
    finally:
        os.close(counter)


def _count_into(array: int) -> bytes:
    # r1 = &array[0] (BPF_PSEUDO_MAP_VALUE); r0 = 1; lock *(u64 *)(r1 + 0) += r0; r0 = 0; exit
    return struct.pack("<BBhiBBhi", 0x18, 0x21, 0, array, 0, 0, 0, 0) + bytes.fromhex(
        "b700000001000000 db01000000000000 b700000000000000 9500000000000000"
    )


@contextmanager
def probed_code() -> Iterator[tuple[str, Callable[[int], None]]]:
    """A file whose first instruction may be probed, and the function that runs it, mapped into this process.

    Raises:
        OSError: no file that can be mapped as code can be made.
    """
    import ctypes

    # Executable memory must be a file for a uprobe. This one has no name: however we end, nothing of it is left.
    with tempfile.TemporaryFile() as file:
        file.write(LOOP.ljust(mmap.PAGESIZE, b"\0"))
        file.flush()
        code = mmap.mmap(file.fileno(), mmap.PAGESIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
        path = f"/proc/self/fd/{file.fileno()}"
        try:
            yield path, ctypes.CFUNCTYPE(None, ctypes.c_long)(_address_of(os.readlink(path)))
        finally:
            code.close()


def _address_of(path: str) -> int:
    with open("/proc/self/maps") as maps:
        for line in maps:
            if line.rstrip().endswith(path):
                return int(line.split("-")[0], 16)
    raise OSError(errno.ENOENT, "the calibration code is not mapped")
