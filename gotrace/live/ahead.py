"""What a goroutine will do to locks and channels once it goes on: the code of its functions is followed from where each of them stands.

A mutex that its code unlocks before it locks it is one that it holds: else the program would crash there. Branches are not decided: both
ways are followed, so what is found is what the code can do, not what it must.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from gotrace.gobin.binary import GoBinary
from gotrace.gobin.functions import Function
from gotrace.gobin.x86 import disassembler
from gotrace.live.defers import listed_defers, pending_defers
from gotrace.live.paths import always_passes
from gotrace.live.registers import Registers

if TYPE_CHECKING:
    from capstone import CsInsn

LOCK, UNLOCK, READ_LOCK, READ_UNLOCK, WRITE_LOCK, WRITE_UNLOCK, DONE, SIGNAL, RECEIVE, SEND, CLOSE = (
    "lock", "unlock", "rlock", "runlock", "wlock", "wunlock", "done", "signal", "receive", "send", "close",
)
_MOST_INSTRUCTIONS, _MOST_PATHS, _DEEPEST = 4000, 400, 3
_MOST_CASES = 64
_NO_STACK = 1 << 62
"""The stack pointer of a function that has not been called yet: what it will store there is remembered, memory has nothing there."""
_CALLS = {
    "sync.(*Mutex).Lock": LOCK, "sync.(*Mutex).Unlock": UNLOCK, "internal/sync.(*Mutex).Lock": LOCK,
    "internal/sync.(*Mutex).Unlock": UNLOCK, "sync.(*RWMutex).RLock": READ_LOCK, "sync.(*RWMutex).RUnlock": READ_UNLOCK,
    "sync.(*Mutex).TryLock": LOCK, "internal/sync.(*Mutex).TryLock": LOCK, "sync.(*RWMutex).TryRLock": READ_LOCK,
    "sync.(*RWMutex).TryLock": WRITE_LOCK, "sync.(*RWMutex).Lock": WRITE_LOCK, "sync.(*RWMutex).Unlock": WRITE_UNLOCK,
    "sync.(*WaitGroup).Done": DONE, "sync.(*Cond).Signal": SIGNAL, "sync.(*Cond).Broadcast": SIGNAL,
    "runtime.chanrecv1": RECEIVE, "runtime.chanrecv2": RECEIVE, "runtime.chansend1": SEND, "runtime.closechan": CLOSE,
}
_INLINED = {
    # (function, instruction) -> (operation, distance from what the instruction changes to the object)
    ("(*Mutex).Lock", "lock cmpxchg"): (LOCK, 0), ("(*Mutex).TryLock", "lock cmpxchg"): (LOCK, 0),
    ("(*Mutex).Unlock", "lock xadd"): (UNLOCK, 0),
    ("(*RWMutex).RLock", "lock xadd"): (READ_LOCK, 16), ("(*RWMutex).RUnlock", "lock xadd"): (READ_UNLOCK, 16),
}


class Operation(NamedTuple):
    """What will be done to the object at `address`, by which function. `frame` is 0 for the innermost function outside the runtime and
    sync, 1 for its caller and so on, negative for those of package sync. `deferred`: by a defer statement that has been executed.
    `sure`: the function does not return without it."""

    what: str
    address: int
    frame: int
    function: str
    deferred: bool
    sure: bool


class _Way(NamedTuple):
    """Whose code is followed, as in `Operation`; `depth`: how many calls were entered."""

    frame: int
    function: str
    deferred: bool
    found: dict[Operation, None]
    depth: int = 0


@dataclass(frozen=True)
class Place:
    """A function on a stack: the program counter at which it goes on, and its stack pointer and frame pointer there."""

    pc: int
    sp: int
    bp: int


class Ahead:
    """Follows the code of one process's goroutines. `read` gives the 64-bit word at an address, None if it can't be read."""

    def __init__(self, binary: GoBinary, bias: int, read: Callable[[int], int | None]) -> None:
        self._binary, self._table, self._bias, self._read = binary, binary.table, bias, read
        self._decoded: dict[int, CsInsn | None] = {}
        self._inlined: dict[int, str] = {}

    def places(self, pcs: Sequence[int], sp: int) -> list[Place]:
        """The functions on a stack with its program counters, leaf first, from the stack pointer `sp` on; up to code that is not Go's."""
        found = []
        for index, pc in enumerate(pcs):
            delta = self._table.stack_delta(pc - self._bias - 1)
            if delta is None or delta < 0 or index > 200:
                break
            found.append(Place(pc - self._bias, sp, sp + delta - 8))
            sp += delta + 8
        return found

    def operations(self, pcs: Sequence[int], sp: int, g: int) -> list[Operation]:
        """What the goroutine will do, function by function; what its deferred calls do as well. `g` is the address of its g."""
        found: dict[Operation, None] = {}
        listed = listed_defers(self._binary, g, self._read)
        functions = [(place, self._table.function_at(place.pc - 1)) for place in self.places(pcs, sp)]
        inner = sum(1 for _ in takewhile(lambda item: item[1] is None or item[1].name.startswith(_LIBRARY), functions))
        for number, (place, function) in enumerate(functions, -inner):
            if function is None or function.name.startswith(_LIBRARY) and not function.name.startswith("sync."):
                continue
            for closure in [*pending_defers(self._binary, function, place.bp, self._read), *listed.get(place.sp, ())]:
                self._follow_closure(closure, _Way(number, function.name, True, found))
            if not function.name.startswith("sync."):
                registers = Registers({_sp(): place.sp, _bp(): place.bp}, self._read, self._bias)
                self._follow(function, place.pc, registers, _Way(number, function.name, False, found))
        return list(found)

    def _follow_closure(self, closure: int, way: _Way) -> None:
        code = self._read(closure)
        function = self._table.function_at(code - self._bias) if code else None
        if function is not None and code is not None and function.entry == code - self._bias:
            registers = Registers({_context(): closure, _sp(): _NO_STACK}, self._read, self._bias)
            self._follow(function, function.entry, registers, way)

    def _follow(self, function: Function, start: int, registers: Registers, way: _Way) -> None:
        places: dict[tuple[str, int], set[int]] = {}
        pending = [(start, registers, frozenset[tuple[str, int]]())]
        seen: set[int] = set()
        for _ in range(_MOST_PATHS):
            if not pending or len(seen) > _MOST_INSTRUCTIONS:
                break
            pc, registers, taken = pending.pop()
            while function.entry <= pc < function.end and pc not in seen and len(seen) <= _MOST_INSTRUCTIONS:
                seen.add(pc)
                insn = self._instruction(pc)
                if insn is None or insn.mnemonic.startswith(("ret", "ud2", "int3")):
                    break
                for operation in self._operations(insn, registers):
                    if operation[0] in _RELEASES:
                        taken |= {(_RELEASES[operation[0]], operation[1])}
                    elif operation not in taken:
                        places.setdefault(operation, set()).add(pc)
                if insn.mnemonic == "jmp":
                    if not insn.op_str.startswith("0x"):
                        break
                    pc = int(insn.op_str, 16)
                    continue
                if insn.mnemonic == "call":
                    self._enter(insn, registers, way)
                    registers.after_call((_sp(), _bp()))
                elif insn.mnemonic.startswith("j") and insn.op_str.startswith("0x"):
                    pending.append((int(insn.op_str, 16), registers.copy(), taken))
                else:
                    registers.follow(insn)
                pc = insn.address + insn.size
        for (what, address), passed in places.items():
            sure = not way.depth and always_passes(self._instruction, function, start, passed)
            way.found[Operation(what, address, way.frame, way.function, way.deferred, sure)] = None

    def _enter(self, insn: CsInsn, registers: Registers, way: _Way) -> None:
        """Follows a call of a function that the compiler has made for a defer statement."""
        function = self._called(insn)
        closure = registers.values.get(_context())
        if function is not None and ".deferwrap" in function.name and closure is not None and way.depth < _DEEPEST:
            inner = Registers({_context(): closure, _sp(): _NO_STACK}, registers.word, self._bias)
            self._follow(function, function.entry, inner, way._replace(depth=way.depth + 1))

    def _operations(self, insn: CsInsn, registers: Registers) -> list[tuple[str, int]]:
        function = self._called(insn) if insn.mnemonic == "call" else None
        if function is not None and function.name == "runtime.selectgo":
            return self._cases(registers)
        operation = self._operation(insn, registers)
        return [operation] if operation is not None else []

    def _cases(self, registers: Registers) -> list[tuple[str, int]]:
        """The operations of a select: runtime.selectgo(cases, order, pc, sends, receives, block), and a case is {channel, element}."""
        from capstone.x86 import X86_REG_RDI, X86_REG_RSI

        first, sends, receives = (registers.values.get(register) for register in (_first(), X86_REG_RDI, X86_REG_RSI))
        if first is None or sends is None or receives is None or sends + receives > _MOST_CASES:
            return []
        channels = [registers.word(first + 16 * number) for number in range(sends + receives)]
        return [(SEND if number < sends else RECEIVE, channel) for number, channel in enumerate(channels) if channel]

    def _operation(self, insn: CsInsn, registers: Registers) -> tuple[str, int] | None:
        if insn.mnemonic == "call":
            function = self._called(insn)
            what = _CALLS.get(function.name) if function is not None else None
            address = registers.values.get(_first())
            if function is not None and what is None and function.name == "sync.(*WaitGroup).Add":
                what = DONE if registers.values.get(_second(), 0) >> 63 else None
            return (what, address) if what is not None and address else None
        if not insn.mnemonic.startswith("lock "):
            return None
        inlined = self._name_at(insn.address)
        for (suffix, mnemonic), (what, distance) in _INLINED.items():
            if insn.mnemonic == mnemonic and inlined.endswith("sync." + suffix):
                address = registers.address(insn, 0)
                return (what, address - distance) if address is not None else None
        return None

    def _called(self, insn: CsInsn) -> Function | None:
        if not insn.op_str.startswith("0x"):
            return None
        target = int(insn.op_str, 16)
        function = self._table.function_at(target)
        return function if function is not None and function.entry == target else None

    def _name_at(self, pc: int) -> str:
        """The innermost function, inlined or not, to which an instruction belongs, except those of atomic operations."""
        if pc not in self._inlined:
            names = [call.function for call in self._table.expand(pc, is_return_address=False)]
            self._inlined[pc] = next((name for name in names if "atomic." not in name), "")
        return self._inlined[pc]

    def _instruction(self, pc: int) -> CsInsn | None:
        if pc not in self._decoded:
            if len(self._decoded) > 1 << 20:
                self._decoded.clear()
            code = self._binary.image.read_up_to(pc, 512)
            self._decoded[pc] = None
            for insn in disassembler().disasm(code, pc):
                self._decoded[insn.address] = insn
        return self._decoded[pc]


_LIBRARY = ("runtime.", "sync.", "internal/sync.", "internal/poll.")
_RELEASES = {LOCK: UNLOCK, READ_LOCK: READ_UNLOCK, WRITE_LOCK: WRITE_UNLOCK}


def _sp() -> int:
    from capstone.x86 import X86_REG_RSP

    return int(X86_REG_RSP)


def _bp() -> int:
    from capstone.x86 import X86_REG_RBP

    return int(X86_REG_RBP)


def _first() -> int:
    from capstone.x86 import X86_REG_RAX

    return int(X86_REG_RAX)


def _second() -> int:
    from capstone.x86 import X86_REG_RBX

    return int(X86_REG_RBX)


def _context() -> int:
    from capstone.x86 import X86_REG_RDX

    return int(X86_REG_RDX)
