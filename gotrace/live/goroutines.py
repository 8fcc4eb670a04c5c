"""The goroutines of a live process, read from its memory: state, wait reason and stack, without stopping anything.

Reads race with the program: a goroutine that moves while it is read gives a torn record. Callers that need certainty check afterwards
that it did not move (`gotrace.run.session` does so with the kernel's goroutine table).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gotrace.common.errors import Refused
from gotrace.common.vocabulary import OUTSIDE_CODE
from gotrace.gobin.binary import GoBinary
from gotrace.live.gstruct import SCAN_BIT, GStruct, Status
from gotrace.proc.memory import WORDS_AT_ONCE, Memory, anonymous_memory

_MAX_GOROUTINES = 16_000_000
_MAX_FRAMES = 4096
_MAX_FOREIGN_FRAMES = 64
_MAX_FOREIGN_WORDS = 512
_MAX_STACK_READ = 1 << 20
_CHECKED = 256
_BATCH = 4096
_SPARE = 1 << 16
"""This many goroutines are believed in any case: the kernel's figures for a process's memory lag by some pages per CPU."""
_MAX_STEPS = 1 << 18
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


class Unwinder:
    """Walks goroutine stacks by the frame sizes of the function table; remembers what each program counter means."""

    def __init__(self, binary: GoBinary, bias: int) -> None:
        self._binary = binary
        self._bias = bias
        self._steps: dict[tuple[int, bool], _Step | None] = {}
        self._entries: dict[int, bool] = {}
        asmcgocall = binary.function("runtime.asmcgocall")
        self._asmcgocall_frame = binary.table.frame_size(asmcgocall[0]) if asmcgocall else 0

    def unwind(self, pc: int, stack: bytes, sp: int = 0, interrupted: bool = False, bp: int = 0) -> tuple[int, ...] | None:
        """Program counters from `pc` down to the goroutine's root; `stack` is the memory from the stack pointer `sp` up. `interrupted`:
        `pc` is the next instruction, as in a thread's registers. `bp` is the frame pointer there, 0 if not known.

        OUTSIDE_CODE stands for code that is not in the function table, between its caller and its callee; at the end, if nothing is found
        above it. None if the chain leaves the stack before it reaches the root.
        """
        if len(self._steps) > _MAX_STEPS:
            self._steps.clear()
            self._entries.clear()
        exact = self._entries.get(pc)
        if exact is None:
            first = self._binary.table.function_at(pc - self._bias)
            # A saved pc is a return address too, except in a goroutine that has not run: there it is the function's entry.
            exact = self._entries[pc] = first is not None and first.entry == pc - self._bias
        exact = exact or interrupted
        words = memoryview(stack)[: len(stack) & ~7].cast("Q")
        pcs, position, size, steps = [pc], 0, len(words), self._steps
        for _ in range(_MAX_FRAMES):
            key = (pc, exact)
            step = steps[key] if key in steps else steps.setdefault(key, self._step(pc, exact))
            if step is None:
                pcs[-1] = OUTSIDE_CODE
                found = self._above(words, position, sp, bp if len(pcs) == 1 else 0) if len(pcs) > 1 or sp else 0
                if not found:
                    return tuple(pcs)
                pc, position, exact = words[found], found + 1, False
                pcs.append(pc)
                continue
            if step.root:
                return tuple(pcs)
            position += step.words
            if position >= size:
                return tuple(pcs) if step.callback else None
            if step.callback and self._is_outside(words[position]):
                return tuple(pcs)  # a thread of C: nothing is above
            pc = words[position]
            position += 1
            exact = step.interrupted
            pcs.append(pc)
        return None

    def _is_outside(self, pc: int) -> bool:
        return self._binary.table.function_at(pc - 1 - self._bias) is None

    def _above(self, words: memoryview, position: int, sp: int, bp: int) -> int:
        """Where on a stack the next return address into Go is, above foreign code. That code's own return address is the word before
        `position` (at 0: it is the leaf, with the frame pointer `bp`). 0 if there is none. Found by that code's frame pointer, if it has
        one, which its callee has saved; otherwise it is the first such word."""
        size = len(words)
        if position >= 2 or bp:
            frame = ((words[position - 2] if position >= 2 else bp) - sp) // 8
            for _ in range(_MAX_FOREIGN_FRAMES):
                if not position <= frame < size - 1:
                    break
                if self._returns_to_go(words[frame + 1]):
                    return frame + 1
                position, frame = frame + 2, (words[frame] - sp) // 8
        for index in range(position, min(size, position + _MAX_FOREIGN_WORDS)):
            if self._returns_to_go(words[index]):
                return index
        return 0

    def _returns_to_go(self, pc: int) -> bool:
        """Whether it is an address in a Go function, after a call; or the one to which a goroutine's first function returns."""
        function = self._binary.table.function_at(pc - 1 - self._bias)
        if function is None:
            return False
        if function.name == "runtime.goexit":
            return pc - self._bias == function.entry + 1  # src/runtime/sys_x86.go, proc.go: newproc1
        code = self._binary.image.read_up_to(pc - self._bias - 5, 5)
        if len(code) < 5:
            return False
        return code[0] == 0xE8 or (code[3] == 0xFF and code[4] & 0x38 == 0x10) or (code[2] == 0xFF and code[3] & 0x38 == 0x10)

    def _step(self, pc: int, exact: bool) -> _Step | None:
        lookup = pc - self._bias - (not exact)
        function = self._binary.table.function_at(lookup)
        if function is None:
            return None
        if function.name in ("runtime.goexit", "runtime.mstart", "runtime.rt0_go"):
            return _Step(root=True)
        delta = self._binary.table.stack_delta(lookup)
        if delta is None or delta < 0 or delta % 8:
            return None
        if function.name == "runtime.cgocallback":
            # What it "returns" to marks where the goroutine went into C (runtime/asm_amd64.s: gosave); the caller follows after
            # asmcgocall's frame. The BPF walk leaves the mark out as well.
            delta += 8 + self._asmcgocall_frame
        # Where a signal struck, the "return address" is the interrupted instruction itself (runtime/traceback.go).
        interrupted = function.name in ("runtime.asyncPreempt", "runtime.sigpanic")
        return _Step(delta // 8, callback=function.name == "runtime.cgocallback", interrupted=interrupted)


@dataclass(frozen=True)
class _Step:
    words: int = 0
    root: bool = False
    interrupted: bool = False
    callback: bool = False
