"""The bpf(2) system call: maps, programs, raw tracepoints. Stable kernel ABI (include/uapi/linux/bpf.h), so no library."""

from __future__ import annotations

import ctypes as ct
import errno
import os
import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import cache

_SYS_BPF = 321
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD, _RAW_TRACEPOINT_OPEN, _MAP_LOOKUP_BATCH = 0, 1, 2, 3, 5, 17, 24
_LINK_CREATE = 28
_FIRST_BATCH = 256
_LOG_BYTES = 1 << 20
_NAME_BYTES = 15
_NO_EXIST = 1
_NO_PREALLOC = 1
EXIT_0 = bytes.fromhex("b700000000000000 9500000000000000")
"""The shortest program: r0 = 0; exit."""


class MapType(IntEnum):
    """The members of enum bpf_map_type that gotrace uses."""

    HASH = 1
    ARRAY = 2
    PERCPU_ARRAY = 6
    RINGBUF = 27


class ProgramType(IntEnum):
    """The members of enum bpf_prog_type that gotrace uses. Uprobe programs are of type KPROBE."""

    KPROBE = 2
    RAW_TRACEPOINT = 17
    TRACING = 26


class AttachType(IntEnum):
    """The members of enum bpf_attach_type that gotrace uses. NONE: the program does not say how it will be attached."""

    NONE = 0
    TRACE_FENTRY = 24
    TRACE_KPROBE_MULTI = 42
    TRACE_UPROBE_MULTI = 48


class BpfError(OSError):
    """The kernel refused; `log` is the verifier's report, if there is one."""

    errno: int
    strerror: str

    def __init__(self, number: int, what: str, log: str = "") -> None:
        super().__init__(number, f"{what}: {os.strerror(number)} ({errno.errorcode.get(number, number)})")
        self.log = log


def bpf(command: int, attr: bytes) -> int:
    """One bpf(2) call with the raw bytes of union bpf_attr; returns the result, or minus the errno."""
    return bpf_buffer(command, ct.create_string_buffer(attr, len(attr)))


def bpf_buffer(command: int, buffer: ct.Array[ct.c_char]) -> int:
    """Like `bpf`, with a buffer that the kernel may write to."""
    result = _syscall()(_SYS_BPF, command, buffer, len(buffer))
    return result if result >= 0 else -ct.get_errno()


@cache
def _syscall() -> Callable[..., int]:
    # Once: each CDLL creates a class for its functions, which takes longer than the call.
    return ct.CDLL(None, use_errno=True).syscall


def _name(name: str) -> bytes:
    return name.encode()[:_NAME_BYTES].ljust(16, b"\0")


# -- maps --------------------------------------------------------------------------------------------------------------


def create_map(kind: int, key_size: int, value_size: int, entries: int, name: str, on_demand: bool = False) -> int:
    """Returns a new map's descriptor. `on_demand`: a hash map gets memory for an element when it is inserted, not for all at once; usable
    in any program from Linux 6.1 on (kernel/bpf/memalloc.c).

    Raises:
        BpfError: the kernel refuses.
    """
    attr = struct.pack("<5I2I16s", kind, key_size, value_size, entries, _NO_PREALLOC * on_demand, 0, 0, _name(name))
    fd = bpf(_MAP_CREATE, attr)
    if fd < 0:
        raise BpfError(-fd, f"BPF map {name} of {entries} entries")
    os.set_inheritable(fd, False)
    return fd


def _element(fd: int, key: ct.Array[ct.c_char], value: ct.Array[ct.c_char], flags: int = 0) -> bytes:
    return struct.pack("<I4xQQQ", fd, ct.addressof(key), ct.addressof(value), flags)


def write_element(fd: int, key: bytes, value: bytes, only_new: bool = False) -> None:
    """Sets one element; raises BpfError, with `only_new` also (EEXIST) if it exists."""
    result = bpf(_MAP_UPDATE, _element(fd, key_buffer := _held(key), value_buffer := _held(value), _NO_EXIST * only_new))
    del key_buffer, value_buffer  # alive until here
    if result < 0:
        raise BpfError(-result, "BPF map update")


def delete_element(fd: int, key: bytes) -> None:
    """Removes one element, if it exists.

    Raises:
        BpfError: the kernel refuses.
    """
    key_buffer = _held(key)
    # Nothing after the key: the kernel refuses fields that it does not use (kernel/bpf/syscall.c: CHECK_ATTR).
    result = bpf(_MAP_DELETE, struct.pack("<I4xQ", fd, ct.addressof(key_buffer)))
    if result < 0 and result != -errno.ENOENT:
        raise BpfError(-result, "BPF map delete")


def read_element(fd: int, key: bytes, size: int) -> bytes:
    """Returns the raw bytes of one element; raises BpfError if it is absent. A per-CPU map needs `size` for all possible CPUs."""
    value = ct.create_string_buffer(size)
    key_buffer = _held(key)
    result = bpf(_MAP_LOOKUP, _element(fd, key_buffer, value))
    if result < 0:
        raise BpfError(-result, "BPF map look-up")
    return value.raw


def _held(data: bytes) -> ct.Array[ct.c_char]:
    return ct.create_string_buffer(data, len(data))


