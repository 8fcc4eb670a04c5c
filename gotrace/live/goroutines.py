"""The goroutines of a live process, read from its memory: state, wait reason and stack, without stopping anything.

Reads race with the program: a goroutine that moves while it is read gives a torn record. Callers that need certainty check afterwards
that it did not move (`gotrace.run.session` does so with the kernel's goroutine table).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gotrace.common.errors import Refused
from gotrace.common.vocabulary import OUTSIDE_CODE
from gotrace.gobin.binary import GoBinary
from gotrace.live.gstruct import SCAN_BIT, GStruct, Status
from gotrace.live.unwinding import Unwinder as Unwinder
from gotrace.proc.memory import WORDS_AT_ONCE, Memory, anonymous_memory

_MAX_GOROUTINES = 16_000_000
_MAX_STACK_READ = 1 << 20
_CHECKED = 256
_BATCH = 4096
_SPARE = 1 << 16
"""This many goroutines are believed in any case: the kernel's figures for a process's memory lag by some pages per CPU."""
EMPTY_STACK = 64
_ABOVE_SP = 1024
"""How many bytes of a stack are read first: most have their root there."""
OFF_CPU = frozenset((Status.RUNNABLE, Status.WAITING, Status.PREEMPTED, Status.LEAKED))
_VALID = frozenset(Status)
_EMPTY = frozenset((Status.IDLE, Status.DEAD, Status.DEAD_EXTRA, Status.MORIBUND))


class Goroutine(NamedTuple):
    """One g. `pc`, `sp`, `bp` are the saved registers (sched, or the syscall's if it is in one); `tick` is that of `Head`."""

    address: int
    goid: int
    status: int
    wait_reason: int
    pc: int
    sp: int
    bp: int
    stack_lo: int
    stack_hi: int
    m: int = 0
    tick: int = -1

    @property
    def ended(self) -> bool:
        """Whether its goroutine is gone and the g waits for the next one."""
        return self.status in _EMPTY

    @property
    def outside_go(self) -> bool:
        """Whether it belongs to a thread of C that once called into Go and is now outside Go: in a system call, as Go sees it, with an
        empty stack (runtime/proc.go: oneNewExtraM)."""
        return self.status == Status.SYSCALL and 0 <= self.stack_hi - self.sp <= EMPTY_STACK

    @property
    def waits_for_first_turn(self) -> bool:
        """Whether it was created and has not run yet."""
        return self.status == Status.RUNNABLE and not self.bp and bool(self.pc)

    @property
    def has_run(self) -> bool:
        """False if the goroutine was created and waits for its first turn (sched.bp is still 0)."""
        return self.bp != 0 or self.status == Status.SYSCALL


class GoroutineReader:
    """Reads the goroutines of the process behind `memory`, which runs `binary`, loaded at `bias`."""

    def __init__(self, memory: Memory, binary: GoBinary, bias: int) -> None:
        self._memory = memory
        self._binary = binary
        self._bias = bias
        layout = binary.layout
        offsets = [value for name, value in vars(layout).items() if name.startswith("g_") and isinstance(value, int)]
        self._size = max(offsets) + 8
        self._layout = layout
        self._unwinder = Unwinder(binary, bias)
        self._room = 0
        self._length = memory.fixed([(binary.allgs + bias + 8, 8)], bytearray(8))
        self._struct = GStruct(layout)

    def count(self) -> int:
        """How many g structs the runtime has ever made; 0 if that can't be read or makes no sense."""
        length = int.from_bytes(self._length.read() or b"", "little")
        return length if self._has_room(length) else 0

    def _has_room(self, length: int) -> bool:
        """Whether that many g structs fit into the process's memory. A longer list is a lie, and what we and the kernel keep for each
        goroutine would take our memory instead."""
        if length > self._room:
            self._room = anonymous_memory(self._memory.pid) // self._size + _SPARE
        return length <= min(self._room, _MAX_GOROUTINES)

    def addresses(self, most: int = _MAX_GOROUTINES) -> array[int]:
        """The addresses of all g structs that the runtime has ever made (runtime.allgs), at most the first `most`; they are recycled, never
        freed."""
        found = array("Q")
        header = self._memory.read(self._binary.allgs + self._bias, 16)
        if header is None:
            return found
        base, length = int.from_bytes(header[:8], "little"), int.from_bytes(header[8:], "little")
        if not length or not self._has_room(length):
            return found
        length = min(length, most)
        chunk = 1 << 16
        for start in range(0, length, chunk):
            found.frombytes(self._memory.read(base + 8 * start, 8 * min(chunk, length - start)) or b"")
        return found

    def in_states(self, wanted: frozenset[Status]) -> Iterator[Goroutine]:
        """The goroutines in one of these states. Of the others only the state is read."""
        addresses, offset = self.addresses(), self._layout.g_atomicstatus
        for start in range(0, len(addresses), WORDS_AT_ONCE):
            batch: Sequence[int] = addresses[start : start + WORDS_AT_ONCE]
            words = self._memory.read_u32s([address + offset for address in batch])
            if words is not None:
                batch = [address for address, word in zip(batch, words, strict=False) if word & ~SCAN_BIT in wanted]
            yield from (each for each in self.read(batch) if each.status in wanted)

    def read(self, addresses: Sequence[int] | None = None) -> list[Goroutine]:
        """The g structs at `addresses` (default: all) that could be read."""
        addresses = self.addresses() if addresses is None else addresses
        found = []
        for start in range(0, len(addresses), _BATCH):
            batch = addresses[start : start + _BATCH]
            raws = self._memory.read_many([(address, self._size) for address in batch])
            found += [self._parse(address, raw) for address, raw in zip(batch, raws, strict=False) if raw is not None]
        return found

    def _parse(self, address: int, raw: bytes) -> Goroutine:
        head = self._struct.parse(raw)
        return Goroutine(address, head.goid, head.status, head.reason, head.pc, head.sp, head.bp, head.lo, head.hi, head.m, head.tick)

    def first_frames(self, goroutine: Goroutine) -> tuple[int, ...]:
        """For a goroutine that has not run yet: its first function, and what that returns to (runtime/sys_x86.go: gostartcall)."""
        raw = self._memory.read(goroutine.sp, 8) if goroutine.stack_lo <= goroutine.sp <= goroutine.stack_hi - 8 else None
        return (goroutine.pc, int.from_bytes(raw, "little")) if raw else (goroutine.pc,)

    def thread_of(self, goroutine: Goroutine) -> int:
        """The goroutine's thread (m.procid: its number in the process's own PID namespace), 0 if there is none or it is not known."""
        offset = self._layout.m_procid
        if not goroutine.m or offset is None:
            return 0
        raw = self._memory.read(goroutine.m + offset, 8)
        return int.from_bytes(raw, "little") if raw is not None else 0

    def is_on_system_stack(self, goroutine: Goroutine) -> bool:
        """Whether its saved registers are from its switch to its thread's own stack (runtime/asm_amd64.s: gosave_systemstack_switch), and
        not from its last switch away."""
        function = self._binary.table.function_at(goroutine.pc - self._bias)
        return function is not None and function.name == "runtime.systemstack_switch"

    def stack(self, goroutine: Goroutine, exact: bool = False) -> tuple[int, ...] | None:
        """Program counters of a goroutine that is not running, leaf first; None if they make no sense (torn read).

        Unwound with the frame sizes of the function table, so it also works from a prologue, a frameless function or, on Go 1.22 and older,
        a syscall, where there is no frame pointer to follow. `exact`: `pc` is the next instruction.
        """
        lo, hi = goroutine.stack_lo, goroutine.stack_hi
        if not lo <= goroutine.sp < hi:
            return None
        size = min(hi - goroutine.sp, _MAX_STACK_READ)
        raw = self._memory.read(goroutine.sp, size)
        if raw is None:
            return None
        pcs = self._unwinder.unwind(goroutine.pc, raw, goroutine.sp, exact, goroutine.bp)
        return pcs if exact else self._checked(goroutine, pcs)

    def stacks(self, goroutines: list[Goroutine]) -> list[tuple[int, ...] | None]:
        """Like `stack`, for many goroutines at a fraction of the cost."""
        ranges = [(each.sp, max(0, min(each.stack_hi - each.sp, _ABOVE_SP))) if each.stack_lo <= each.sp else (0, 0) for each in goroutines]
        found = []
        for each, (_, size), raw in zip(goroutines, ranges, self._memory.read_many(ranges), strict=False):
            pcs = self._unwinder.unwind(each.pc, raw, each.sp, bp=each.bp) if raw else None
            more = raw and size == _ABOVE_SP and (pcs is None or OUTSIDE_CODE in pcs)
            found.append(self.stack(each) if more else self._checked(each, pcs))
        return found

    def _checked(self, goroutine: Goroutine, pcs: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """Believes a stack with foreign code only if its goroutine has not moved: otherwise it may be the remains of another stack."""
        if pcs is None or OUTSIDE_CODE not in pcs:
            return pcs
        now = self.read([goroutine.address])
        return pcs if now and now[0][:7] == goroutine[:7] else None

    def check_layout(self) -> None:
        """Compares the layout with the live process: states, ids, back pointers and stack bounds must make sense.

        Raises:
            Refused: they do not; the layout is not this process's.
        """
        sample = self.addresses(_CHECKED)
        if not sample:
            claimed = self._memory.u64(self._binary.allgs + self._bias + 8)
            if claimed and not self._has_room(claimed):
                raise Refused(f"the list of goroutines is to hold {claimed:,}, more than the process has memory for")
            raise Refused(
                "the list of goroutines is empty or unreadable: the Go runtime has not started, or its layout is unknown"
            )
        raws = self._memory.read_many([(address, self._size) for address in sample])
        # Goroutine 1 need not be among them: it ends if main calls runtime.Goexit, and in a C archive after its initialisation.
        for address, raw in zip(sample, raws, strict=False):
            problem = "it can't be read" if raw is None else self._problem(address, raw)
            if problem:
                # One reread: the goroutine may have been in motion at first.
                again = self._memory.read(address, self._size)
                problem = "it can't be read" if again is None else self._problem(address, again)
            if problem:
                raise Refused(
                    f"the layout of runtime.g ({self._layout.source}) does not fit the live process: g {address:#x}: {problem}"
                )

    def _problem(self, address: int, raw: bytes) -> str:
        goroutine = self._parse(address, raw)
        if goroutine.status not in _VALID:
            return f"state {goroutine.status}"
        if goroutine.status in _EMPTY:
            return ""
        if not 0 < goroutine.goid < 1 << 48:
            return f"goid {goroutine.goid}"
        back = int.from_bytes(raw[self._layout.g_sched_g : self._layout.g_sched_g + 8], "little")
        if back != address:
            return f"sched.g is {back:#x}"
        if not goroutine.stack_lo < goroutine.stack_hi:
            return f"stack {goroutine.stack_lo:#x}-{goroutine.stack_hi:#x}"
        if goroutine.status == Status.WAITING and goroutine.wait_reason >= len(self._binary.wait_reasons):
            return f"wait reason {goroutine.wait_reason}"
        return ""
