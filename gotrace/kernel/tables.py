"""Reads what the BPF programs have recorded, and adds what was found in memory or /proc. Nothing here knows of symbols."""

from __future__ import annotations

import contextlib
import ctypes as ct
import errno
import struct
from collections.abc import Iterator
from itertools import chain, islice

from gotrace.common.vocabulary import Loss, StartKind, Stat
from gotrace.kernel.bpf import BpfError, delete_element, possible_cpus, read_element, read_table, write_element
from gotrace.kernel.records import (
    NO_STACK,
    BlockedThread,
    IntervalRow,
    KernelObject,
    OpenInterval,
    OpenThread,
    RawStack,
    RunningTime,
    UnseenWait,
    WorldPause,
)
from gotrace.kernel.rows import pack_object, pack_stack, parse_object, parse_row, parse_stack, stack_hash
from gotrace.kernel.structs import (
    BY_LEAF_SIZES,
    BY_SIZES,
    GOROUTINE_BORN,
    GOROUTINE_ENDED,
    GOROUTINE_UNSURE,
    LEAF_BLOCK,
    MAX_PAUSES,
    THREAD_BASE,
    THREAD_BEFORE,
    THREAD_CONTINUES,
    THREAD_HALTED,
    THREAD_OUTSIDE,
    THREAD_QUEUED,
    WAIT_BEFORE,
    WAIT_COUNTED,
    WAIT_INTERRUPTED,
    WAIT_INTERRUPTIBLE,
    WAIT_SHORT,
    Arrival,
    Goroutine,
    Halt,
    IntervalKey,
    IntervalValue,
    MemberKey,
    Object,
    Pause,
    Stack,
    Thread,
    UnixPath,
    Wait,
    World,
)

_UNSEEN_NS = 1_000_000
"""Shorter waits that nobody saw begin are within what it takes to open a window."""
_LOSSES = {
    Stat.GOROUTINE_TABLE_FULL: Loss.GOROUTINE_TABLE_FULL,
    Stat.STACK_TABLE_FULL: Loss.STACK_TABLE_FULL,
    Stat.GOROUTINE_SET_FULL: Loss.GOROUTINE_SET_FULL,
    Stat.RING_FULL: Loss.RING_FULL,
    Stat.INTERVAL_LOST: Loss.INTERVAL_LOST,
    Stat.STACK_TRUNCATED: Loss.STACK_TRUNCATED,
    Stat.STACK_UNREADABLE: Loss.STACK_UNREADABLE,
    Stat.START_WHILE_STOPPED: Loss.START_WHILE_STOPPED,
    Stat.END_WHILE_RUNNING: Loss.END_WHILE_RUNNING,
    Stat.WAKER_LOST: Loss.WAKER_LOST,
    Stat.OBJECT_TABLE_FULL: Loss.OBJECT_TABLE_FULL,
    Stat.THREAD_STACK_UNREADABLE: Loss.THREAD_STACK_UNREADABLE,
    Stat.STACK_IN_TRANSIT: Loss.STACK_IN_TRANSIT,
    Stat.KERNEL_STACK_LOST: Loss.KERNEL_STACK_LOST,
    Stat.PAUSE_TABLE_FULL: Loss.PAUSE_TABLE_FULL,
    Stat.START_UNSEEN: Loss.START_UNSEEN,
    Stat.SWITCH_UNSEEN: Loss.SWITCH_UNSEEN,
    Stat.ARRIVAL_UNWATCHED: Loss.ARRIVALS_MISSED,
}
_START = slice(Goroutine.start_ns.offset, Goroutine.start_ns.offset + Goroutine.start_ns.size)
_INTERVALS = ("intervals", "more_intervals")


