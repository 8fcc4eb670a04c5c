"""Adds to the kernel's tables what was found in memory or /proc, and clears them between two windows."""

from __future__ import annotations

import contextlib
import ctypes as ct
import struct

from gotrace.kernel.bpf import BpfError
from gotrace.kernel.maps import ONLY, Maps
from gotrace.kernel.records import KernelObject
from gotrace.kernel.rows import pack_object, pack_stack, stack_hash
from gotrace.kernel.structs import (
    BY_LEAF_SIZES,
    BY_SIZES,
    LEAF_BLOCK,
    MAX_PAUSES,
    Arrival,
    Goroutine,
    Pause,
    Thread,
    Wait,
    World,
)


class TableWriter:
    """Of one trace."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._frame_sizes: set[int] = set()
        self._walked_by = 0

    def put_object(self, thing: KernelObject) -> int:
        """Adds a file or socket to the kernel's table and returns its number there; raises BpfError if that is full."""
        raw = pack_object(thing)
        number = stack_hash(tuple(word for word, in struct.iter_unpack("<Q", bytes(raw))))
        self._maps.put("objects", number, raw)
        return number

    def put_stack(self, pcs: tuple[int, ...], exact: bool = False) -> int:
        """Adds a stack, leaf first, to the kernel's table and returns its number there; raises BpfError if that is full."""
        number = stack_hash(pcs)
        self._maps.put("stacks", number, pack_stack(pcs, exact))
        return number

    def put_frame_sizes(self, sizes: dict[int, int]) -> None:
        """Has stacks walked by the sizes of these frames, by their return addresses, or by the block of code that a thread stops in, where
        they have one of them (`StackModel.frame_sizes`). They are never forgotten."""
        new = sizes.keys() - self._frame_sizes
        if not new:
            return
        with contextlib.suppress(BpfError):  # the map is full: those stacks stay as they are
            for pc in new:
                self._maps.write("frame_sizes", struct.pack("<Q", pc), struct.pack("<Q", sizes[pc]))
        self._frame_sizes |= new
        for key in new:
            self._walked_by |= BY_LEAF_SIZES if key & LEAF_BLOCK else BY_SIZES
        self._maps.write("by_sizes", ONLY, struct.pack("<Q", self._walked_by))

    def forget(self, end_ns: int) -> None:
        """Clears what is known of goroutines and threads, and ends at `end_ns` a stop of the world that lasts. Only between two
        windows, when no probe is placed: what happens until the next one opens is not seen."""
        for name, key, value in (
            ("goroutines", ct.c_uint64, Goroutine), ("threads", ct.c_uint32, Thread), ("last_g", ct.c_uint32, ct.c_uint64),
            ("waits", ct.c_uint64, Wait), ("watched", ct.c_uint64, Arrival),
        ):
            self._maps.clear(name, key, value)
        state = self._maps.read("world", ONLY, World)
        if state.stopped_since and 0 < state.pauses <= MAX_PAUSES:
            index = struct.pack("<I", state.pauses - 1)
            pause = self._maps.read("pauses", index, Pause)
            pause.duration_ns = max(1, end_ns - pause.start_ns)
            self._maps.write("pauses", index, bytes(pause))
        self._maps.write("world", ONLY, bytes(World(pauses=state.pauses)))

    def forget_threads(self) -> None:
        """Clears what is known of threads, when no tracepoint is placed."""
        self._maps.clear("threads", ct.c_uint32, Thread)
