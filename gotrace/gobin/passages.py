"""Where a call of a function can be seen to begin and to end: an instruction that runs once for each, and where the stack pointer is then.

Instructions that the kernel emulates are preferred (gotrace/gobin/x86.py). The return address of a call is what tells it from others: where
that lies is known at every instruction by the function table's stack depths (pcsp).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gotrace.common.errors import BadBinary
from gotrace.gobin.functions import Function
from gotrace.gobin.image import Image
from gotrace.gobin.pclntab import Pclntab
from gotrace.gobin.x86 import ProbeSite, branch_targets, emulated_kind, instructions, text_of

if TYPE_CHECKING:
    from capstone import CsInsn

MAX_CODE = 1 << 18
"""Bytes of a function that are read."""
ARGUMENTS = ("rax", "rbx", "rcx", "rdi", "rsi", "r8", "r9", "r10", "r11")
"""The registers of integer arguments, in order (cmd/compile/abi-internal.md)."""
_WORD = 8
_NEAR_ENTRY = 10
_STRAIGHT = 32
"""Instructions within which an emulated one is looked for."""
_BEFORE = 8
"""Bytes before the probed instruction that are compared as well."""


@dataclass(frozen=True)
class Passage:
    """An instruction that runs once for each call of a function. The call's return address lies `sp_above` bytes above the stack pointer
    there. `intact`: which argument registers still hold what they held at the function's entry (only where a call begins)."""

    site: ProbeSite
    sp_above: int
    intact: tuple[str, ...] = ()

    @property
    def traps(self) -> int:
        """How many a hit costs."""
        return 2 if self.site.kind == "step" else 1


def decoded(image: Image, function: Function) -> list[CsInsn]:
    """All instructions of the function.

    Raises:
        BadBinary: not all of its code could be decoded.
    """
    insns = instructions(image, function, MAX_CODE)
    end = insns[-1].address + insns[-1].size if insns else function.entry
    if end != function.end and image.read_up_to(end, function.end - end).strip(b"\0\xcc"):
        raise BadBinary(f"{image.name}: the code of {function.name} can't be read at {end:#x}")
    return insns


def beginning(image: Image, table: Pclntab, function: Function) -> Passage:
    """Behind the check of the stack's size, which a goroutine may pass twice in one call.

    Raises:
        BadBinary: there is no such instruction.
    """
    insns = decoded(image, function)
    first = _behind_stack_check(table, insns)
    targets, intact = branch_targets(insns), list(ARGUMENTS)
    if first >= len(insns) or insns[first].address in targets:
        raise BadBinary(f"{image.name}: the beginning of {function.name} is part of a loop")
    for insn in insns[first : first + _STRAIGHT]:
        if insn is not insns[first] and insn.address in targets:
            break
        depth = table.stack_delta(insn.address)
        if depth is None:
            break
        if kind := emulated_kind(bytes(insn.bytes)):
            code = image.read_up_to(function.entry, insn.address + insn.size - function.entry)
            site = ProbeSite(function.entry, insn.address - function.entry, insn.size, kind, text_of(insn), code)
            return Passage(site, depth, tuple(intact))
        written = _written(insn)
        if "r14" in written or _leaves(insn):
            break
        intact = [register for register in intact if register not in written]
    insn = insns[first]
    code = image.read_up_to(function.entry, insn.address + insn.size - function.entry)
    site = ProbeSite(function.entry, insn.address - function.entry, insn.size, "step", text_of(insn), code)
    return Passage(site, table.stack_delta(insn.address) or 0, ARGUMENTS)


def _behind_stack_check(table: Pclntab, insns: list[CsInsn]) -> int:
    """The place of the first instruction behind the jumps to where more stack is asked for; 0 if there are none."""
    places = {insn.address: place for place, insn in enumerate(insns)}
    found = 0
    for place, insn in enumerate(insns[:_NEAR_ENTRY]):
        if insn.mnemonic in ("call", "push", "ret"):
            break
        if not insn.mnemonic.startswith("j") or not insn.op_str.startswith("0x"):
            continue
        target = places.get(int(insn.op_str, 16))
        for other in insns[target : target + _STRAIGHT] if target is not None else ():
            if other.mnemonic == "call":
                called = table.function_at(int(other.op_str, 16)) if other.op_str.startswith("0x") else None
                if called is not None and called.name.startswith("runtime.morestack"):
                    found = place + 1
                break
            if _leaves(other):
                break
    return found