def read_table(fd: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, memoryview]]:
    """Yields all (key, value) of the hash map `fd`, as raw bytes, in batches (Linux 5.6): one system call for hundreds of entries. A
    value is only valid until the next one is requested.

    Raises:
        BpfError: the kernel refuses batch look-ups.
    """
    capacity = _FIRST_BATCH
    keys = ct.create_string_buffer(capacity * key_size)
    values = ct.create_string_buffer(capacity * value_size)
    # The cursor is opaque to us; the kernel writes at most max(key size, 4) bytes.
    cursor, following = ct.create_string_buffer(max(key_size, 8)), ct.create_string_buffer(max(key_size, 8))
    first = True
    while True:
        attr = _held(struct.pack(
            "<4QIIQQ", 0 if first else ct.addressof(cursor), ct.addressof(following), ct.addressof(keys),
            ct.addressof(values), capacity, fd, 0, 0,
        ))
        number = -bpf_buffer(_MAP_LOOKUP_BATCH, attr)
        if number == errno.ENOSPC:  # one hash bucket holds more than the buffer: try a larger one from the same place
            capacity *= 4
            keys = ct.create_string_buffer(capacity * key_size)
            values = ct.create_string_buffer(capacity * value_size)
            continue
        if number > 0 and number != errno.ENOENT:
            raise BpfError(number, "BPF map batch look-up")
        count, = struct.unpack_from("<I", attr, 32)
        view = memoryview(values)
        for index in range(min(count, capacity)):
            key = ct.string_at(ct.addressof(keys) + index * key_size, key_size)
            yield key, view[index * value_size : (index + 1) * value_size]
        if number == errno.ENOENT:
            return
        first = False
        ct.memmove(cursor, following, len(cursor))


# -- programs ----------------------------------------------------------------------------------------------------------


def load_program(
    kind: int, code: bytes, name: str, attach_type: AttachType = AttachType.NONE, function: int = 0
) -> int:
    """Returns the descriptor of a verified program. `function` is a kernel function's number in BTF, for a TRACING program.

    Raises:
        BpfError: the verifier refuses; its report is in `log`.
    """
    code_buffer, license_buffer = _held(code), ct.create_string_buffer(b"GPL")

    def attempt(log: ct.Array[ct.c_char] | None) -> int:
        return bpf(_PROG_LOAD, struct.pack(
            "<IIQQIIQII16sIIIIQIIQII", kind, len(code) // 8, ct.addressof(code_buffer), ct.addressof(license_buffer),
            1 if log is not None else 0, len(log) if log is not None else 0, ct.addressof(log) if log is not None else 0,
            0, 0, _name(name), 0, attach_type, 0, 0, 0, 0, 0, 0, 0, function,
        ))

    fd = attempt(None)
    if fd < 0:
        log = ct.create_string_buffer(_LOG_BYTES)
        # The report costs time, so it is requested only now; ENOSPC means that it was cut short.
        again = attempt(log)
        if again >= 0:
            return again
        raise BpfError(-fd, f"BPF program {name}", log.value.decode("utf-8", "replace"))
    return fd


def attach_raw_tracepoint(name: str, program_fd: int) -> int:
    """Runs the program at the kernel's raw tracepoint `name` until the returned descriptor is closed (no tracefs).

    Raises:
        BpfError: the kernel refuses, or has no such tracepoint.
    """
    buffer = ct.create_string_buffer(name.encode())
    fd = bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QII", ct.addressof(buffer), program_fd, 0))
    if fd < 0:
        raise BpfError(-fd, f"raw tracepoint {name}")
    return fd


def attach_fentry(program_fd: int) -> int:
    """Runs a program that was loaded as TRACE_FENTRY, at the function for which it was loaded, until the returned descriptor is
    closed.

    Raises:
        BpfError: the kernel refuses.
    """
    fd = bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QII", 0, program_fd, 0))
    if fd < 0:
        raise BpfError(-fd, "attaching by fentry")
    return fd


def attach_uprobe_link(path: str, offset: int, pid: int, program_fd: int) -> int:
    """Like `gotrace.kernel.perf_event.open_uprobe`, but by a link (Linux 6.6), for a program that was loaded as
    TRACE_UPROBE_MULTI.

    Raises:
        BpfError: the kernel refuses.
    """
    name, offsets = ct.create_string_buffer(os.fsencode(path)), (ct.c_uint64 * 1)(offset)
    fd = bpf(_LINK_CREATE, struct.pack(
        "<IIIIQQQQIII", program_fd, 0, AttachType.TRACE_UPROBE_MULTI, 0, ct.addressof(name), ct.addressof(offsets),
        0, 0, 1, 0, pid,
    ))
    if fd < 0:
        raise BpfError(-fd, "uprobe link")
    return fd


def attach_kprobe_link(function: str, program_fd: int) -> int:
    """Runs a program that was loaded as TRACE_KPROBE_MULTI whenever the kernel calls `function` (Linux 5.18).

    Raises:
        BpfError: the kernel refuses.
    """
    name = ct.create_string_buffer(function.encode())
    names = (ct.c_uint64 * 1)(ct.addressof(name))
    fd = bpf(_LINK_CREATE, struct.pack(
        "<IIIIIIQQQ", program_fd, 0, AttachType.TRACE_KPROBE_MULTI, 0, 0, 1, ct.addressof(names), 0, 0
    ))
    if fd < 0:
        raise BpfError(-fd, "kprobe link")
    return fd


def possible_cpus() -> int:
    """The number of CPUs for which a per-CPU map has a slot.

    Raises:
        OSError: /sys/devices/system/cpu/possible can't be read.
    """
    with open("/sys/devices/system/cpu/possible") as file:
        return int(file.read().strip().split(",")[-1].split("-")[-1]) + 1
