"""Turns compiled programs into loaded ones: creates the maps, writes the constants in, and has the kernel verify the programs."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from gotrace.common.errors import Refused
from gotrace.kernel.bpf import AttachType, BpfError, MapType, ProgramType, create_map, load_program
from gotrace.kernel.compilation import CompiledPrograms, MapShape, keep_log
from gotrace.kernel.host.features import maps_may_grow
from gotrace.kernel.program import LOAD_MARK, VARIANTS, constant_names
from gotrace.kernel.uprobes import program_attach_type

_LDDW = 0x18
_PSEUDO_MAP_FD = 1
_KPROBES = frozenset(("on_poll_event",))
"""Programs of type KPROBE that are for functions of the kernel; all others are for uprobes."""
_LARGE = 1 << 18
"""Elements. Larger maps, for hundreds of thousands of goroutines that mostly never move, get memory only for what they contain."""
_GROWING = frozenset(("more_intervals", "more_stacks", "spans", "span_rows"))
_HINTS = {
    errno.ENOMEM: "raise the memory limit of gotrace's cgroup (docker: --memory), or free some memory",
    errno.EMFILE: "ulimit -n 4096; systemd: LimitNOFILE=",
}

@dataclass
class LoadedPrograms:
    """Descriptors of maps and programs by name. Closing them removes everything from the kernel."""

    maps: dict[str, int] = field(default_factory=dict)
    programs: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, MapShape] = field(default_factory=dict)

    def close(self) -> None:
        """Closes them. May be called twice."""
        for table in (self.programs, self.maps):
            while table:
                os.close(table.popitem()[1])


def load(
    compiled: CompiledPrograms, programs: dict[str, ProgramType], constants: dict[str, int], entries: dict[str, int],
    beside: Callable[[], None] | None = None,
) -> LoadedPrograms:
    """Creates the maps (with `entries` by name, otherwise as in the C source), then loads `programs`. `beside` is called on another thread
    while the verifier is busy. It is not called earlier: if memory is too short for a map, the kernel fails the call, but kills a
    process that touches a new page meanwhile.

    Raises:
        Refused: the kernel refuses a map or a program.
        Exception: whatever `beside` raises.
    """
    _lift_limits()
    loaded = LoadedPrograms()
    try:
        _make_maps(loaded, compiled, entries)
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(beside) if beside else None
            loaded.programs = load_programs(compiled, programs, constants, loaded.maps)
            if work:
                work.result()
    except BaseException:
        loaded.close()
        raise
    return loaded


def _make_maps(loaded: LoadedPrograms, compiled: CompiledPrograms, entries: dict[str, int]) -> None:
    with _refusals():
        for shape in compiled.maps:
            loaded.shapes[shape.name] = shape
            ring = shape.kind == MapType.RINGBUF
            number = entries.get(shape.name, shape.entries)
            loaded.maps[shape.name] = create_map(
                shape.kind, 0 if ring else shape.key_size, 0 if ring else shape.value_size, number, shape.name,
                shape.kind == MapType.HASH and (number > _LARGE or shape.name in _GROWING) and maps_may_grow(),
            )


def load_programs(
    compiled: CompiledPrograms, programs: dict[str, ProgramType], constants: dict[str, int], maps: dict[str, int],
) -> dict[str, int]:
    """Has `programs` verified for existing maps; returns their descriptors by name.

    Raises:
        Refused: the kernel refuses one; none is left then.
    """
    fds = [maps[shape.name] for shape in compiled.maps]
    loaded: dict[str, int] = {}
    with _refusals():
        # In parallel: the verifier takes a while for each.
        uprobe_type = program_attach_type()
        with ThreadPoolExecutor(len(programs)) as pool:
            loading = {}
            for name, kind in programs.items():
                entry, own = VARIANTS.get(name, (name, {}))
                code = relocated(compiled.code[entry], constants | own, fds)
                loading[name] = pool.submit(
                    load_program, kind, code, name,
                    uprobe_type if kind is ProgramType.KPROBE and name not in _KPROBES else AttachType.NONE,
                )
            errors = [future.exception() for future in loading.values()]
            loaded = {name: future.result() for name, future in loading.items() if future.exception() is None}
        if first := next((error for error in errors if error is not None), None):
            for fd in loaded.values():
                os.close(fd)
            raise first
    return loaded


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except BpfError as error:
        hint = _HINTS.get(error.errno, "gotrace doctor")
        if error.log:
            hint = f"the verifier's report is in {keep_log(error.log)}; gotrace doctor"
        raise Refused(f"the kernel refuses {error.strerror}", hint) from None


def relocated(code: bytes, constants: dict[str, int], map_fds: list[int]) -> bytes:
    """Returns the instructions with the constants' values and the maps' descriptors filled in.

    Raises:
        KeyError: a constant has no value.
    """
    names = constant_names()
    out = bytearray(code)
    at = 0
    while at < len(out):
        if out[at] != _LDDW:
            at += 8
            continue
        low, = struct.unpack_from("<I", out, at + 4)
        high, = struct.unpack_from("<I", out, at + 12)
        if out[at + 1] >> 4 == _PSEUDO_MAP_FD:
            struct.pack_into("<i", out, at + 4, map_fds[low])
        elif high == LOAD_MARK:
            value = constants[names[low]] & 0xFFFFFFFFFFFFFFFF
            struct.pack_into("<I", out, at + 4, value & 0xFFFFFFFF)
            struct.pack_into("<I", out, at + 12, value >> 32)
        at += 16
    return bytes(out)


def _lift_limits() -> None:
    # Kernels before 5.11 account maps as locked memory; every traced process takes about fifty descriptors.
    for what, wishes in (
        (resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, None)), (resource.RLIMIT_NOFILE, (None,)),
    ):
        hard = resource.getrlimit(what)[1]
        for wish in wishes:  # without CAP_SYS_RESOURCE no more than is allowed
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(what, (wish or hard, wish or hard))
                break