class Tables:
    """The maps of one trace, by name, as records. Times are of CLOCK_MONOTONIC."""

    def __init__(self, maps: dict[str, int]) -> None:
        self._maps = maps
        self._possible_cpus = possible_cpus()
        self._seen: dict[bytes, int] = {}
        self._pass: Iterator[IntervalRow] | None = None
        self._stacks: dict[int, RawStack] = {}
        self._frame_sizes: set[int] = set()
        self._walked_by = 0
        self._objects: dict[int, KernelObject | None] = {}

    # -- sums ----------------------------------------------------------------------------------------------------------

    def read_rows(self, at_most: int = 0) -> list[IntervalRow]:
        """The sums of those rows that changed since they were read last. With `at_most` no more than so many, and the next such
        call goes on where this one stopped: fewer means that the table's end was reached. Without it all, each as of now."""
        if self._pass is None or not at_most:
            self._pass = self._changed_rows()
        rows = list(islice(self._pass, at_most or None))
        if len(rows) < at_most or not at_most:
            self._pass = None
        return rows

    def close(self) -> None:
        """No more rows are read: what is remembered of them is let go."""
        self._seen.clear()
        self._stacks.clear()
        self._objects.clear()

    def _changed_rows(self) -> Iterator[IntervalRow]:
        for raw_key, raw in chain.from_iterable(self._table(name, IntervalKey, IntervalValue) for name in _INTERVALS):
            # Count and total: a wait that goes on after an interruption adds to the one alone, one of no length to the other.
            figures = hash(bytes(raw[:16]))
            if self._seen.get(raw_key) == figures:
                continue
            self._seen[raw_key] = figures
            row = parse_row(raw_key, raw)
            self.resolve(row)
            yield row

    def resolve(self, row: IntervalRow) -> None:
        """Fills in what the row's key names in other tables."""
        key = row.key
        if row.stack is NO_STACK:
            row.stack = self.stack(key.stack if key.stack >= 0 else -1 - key.stack) or NO_STACK
        row.kernel_stack = self.stack(key.kernel_stack) if key.kernel_stack else None
        row.waker = self.stack(key.waker) if key.waker else None
        row.object = self.object(key.object) if key.object else None

    def stack(self, number: int) -> RawStack | None:
        """A stack by its number in the kernel's table; None if the table was full."""
        if number not in self._stacks:
            raw = self._element("stacks", number, Stack) or self._element("more_stacks", number, Stack)
            if raw is None:
                return None
            self._stacks[number] = parse_stack(raw)
        return self._stacks[number]

    def object(self, number: int) -> KernelObject | None:
        """A file or socket by its number in the kernel's table."""
        if number not in self._objects:
            raw = self._element("objects", number, Object)
            self._objects[number] = None if raw is None else parse_object(
                Object.from_buffer_copy(raw), lambda path: self._element("unix_paths", path, UnixPath)
            )
        return self._objects[number]

    def read_members(self) -> Iterator[tuple[int, int]]:
        """(`member_hash`, goid) of every goroutine that was counted for a stack; some may come twice."""
        return (struct.unpack("<QQ", key) for key, _ in self._table("members", MemberKey, ct.c_uint64))

    def read_stats(self) -> dict[Stat, int]:
        """All counters, summed over the CPUs."""
        each = 8 * len(Stat)
        raw = read_element(self._maps["stats"], struct.pack("<I", 0), each * self._possible_cpus)
        of_cpus = struct.iter_unpack(f"<{len(Stat)}Q", raw)
        return dict(zip(Stat, map(sum, zip(*of_cpus, strict=True)), strict=True))

    def losses(self) -> dict[Loss, int]:
        """The kernel side's losses."""
        stats = self.read_stats()
        return {loss: stats[stat] for stat, loss in _LOSSES.items()}

    # -- what is going on ----------------------------------------------------------------------------------------------

    def read_open(self) -> tuple[dict[int, OpenInterval], set[int]]:
        """The intervals that are open, by g address, and the addresses of all goroutines in the table."""
        opened, known = {}, set()
        for raw_key, raw in self._table("goroutines", ct.c_uint64, Goroutine):
            g = int.from_bytes(raw_key, "little")
            known.add(g)
            if any(bytes(raw[_START])):  # of many none is open
                entry = Goroutine.from_buffer_copy(raw)
                opened[g] = OpenInterval(
                    g, entry.kind, entry.start_ns, entry.data_ns, entry.ready_ns, entry.waker, entry.object,
                    entry.stopped_at_start, entry.stopped_at_data, entry.stopped_at_ready, entry.long_run_ns,
                    entry.margin_ns if entry.kind == StartKind.SCHEDULE else 0, entry.halted_at_start, entry.halted_at_ready,
                )
        return opened, known

    def open_since(self, g: int) -> int:
        """When the open interval of the goroutine at `g` began, 0 if there is none."""
        raw = self._element("goroutines", g, Goroutine)
        return 0 if raw is None else Goroutine.from_buffer_copy(raw).start_ns

    def read_running(self) -> list[RunningTime]:
        """The accounts of all goroutines in the table."""
        entries = ((key, Goroutine.from_buffer_copy(raw)) for key, raw in self._table("goroutines", ct.c_uint64, Goroutine))
        return [
            RunningTime(int.from_bytes(key, "little"), e.run_ns, e.off_ns, e.run_since, bool(e.flags & (GOROUTINE_BORN | GOROUTINE_ENDED)))
            for key, e in entries
        ]

    def read_unseen(self) -> list[UnseenWait]:
        """Of at least a millisecond."""
        entries = (Goroutine.from_buffer_copy(raw) for _, raw in self._table("goroutines", ct.c_uint64, Goroutine))
        return [UnseenWait(e.unseen_goid, e.unseen_ns) for e in entries if e.unseen_ns >= _UNSEEN_NS]

    def read_open_threads(self) -> list[OpenThread]:
        """The threads that are off their CPU with a goroutine."""
        entries = (Thread.from_buffer_copy(raw) for _, raw in self._table("threads", ct.c_uint32, Thread))
        return [
            OpenThread(
                e.g, e.goid, e.kind, e.out_ns, e.woken_ns, e.stack, e.kernel_stack, e.object, e.syscall, e.stopped_at_out,
                e.stopped_at_woken, e.long_run_ns, bool(e.throttled), e.halted_at_out,
                *self._carried(e),
            )
            for e in entries if e.out_ns
        ]

    def _carried(self, thread: Thread) -> tuple[int, bool, bool]:
        """Of a thread that sleeps in a wait again that was interrupted: `OpenThread.carried_ns`, `counted`, `before`."""
        raw = self._element("waits", thread.g, Wait) if thread.flags & THREAD_CONTINUES else None
        if raw is None:
            return 0, False, False
        wait = Wait.from_buffer_copy(raw)
        return wait.ns, bool(wait.flags & WAIT_COUNTED), bool(wait.flags & WAIT_BEFORE)

    def read_pauses(self, since: int = 0) -> list[WorldPause]:
        """Stop-the-world pauses from the one with number `since` on; the last one may still last."""
        began = World.from_buffer_copy(read_element(self._maps["world"], bytes(4), ct.sizeof(World))).pauses
        found = []
        for index in range(since, min(began, MAX_PAUSES)):
            entry = Pause.from_buffer_copy(
                read_element(self._maps["pauses"], struct.pack("<I", index), ct.sizeof(Pause))
            )
            found.append(WorldPause(entry.start_ns, entry.duration_ns, entry.reason))
        return found

    def stopped_ns(self, until_ns: int) -> int:
        """How long the world had been stopped in all, as bpf/maps.c: stopped_until counts it."""
        world = World.from_buffer_copy(read_element(self._maps["world"], bytes(4), ct.sizeof(World)))
        total: int = world.stopped_ns + (max(0, until_ns - world.stopped_since) if world.stopped_since else 0)
        return total

    def halted_ns(self, until_ns: int) -> int:
        """How long the process had been stopped from outside in all, as bpf/maps.c: halted_until counts it."""
        state = Halt.from_buffer_copy(read_element(self._maps["halt"], bytes(4), ct.sizeof(Halt)))
        total: int = state.total_ns + (max(0, until_ns - state.since) if state.since else 0)
        return total

    def threads_outside(self) -> int:
        """How many threads were seen in C, with no Go code below."""
        return sum(bool(Thread.from_buffer_copy(raw).flags & THREAD_OUTSIDE) for _, raw in self._table("threads", ct.c_uint32, Thread))

    # -- adding --------------------------------------------------------------------------------------------------------

    def put_object(self, thing: KernelObject) -> int:
        """Adds a file or socket to the kernel's table and returns its number there; raises BpfError if that is full."""
        raw = pack_object(thing)
        number = stack_hash(tuple(word for word, in struct.iter_unpack("<Q", bytes(raw))))
        self._put("objects", number, raw)
        return number

    def put_stack(self, pcs: tuple[int, ...], exact: bool = False) -> int:
        """Adds a stack, leaf first, to the kernel's table and returns its number there; raises BpfError if that is full."""
        number = stack_hash(pcs)
        self._put("stacks", number, pack_stack(pcs, exact))
        return number

    def put_frame_sizes(self, sizes: dict[int, int]) -> None:
        """Has stacks walked by the sizes of these frames, by their return addresses, or by the block of code that a thread stops in, where
        they have one of them (`StackModel.frame_sizes`). They are never forgotten."""
        new = sizes.keys() - self._frame_sizes
        if not new:
            return
        with contextlib.suppress(BpfError):  # the map is full: those stacks stay as they are
            for pc in new:
                write_element(self._maps["frame_sizes"], struct.pack("<Q", pc), struct.pack("<Q", sizes[pc]))
        self._frame_sizes |= new
        for key in new:
            self._walked_by |= BY_LEAF_SIZES if key & LEAF_BLOCK else BY_SIZES
        write_element(self._maps["by_sizes"], struct.pack("<I", 0), struct.pack("<Q", self._walked_by))

    def _put(self, table: str, number: int, value: ct.Structure) -> None:
        try:
            write_element(self._maps[table], struct.pack("<Q", number), bytes(value), only_new=True)
        except BpfError as error:
            if error.errno != errno.EEXIST:
                raise

    def add_blocked(self, thread: BlockedThread, since_ns: int) -> None:
        """Makes it known that a thread has been off its CPU; nothing, if the kernel side knows better already."""
        kernel = stack_hash(thread.kernel_stack) if thread.kernel_stack else 0
        object_number = 0
        flags = thread.stack.exact, thread.stack.unreadable
        number = stack_hash((*thread.stack.pcs, *map(int, flags)) if any(flags) else thread.stack.pcs)
        with contextlib.suppress(BpfError):
            self._put("stacks", number, pack_stack(thread.stack.pcs, thread.stack.exact, thread.stack.unreadable))
            if kernel:
                self._put("stacks", kernel, pack_stack(thread.kernel_stack))
            if thread.object is not None:
                object_number = self.put_object(thread.object)
            # It may have gone on before the window opens, and stopped elsewhere: no probe saw that.
            self._put("goroutines", thread.g, Goroutine(flags=GOROUTINE_UNSURE))
        entry = Thread(
            out_ns=since_ns, g=thread.g, goid=thread.goid, stack=number, kernel_stack=kernel,
            object=object_number, kind=thread.kind, syscall=thread.syscall,
            flags=THREAD_BEFORE,
            halted_at_out=self.halted_ns(since_ns),
        )
        if thread.kind != StartKind.STOPPED:
            wait = Wait(
                ip=thread.pc, sp=thread.sp, stack=number, kernel_stack=kernel, object=object_number, kind=thread.kind, syscall=thread.syscall,
                # The runtime may preempt it before the window opens, and another thread take it back to where it waits: that goes on with it.
                flags=WAIT_BEFORE | WAIT_SHORT | WAIT_INTERRUPTED | (WAIT_INTERRUPTIBLE if thread.interruptible else 0),
            )
            with contextlib.suppress(BpfError):
                write_element(self._maps["waits"], struct.pack("<Q", thread.g), bytes(wait))
        self._put_thread(thread.tid, entry)

    def _put_thread(self, tid: int, entry: Thread) -> None:
        with contextlib.suppress(BpfError):
            write_element(self._maps["threads"], struct.pack("<I", tid), bytes(entry), only_new=True)

    def add_blocked_late(self, thread: BlockedThread, start_ns: int) -> bool:
        """`add_blocked` for a thread that was found after the window opened at `start_ns`, if the kernel side has seen nothing of it since: a
        thread that had a CPU then has been seen to leave it. Returns whether it has noted that."""
        key = struct.pack("<I", thread.tid)
        try:
            entry = Thread.from_buffer_copy(read_element(self._maps["threads"], key, ct.sizeof(Thread)))
        except BpfError:
            entry = None
        if entry is not None:
            if entry.out_ns or entry.in_ns or entry.flags & THREAD_OUTSIDE:
                return False
            # It may get a CPU right now: then the kernel side makes a row of its own, which is left as it is.
            delete_element(self._maps["threads"], key)
        self.add_blocked(thread, start_ns)
        return True

    def add_thread_base(self, tid: int, cpu_ns: int, g: int = 0, goid: int = 0) -> None:
        """Makes known how much CPU time a thread had used when the window began, and the goroutine that it ran or was to run, 0 if none or
        not known; nothing, if it was seen since."""
        entry = Thread(base_ns=cpu_ns, flags=THREAD_BASE)
        if g:
            # If it waits for a CPU, that is since before the window; where it is then nobody knows.
            entry.g, entry.goid, entry.kind = g, goid, StartKind.CPU
            entry.flags |= THREAD_QUEUED | THREAD_BEFORE
            with contextlib.suppress(BpfError):
                entry.stack = self.put_stack(())
        self._put_thread(tid, entry)

    def add_halt(self, leader: int, since_ns: int) -> None:
        """Makes it known that the process has been stopped since then; `leader` is the thread that says when it goes on. After
        `add_blocked`, which may have given that thread a row."""
        write_element(self._maps["halt"], bytes(4), bytes(Halt(since=since_ns)))
        self._put_thread(leader, Thread())
        key = struct.pack("<I", leader)
        with contextlib.suppress(BpfError):
            entry = Thread.from_buffer_copy(read_element(self._maps["threads"], key, ct.sizeof(Thread)))
            entry.flags |= THREAD_HALTED
            write_element(self._maps["threads"], key, bytes(entry))

    def is_halted_since(self, since_ns: int) -> bool:
        """Whether what `add_halt` noted still holds, as far as the kernel side has seen."""
        noted: int = Halt.from_buffer_copy(read_element(self._maps["halt"], bytes(4), ct.sizeof(Halt))).since
        return noted == since_ns

    def forget_halt(self) -> None:
        """Takes `add_halt` back: the process had gone on before."""
        write_element(self._maps["halt"], bytes(4), bytes(Halt()))

    def forget_blocked(self, tid: int, since_ns: int) -> None:
        """Takes `add_blocked` back, unless the kernel side has made the entry its own."""
        key = struct.pack("<I", tid)
        with contextlib.suppress(BpfError):
            entry = Thread.from_buffer_copy(read_element(self._maps["threads"], key, ct.sizeof(Thread)))
            if entry.out_ns != since_ns:
                return
            delete_element(self._maps["threads"], key)
            # If it has parked since, and never moves, no probe sees it: then it is not to look like one that was seen.
            g = struct.pack("<Q", entry.g)
            state = Goroutine.from_buffer_copy(read_element(self._maps["goroutines"], g, ct.sizeof(Goroutine)))
            if not (state.start_ns or state.run_since or state.run_ns or state.off_ns):
                delete_element(self._maps["goroutines"], g)

    def forget_queued(self, tid: int) -> None:
        """Takes back that the thread has a goroutine: by now it is another's, or the kernel side has seen the thread."""
        key = struct.pack("<I", tid)
        with contextlib.suppress(BpfError):
            entry = Thread.from_buffer_copy(read_element(self._maps["threads"], key, ct.sizeof(Thread)))
            if entry.flags & THREAD_QUEUED:
                entry.flags &= ~(THREAD_QUEUED | THREAD_BEFORE)
                write_element(self._maps["threads"], key, bytes(entry))

    # -- forgetting ----------------------------------------------------------------------------------------------------

    def forget(self, end_ns: int) -> None:
        """Clears what is known of goroutines and threads, and ends at `end_ns` a stop of the world that lasts. Only between two
        windows, when no probe is placed: what happens until the next one opens is not seen."""
        for name, key, value in (
            ("goroutines", ct.c_uint64, Goroutine), ("threads", ct.c_uint32, Thread), ("last_g", ct.c_uint32, ct.c_uint64),
            ("waits", ct.c_uint64, Wait),
            ("watched", ct.c_uint64, Arrival),
        ):
            for raw in [raw for raw, _ in self._table(name, key, value)]:
                delete_element(self._maps[name], raw)
        state = World.from_buffer_copy(read_element(self._maps["world"], bytes(4), ct.sizeof(World)))
        if state.stopped_since and 0 < state.pauses <= MAX_PAUSES:
            index = struct.pack("<I", state.pauses - 1)
            pause = Pause.from_buffer_copy(read_element(self._maps["pauses"], index, ct.sizeof(Pause)))
            pause.duration_ns = max(1, end_ns - pause.start_ns)
            write_element(self._maps["pauses"], index, bytes(pause))
        write_element(self._maps["world"], bytes(4), bytes(World(pauses=state.pauses)))

    def forget_threads(self) -> None:
        """Clears what is known of threads, when no tracepoint is placed."""
        for raw in [raw for raw, _ in self._table("threads", ct.c_uint32, Thread)]:
            delete_element(self._maps["threads"], raw)

    def _table(self, name: str, key: type, value: type) -> Iterator[tuple[bytes, memoryview]]:
        return read_table(self._maps[name], ct.sizeof(key), ct.sizeof(value))

    def _element(self, table: str, number: int, value: type) -> bytes | None:
        try:
            return read_element(self._maps[table], struct.pack("<Q", number), ct.sizeof(value))
        except BpfError:
            return None
