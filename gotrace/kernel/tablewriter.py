"""Adds what was found in memory or /proc to the kernel's tables, and clears them between two windows."""

from __future__ import annotations

import contextlib
import ctypes as ct
import struct
from collections.abc import Sequence

from gotrace.kernel.bpf import BpfError
from gotrace.kernel.maps import ONLY, Maps
from gotrace.kernel.records import KernelObject
from gotrace.kernel.rows import labels_hash, pack_labels, pack_object, pack_stack, stack_hash
from gotrace.kernel.structs import (
    BY_LEAF_SIZES,
    BY_SIZES,
    LABELS_OTHER,
    LEAF_BLOCK,
    MAX_PAUSES,
    SELECT_CASES,
    Arrival,
    Goroutine,
    Labelled,
    Pause,
    Thread,
    Wait,
    World,
)
from gotrace.kernel.waited import MOST_CASES, NO_ROOM, Waited, number_of_select


class TableWriter:
    """Writes the tables of one trace. `labels_left_out` counts sets of labels for which there was no room, `labels_unread` those that could
    not be read from memory."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._frame_sizes: set[int] = set()
        self._walked_by = 0
        self.labels_left_out = self.labels_unread = 0

    def put_object(self, thing: KernelObject) -> int:
        """Adds a file or socket to the kernel's table and returns its number there; raises BpfError if the table is full."""
        raw = pack_object(thing)
        number = stack_hash(tuple(word for word, in struct.iter_unpack("<Q", bytes(raw))))
        self._maps.put("objects", number, raw)
        return number

    def put_labels(self, values: Sequence[tuple[bytes, int] | None]) -> int:
        """Adds the wanted labels of a goroutine (`rows.pack_labels`) to the kernel's table and returns their number there."""
        raw = pack_labels(values)
        number = labels_hash(raw)
        try:
            self._maps.put("label_values", number, raw)
        except BpfError:
            self.labels_left_out += 1
            return LABELS_OTHER
        return number

    def put_labelled(self, g: int, at: int, number: int) -> None:
        """Records what a goroutine's labels are, which lie at `at`, unless the kernel side has read them."""
        with contextlib.suppress(BpfError):
            self._maps.put("labelled", g, Labelled(at, number))

    def put_stack(self, pcs: tuple[int, ...], exact: bool = False) -> int:
        """Adds a stack, leaf first, to the kernel's table and returns its number there; raises BpfError if the table is full."""
        number = stack_hash(pcs)
        self._maps.put("stacks", number, pack_stack(pcs, exact))
        return number

    def put_waited(self, addresses: tuple[int, ...], select: bool, channels: bool) -> int:
        """Adds what a goroutine waits for in Go: one address, or the channels of a select. Returns its number, NO_ROOM if there is no
        room."""
        number = number_of_select(addresses) if select else addresses[0]
        cases = min(len(addresses), MOST_CASES + 1) if select else 0
        waited = Waited(cases, tuple(addresses[: min(cases, SELECT_CASES)]))
        try:
            self._maps.put("waited_channels" if channels else "waited_locks", number, waited)
        except BpfError:
            return NO_ROOM
        return number

    def put_waited_before(self, numbers: dict[int, int]) -> None:
        """By g: what goroutines wait for that have not moved since the window began."""
        with contextlib.suppress(BpfError):
            for g, number in numbers.items():
                self._maps.write("waited_before", struct.pack("<Q", g), struct.pack("<Q", number))

    def put_frame_sizes(self, sizes: dict[int, int]) -> None:
        """Has stacks walked by the sizes of these frames: by return address, or by the block of code in which a thread stops
        (`StackModel.frame_sizes`). They are kept for the whole trace."""
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
        """Clears what is known of goroutines and threads, and ends a stop of the world that still lasts at `end_ns`. Only between two
        windows, when no probe is placed: nothing is seen until the next one opens."""
        for name, key, value in (
            ("goroutines", ct.c_uint64, Goroutine), ("threads", ct.c_uint32, Thread), ("last_g", ct.c_uint32, ct.c_uint64),
            ("waits", ct.c_uint64, Wait), ("labelled", ct.c_uint64, Labelled), ("watched", ct.c_uint64, Arrival),
            ("waited_before", ct.c_uint64, ct.c_uint64),
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
