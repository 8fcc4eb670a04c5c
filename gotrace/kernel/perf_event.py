"""uprobes and kprobes through perf_event_open(2), with direct access to the errno and the file descriptor.

bcc's own attach falls back to tracefs when this call fails, and writes there again when it detaches, which raises if tracefs is not
mounted; closing the descriptor is all that is needed. The event filters by the address space of `pid`
(kernel/trace/trace_uprobe.c: uprobe_perf_filter), so it covers every thread of the process, including later ones.
"""

from __future__ import annotations

import ctypes as ct
import errno
import fcntl
import os
from pathlib import Path

_SYS_PERF_EVENT_OPEN = 298
_PERF_FLAG_FD_CLOEXEC = 8
_DISABLED = 1
_IOC_ENABLE = 0x2400
_IOC_SET_BPF = 0x40042408
KPROBE_TYPE = Path("/sys/bus/event_source/devices/kprobe/type")
UPROBE_TYPE = Path("/sys/bus/event_source/devices/uprobe/type")


class _Attr(ct.Structure):
    # struct perf_event_attr up to PERF_ATTR_SIZE_VER5 (include/uapi/linux/perf_event.h)
    _fields_ = [
        ("type", ct.c_uint32), ("size", ct.c_uint32), ("config", ct.c_uint64), ("sample_period", ct.c_uint64),
        ("sample_type", ct.c_uint64), ("read_format", ct.c_uint64), ("flags", ct.c_uint64),
        ("wakeup_events", ct.c_uint32), ("bp_type", ct.c_uint32), ("config1", ct.c_uint64), ("config2", ct.c_uint64),
        ("rest", ct.c_uint8 * 40),
    ]


class ProbeError(OSError):
    """The kernel refused a probe; `errno` tells why."""

    errno: int
    strerror: str


def open_uprobe(path: str, offset: int, pid: int, program_fd: int) -> int:
    """Runs the BPF program whenever a thread of `pid` reaches file offset `offset` of `path`; closing the returned
    descriptor removes the probe.

    Raises:
        ProbeError: with the errno of the failing call.
    """
    buffer = ct.create_string_buffer(os.fsencode(path))
    attr = _Attr(
        type=int(UPROBE_TYPE.read_text()), size=ct.sizeof(_Attr), sample_period=1, wakeup_events=1,
        config1=ct.addressof(buffer), config2=offset,
    )
    return _open(attr, pid, -1, program_fd)


def hold_uprobe(path: str, offset: int, tid: int) -> int:
    """Has the kernel keep a breakpoint at file offset `offset` of `path` in the memory of thread `tid`, even after the thread has ended,
    until the returned descriptor is closed. The event is disabled: it runs and counts nothing.

    Raises:
        ProbeError: with the errno of the failing call.
    """
    buffer = ct.create_string_buffer(os.fsencode(path))
    attr = _Attr(
        type=int(UPROBE_TYPE.read_text()), size=ct.sizeof(_Attr), sample_period=1, wakeup_events=1, flags=_DISABLED,
        config1=ct.addressof(buffer), config2=offset,
    )
    return _event(attr, tid, -1)


def uprobe_errno() -> int:
    """Why the kernel would refuse us a uprobe: the errno for one in a file that can't exist. ENOENT and ENOTDIR mean that it searched for
    the file, so we may place uprobes; EACCES and EPERM mean that we may not. Nothing is placed.
    """
    if not UPROBE_TYPE.exists():
        return errno.ENODEV
    buffer = ct.create_string_buffer(b"/dev/null/none")
    attr = _Attr(type=int(UPROBE_TYPE.read_text()), size=ct.sizeof(_Attr), sample_period=1, config1=ct.addressof(buffer))
    libc = ct.CDLL(None, use_errno=True)
    fd = libc.syscall(_SYS_PERF_EVENT_OPEN, ct.byref(attr), os.getpid(), -1, -1, _PERF_FLAG_FD_CLOEXEC)
    if fd >= 0:
        os.close(fd)
        return 0
    return ct.get_errno()


def open_kprobe(function: str, program_fd: int) -> int:
    """Runs the BPF program whenever the kernel calls `function`, in any process, until the returned descriptor is closed.

    Raises:
        ProbeError: with the errno of the failing call.
    """
    buffer = ct.create_string_buffer(function.encode())
    attr = _Attr(
        type=int(KPROBE_TYPE.read_text()), size=ct.sizeof(_Attr), sample_period=1, wakeup_events=1,
        config1=ct.addressof(buffer),
    )
    return _open(attr, -1, 0, program_fd)


def _event(attr: _Attr, pid: int, cpu: int) -> int:
    libc = ct.CDLL(None, use_errno=True)
    fd: int = libc.syscall(_SYS_PERF_EVENT_OPEN, ct.byref(attr), pid, cpu, -1, _PERF_FLAG_FD_CLOEXEC)
    if fd < 0:
        number = ct.get_errno()
        raise ProbeError(number, f"perf_event_open: {os.strerror(number)} ({errno.errorcode.get(number, number)})")
    return fd


def _open(attr: _Attr, pid: int, cpu: int, program_fd: int) -> int:
    fd = _event(attr, pid, cpu)
    try:
        fcntl.ioctl(fd, _IOC_SET_BPF, program_fd)
        fcntl.ioctl(fd, _IOC_ENABLE, 0)
    except OSError as error:
        os.close(fd)
        raise ProbeError(error.errno, f"perf event ioctl: {error.strerror}") from None
    return fd
