"""Where in a function a uprobe is cheap and safe: the first instruction that the kernel emulates instead of stepping.

A probe on an emulated instruction costs one trap, on any other two (a single step out of line), which takes 15 to 30 times longer in a
virtual machine. The set is that of branch_setup_xol_ops() and push_setup_xol_ops() in arch/x86/kernel/uprobes.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from gotrace.common.errors import BadBinary
from gotrace.gobin.functions import Function
from gotrace.gobin.image import Image
from gotrace.gobin.pclntab import Pclntab

if TYPE_CHECKING:
    from capstone import Cs, CsInsn

_PREFIXES = frozenset((0x66, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65))
_MULTIBYTE_NOPS = frozenset(
    bytes.fromhex(text)
    for text in ("90", "6690", "0f1f00", "0f1f4000", "0f1f440000", "660f1f440000", "0f1f8000000000", "0f1f840000000000")
)
_PROLOGUE_LIMIT = 96
_PROLOGUE_INSTRUCTIONS = 24


@dataclass(frozen=True)
class ProbeSite:
    """An instruction to probe, in the function that begins at `entry`. `prologue` are the bytes that end with it: from the entry on, where
    it is near that. `kind` is that of `emulated_kind`, or ``step``: the kernel has to step it."""

    entry: int
    offset: int
    length: int
    kind: str
    text: str
    prologue: bytes

    @property
    def address(self) -> int:
        """Link-time address of the probed instruction."""
        return self.entry + self.offset

    @property
    def checked(self) -> int:
        """Link-time address at which `prologue` begins."""
        return self.address + self.length - len(self.prologue)


@lru_cache(maxsize=1)
def disassembler() -> Cs:
    """Capstone for x86-64 with operand details."""
    from capstone import CS_ARCH_X86, CS_MODE_64, Cs

    engine = Cs(CS_ARCH_X86, CS_MODE_64)
    engine.detail = True
    return engine


def instructions(image: Image, function: Function, limit: int = 1 << 13) -> list[CsInsn]:
    """The decoded instructions of `function`, of at most `limit` bytes."""
    code = image.read_up_to(function.entry, min(function.end - function.entry, limit))
    return list(disassembler().disasm(code, function.entry))


def emulated_kind(code: bytes) -> str | None:
    """``nop``, ``jmp``, ``call``, ``jcc`` or ``push`` if the kernel emulates this instruction, else None."""
    if code in _MULTIBYTE_NOPS:
        return "nop"
    position = 0
    while position < len(code) - 1 and code[position] in _PREFIXES:
        position += 1
    opcode = code[position]
    if opcode == 0x90:
        return "nop"
    if 0x66 in code[:position]:
        return None
    if opcode in (0xEB, 0xE9):
        return "jmp"
    if opcode == 0xE8:
        return "call"
    if 0x70 <= opcode <= 0x7F or (opcode == 0x0F and 0x80 <= code[position + 1] <= 0x8F):
        return "jcc"
    if 0x50 <= opcode <= 0x57 and len(code) <= 2:
        return "push"
    if 0x40 <= opcode <= 0x4F and len(code) == 2 and 0x50 <= code[1] <= 0x57:
        return "push"
    return None


def text_of(insn: CsInsn) -> str:
    """The instruction in words."""
    return f"{insn.mnemonic} {insn.op_str}".strip()


def branch_targets(insns: list[CsInsn]) -> set[int]:
    """Where the direct jumps among them go to."""
    return {int(insn.op_str, 16) for insn in insns if insn.mnemonic.startswith("j") and insn.op_str.startswith("0x")}


def probe_site(image: Image, function: Function, register: str, frame_allowed: bool = False) -> ProbeSite:
    """The first emulated instruction of `function` at which `register` and the stack pointer have the same values as at its entry; with
    `frame_allowed` the function's frame may have been made.

    Raises:
        BadBinary: there is none within the prologue.
    """
    code = image.read_up_to(function.entry, min(function.end - function.entry, _PROLOGUE_LIMIT))
    for index, insn in enumerate(disassembler().disasm(code, function.entry)):
        offset = insn.address - function.entry
        kind = emulated_kind(bytes(insn.bytes))
        if kind:
            return ProbeSite(function.entry, offset, insn.size, kind, text_of(insn), code[: offset + insn.size])
        written = {insn.reg_name(number) for number in insn.regs_access()[1]}
        untouchable = _aliases(register) | (set() if frame_allowed else {"rsp", "esp"})
        if written & untouchable or insn.mnemonic in ("jmp", "ret") or index > _PROLOGUE_INSTRUCTIONS:
            break
    raise BadBinary(
        f"{image.name}: no instruction near the start of {function.name} can be probed cheaply: {code[:24].hex(' ')}"
    )


def call_site(image: Image, caller: Function, callee: Function) -> ProbeSite:
    """The one instruction of `caller` that calls `callee`: the kernel emulates it, and the arguments are in their registers.

    Raises:
        BadBinary: there is not exactly one.
    """
    found = [
        insn for insn in instructions(image, caller, 8192) if insn.mnemonic == "call" and insn.op_str == hex(callee.entry)
    ]
    if len(found) != 1 or emulated_kind(bytes(found[0].bytes)) != "call":
        raise BadBinary(f"{image.name}: {caller.name} calls {callee.name} {len(found)} times, not once")
    insn = found[0]
    offset = insn.address - caller.entry
    code = image.read_up_to(caller.entry, offset + insn.size)
    return ProbeSite(caller.entry, offset, insn.size, "call", f"call {callee.name}", code)


def inlined_call_site(image: Image, table: Pclntab, caller: Function, callee: Function, inlined: str) -> ProbeSite | None:
    """The one instruction of `caller` that calls `callee` within an inlined copy of the function named `inlined`; None if there is not
    exactly one."""
    found = [
        insn for insn in instructions(image, caller)
        if insn.mnemonic == "call" and insn.op_str == hex(callee.entry)
        and any(call.inlined and call.function == inlined for call in table.expand(insn.address, is_return_address=False))
    ]
    if len(found) != 1 or emulated_kind(bytes(found[0].bytes)) != "call":
        return None
    offset = found[0].address - caller.entry
    code = image.read_up_to(caller.entry, offset + found[0].size)
    return ProbeSite(caller.entry, offset, found[0].size, "call", f"call {callee.name}", code)


def first_emulated_after(image: Image, caller: Function, callee: Function, register: str) -> ProbeSite | None:
    """The first emulated instruction of `caller` after its one call of `callee`, if `register` still has the result there and nothing jumps
    between the two: it runs exactly once per call. Otherwise None."""
    insns = instructions(image, caller)
    calls = [index for index, insn in enumerate(insns) if insn.mnemonic == "call" and insn.op_str == hex(callee.entry)]
    targets = branch_targets(insns)
    if len(calls) != 1:
        return None
    for insn in insns[calls[0] + 1 : calls[0] + 1 + _PROLOGUE_INSTRUCTIONS]:
        kind = emulated_kind(bytes(insn.bytes))
        if insn.address in targets:
            return None
        if kind:
            offset = insn.address - caller.entry
            return ProbeSite(
                caller.entry, offset, insn.size, kind, text_of(insn), image.read_up_to(caller.entry, offset + insn.size)
            )
        if {insn.reg_name(number) for number in insn.regs_access()[1]} & _aliases(register) or insn.mnemonic in ("jmp", "ret"):
            return None
    return None


def _aliases(register: str) -> set[str]:
    if register in ("rax", "rbx", "rcx", "rdx"):
        letter = register[1]
        return {register, f"e{letter}x", f"{letter}x", f"{letter}l", f"{letter}h"}
    return {register, "e" + register[1:], register[1:]}
