"""The parts of BPF programs, and what each costs on this host: the least that an interval costs."""

from __future__ import annotations

import contextlib
import ctypes as ct
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.table import Table

from benchmarks.paired import spread
from gotrace.common.errors import GotraceError
from gotrace.kernel.bpf import EXIT_0, MapType, ProgramType, create_map, load_program, write_element
from gotrace.kernel.calibrate import measure_trap_ns
from gotrace.kernel.stats import close, enable_stats, program_stats
from gotrace.kernel.structs import Goroutine, IntervalKey, IntervalValue
from gotrace.kernel.uprobes import attach_uprobe, probed_code, program_attach_type

_HITS = 20_000
_OFTEN = 17
_KEY_AT = -96
"""The place of a key of up to 72 bytes on the program's stack."""
_SPACE = 4096
_COUNTER_AT = _SPACE - 8
_PLACES = 8192
"""The number of rows, and of pieces of memory, used to miss the CPU's caches: a power of two."""
_APART = 2048
_SCATTER = 2531
"""Odd: as a factor it gives an order of the places that defeats prefetching."""
# include/uapi/linux/bpf.h: enum bpf_func_id
_LOOKUP, _CLOCK, _PID, _READ_USER, _READ_KERNEL = 1, 5, 14, 112, 113


def _instruction(opcode: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", opcode, source << 4 | target, offset, value)


def _call(helper: int) -> bytes:
    return _instruction(0x85, value=helper)


def _constant(register: int, value: int) -> bytes:
    """64 bits, which take two instructions."""
    low, high = struct.unpack("<ii", struct.pack("<Q", value))
    return _instruction(0x18, register, value=low) + _instruction(0, value=high)


def _map(register: int, fd: int) -> bytes:
    return _instruction(0x18, register, 1, value=fd) + _instruction(0)


def _copy(register: int, source: int, plus: int = 0) -> bytes:
    return _instruction(0xBF, register, source) + (_instruction(0x07, register, value=plus) if plus else b"")


def _number(register: int, value: int) -> bytes:
    return _instruction(0xB7, register, value=value)


def _load(register: int, source: int, offset: int) -> bytes:
    return _instruction(0x79, register, source, offset)


def _store(target: int, offset: int, register: int) -> bytes:
    return _instruction(0x7B, target, register, offset)


def _next_place(register: int) -> bytes:
    """Another of `_PLACES` each time."""
    return (
        _load(register, 7, _COUNTER_AT) + _instruction(0x07, register, value=1) + _store(7, _COUNTER_AT, register)
        + _instruction(0x27, register, value=_SCATTER) + _instruction(0x57, register, value=_PLACES - 1)
    )


@dataclass(frozen=True)
class _Part:
    """Something that a program does, as instructions; `in_interval` is how often an exact interval needs it."""

    title: str
    code: bytes
    in_interval: int = 0


def measure_helpers(pairs: int, say: Callable[[str], None]) -> Table:
    """ns of each part, medians of `pairs` measurements on code of our own; in the CPU's caches but where it says that it is one of many.

    Raises:
        GotraceError: the kernel does not time BPF programs.
    """
    timing = enable_stats()
    if timing is None:
        raise GotraceError("the kernel does not time BPF programs (Linux 5.8)")
    table = Table(title="What a BPF program is made of, ns", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("", "ns", "low-high", "in an exact interval, at least", "ns"):
        table.add_column(heading, justify="right" if heading else "left")
    memory = ct.create_string_buffer(b"x" * (_PLACES * _APART))
    least = 0.0
    try:
        with _maps() as (space, by_eight, by_row), probed_code() as (path, loop):
            traps = [measure_trap_ns() for _ in range(pairs)]
            say(f"helpers: a trap takes {spread(traps).median:.0f} ns")
            empty = spread([_run(EXIT_0, path, loop) for _ in range(pairs)])
            for part in _parts(space, by_eight, by_row, ct.addressof(memory)):
                say(f"helpers: {part.title}")
                found = spread([_each(part, space, path, loop) for _ in range(pairs)])
                least += found.median * part.in_interval
                table.add_row(
                    part.title, f"{found.median:.0f}", f"{found.low:.0f}-{found.high:.0f}", str(part.in_interval or ""),
                    f"{found.median * part.in_interval:.0f}" if part.in_interval else "",
                )
    finally:
        close(timing)
    table.add_row("all that an exact interval needs", "", "", "", f"{least:.0f}")
    table.add_row("a trap (beside its program)", f"{spread(traps).median:.0f}", f"{min(traps)}-{max(traps)}", "2")
    table.add_row("the kernel's accounting of a program, if enabled", f"{empty.median:.0f}", f"{empty.low:.0f}-{empty.high:.0f}", "2")
    return table


def _parts(space: int, by_eight: int, by_row: int, address: int) -> list[_Part]:
    def read(helper: int, size: int, source: bytes) -> bytes:
        return _copy(1, 7) + _number(2, size) + source + _call(helper)

    def look_up(fd: int) -> bytes:
        return _map(1, fd) + _copy(2, 10, _KEY_AT) + _call(_LOOKUP)

    theirs = _constant(3, address)
    scattered = _instruction(0x67, 4, value=_APART.bit_length() - 1) + _instruction(0x0F, 3, 4)
    # Its count, total and a bucket of its histogram.
    touched = _instruction(0x15, 0, offset=2) + _load(1, 0, 0) + _load(1, 0, IntervalValue.histogram.offset + 512)
    return [
        _Part("the target's memory, 8 bytes", read(_READ_USER, 8, theirs)),
        _Part("the target's memory, 256 bytes (g and stack)", read(_READ_USER, 256, theirs), 2),
        _Part("the target's memory, 2,048 bytes", read(_READ_USER, 2048, theirs)),
        _Part(f"the target's memory, 256 bytes at one of {_PLACES:,} places", _next_place(4) + read(_READ_USER, 256, theirs + scattered)),
        _Part("the kernel's memory, 256 bytes", read(_READ_KERNEL, 256, _copy(3, 7, 2048))),
        _Part("the clock", _call(_CLOCK), 2),
        _Part("the thread's number", _call(_PID)),
        _Part("look-up by 8 bytes (goroutine)", look_up(by_eight), 2),
        _Part(f"look-up by {ct.sizeof(IntervalKey)} bytes (sums of a stack)", look_up(by_row), 1),
        _Part(f"the same and two words of the row, one of {_PLACES:,} rows", _next_place(1) + _store(10, _KEY_AT, 1) + look_up(by_row) + touched),
        _Part("atomic addition (count, total, squares, histogram)", _number(1, 1) + _instruction(0xDB, 7, 1), 4),
    ]


@contextlib.contextmanager
def _maps() -> Iterator[tuple[int, int, int]]:
    """A buffer to read into, and two tables like those of goroutines and of intervals, with the rows that are looked up."""
    key = ct.sizeof(IntervalKey)
    with contextlib.ExitStack() as stack:
        fds = [
            create_map(MapType.ARRAY, 4, _SPACE, 1, "space"),
            create_map(MapType.HASH, 8, ct.sizeof(Goroutine), 1024, "by_eight"),
            create_map(MapType.HASH, key, ct.sizeof(IntervalValue), 2 * _PLACES, "by_row"),
        ]
        for fd in fds:
            stack.callback(os.close, fd)
        write_element(fds[1], bytes(8), bytes(ct.sizeof(Goroutine)))
        for number in range(_PLACES):
            write_element(fds[2], number.to_bytes(key, "little"), bytes(ct.sizeof(IntervalValue)))
        yield fds[0], fds[1], fds[2]


def _each(part: _Part, space: int, path: str, loop: Callable[[int], object]) -> float:
    """The cost of a part: the difference between doing it many times and once in a program."""
    once, often = (_run(_program(part.code * times, space), path, loop) for times in (1, _OFTEN))
    return (often - once) / (_OFTEN - 1)


def _program(body: bytes, space: int) -> bytes:
    """The program, with a buffer in r7 and a key of zeros on the stack."""
    zeros = b"".join(_instruction(0x7A, 10, offset=at) for at in range(_KEY_AT, 0, 8))
    found = _map(1, space) + _copy(2, 10, _KEY_AT) + _call(_LOOKUP) + _instruction(0x55, 0, offset=2) + EXIT_0 + _copy(7, 0)
    return zeros + found + body + EXIT_0


def _run(code: bytes, path: str, loop: Callable[[int], object]) -> float:
    """ns that the program takes per hit, as the kernel counts."""
    program = load_program(ProgramType.KPROBE, code, "helpers", program_attach_type())
    try:
        probe = attach_uprobe(path, 0, os.getpid(), program)
        try:
            loop(_HITS)
        finally:
            os.close(probe)
        stats = program_stats(program)
    finally:
        os.close(program)
    return stats.run_ns / max(1, stats.runs)