def returns(image: Image, table: Pclntab, function: Function) -> list[Passage]:
    """Every way by which it returns; [] if it does not.

    Raises:
        BadBinary: it can also be left by a jump to another function, or the depth of its stack is not known.
    """
    found = []
    framed = table.frame_size(function) > 0
    for insn in decoded(image, function):
        depth = table.stack_delta(insn.address)
        if insn.mnemonic.startswith("ret"):
            if depth != 0:
                raise BadBinary(f"{image.name}: how deep the stack is where {function.name} returns is not known")
            found.append(Passage(_site(image, function, insn, "step"), 0))
        elif insn.mnemonic.startswith("j"):
            if insn.op_str.startswith("0x"):
                if not function.entry <= int(insn.op_str, 16) < function.end:
                    raise BadBinary(f"{image.name}: {function.name} ends with a jump to {_name_at(table, int(insn.op_str, 16))}")
            elif (depth == 0 and framed) or function.func_id == table.wrapper_id:  # else it is that of a switch
                raise BadBinary(f"{image.name}: {function.name} ends with a jump to another function")
    return found


def behind_call(image: Image, table: Pclntab, caller: Function, call: int, past: Function | None = None) -> Passage | None:
    """What runs next in `caller` after its call, at address `call`, has returned, before anything else can take time or leave `caller`:
    at latest the call of `past`, if that is given, which the caller is known to make right afterwards. None if it runs at other times
    as well."""
    insns = decoded(image, caller)
    place = next((place for place, insn in enumerate(insns) if insn.address == call), None)
    depth, targets = table.stack_delta(call), branch_targets(insns)
    if place is None or depth is None or place + 1 >= len(insns) or insns[place + 1].address in targets:
        return None
    found: CsInsn | None = None
    for insn in insns[place + 1 : place + 1 + _STRAIGHT]:
        kind = emulated_kind(bytes(insn.bytes))
        if insn.address in targets or table.stack_delta(insn.address) is None:
            break
        found = found or (insn if kind else None)
        if found is not None and (past is None or insn.op_str == hex(past.entry)):
            now = table.stack_delta(found.address) or 0
            return Passage(_site(image, caller, found, emulated_kind(bytes(found.bytes)) or "step"), now - depth - _WORD)
        if kind not in (None, "nop") or (_leaves(insn) and not (past is not None and insn.mnemonic == "call")):
            break
    if past is not None:
        return behind_call(image, table, caller, call)
    return Passage(_site(image, caller, insns[place + 1], "step"), -_WORD)


def returns_of_caller(image: Image, table: Pclntab, caller: Function) -> list[Passage]:
    """Where `caller` returns, as ends of the calls that it makes through interfaces and variables.

    Raises:
        BadBinary: as `returns`; or those calls are made at different depths of the stack.
    """
    depths = {
        table.stack_delta(insn.address) for insn in decoded(image, caller)
        if insn.mnemonic == "call" and not insn.op_str.startswith("0x")
    }
    depth = depths.pop() if len(depths) == 1 else None
    if depth is None:
        raise BadBinary(f"{image.name}: how deep the stack is where {caller.name} calls is not known")
    return [Passage(passage.site, passage.sp_above - depth - _WORD) for passage in returns(image, table, caller)]


def _site(image: Image, function: Function, insn: CsInsn, kind: str) -> ProbeSite:
    start = max(function.entry, insn.address - _BEFORE)
    code = image.read(start, insn.address + insn.size - start)
    return ProbeSite(function.entry, insn.address - function.entry, insn.size, kind, text_of(insn), code)


def _written(insn: CsInsn) -> set[str]:
    """The whole registers of which the instruction writes a part."""
    return {_WHOLE.get(name, name) for name in (insn.reg_name(number) for number in insn.regs_access()[1])}


def _leaves(insn: CsInsn) -> bool:
    """Whether the code that runs next may be elsewhere, and the kernel steps it."""
    return str(insn.mnemonic).startswith(("call", "j", "ret", "ud", "int", "syscall"))


def _name_at(table: Pclntab, address: int) -> str:
    function = table.function_at(address)
    return function.name if function is not None else hex(address)


_WHOLE = {
    **{part: f"r{letter}x" for letter in "abcd" for part in (f"e{letter}x", f"{letter}x", f"{letter}l", f"{letter}h")},
    **{part: f"r{name}" for name in ("di", "si", "bp", "sp") for part in (f"e{name}", name, f"{name}l")},
    **{f"r{number}{suffix}": f"r{number}" for number in range(8, 16) for suffix in "dwb"},
}
