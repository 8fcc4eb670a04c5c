"""What registers hold, as far as it is known, while the code of a function is followed from a point on: constants, addresses, and what is
loaded from memory that is known."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capstone import CsInsn

_WORD = (1 << 64) - 1
_LOW = 0xFFFFFFFF


class Registers:
    """Known values by the number of the 64-bit register; `read` gives the 64-bit word at an address, None if it is not known. `bias` is how
    much higher the code is loaded than the executable says."""

    def __init__(
        self, values: dict[int, int], read: Callable[[int], int | None], bias: int, stores: dict[int, int] | None = None
    ) -> None:
        self.values = values
        self._bias = bias
        self._read = read
        self._stores = stores if stores is not None else {}

    def copy(self) -> Registers:
        """The same knowledge, for another path."""
        return Registers(dict(self.values), self._read, self._bias, dict(self._stores))

    def address(self, insn: CsInsn, place: int) -> int | None:
        """The address of the memory operand with that index, None if it is not known."""
        from capstone.x86 import X86_REG_RIP

        memory = insn.operands[place].mem
        if memory.base == X86_REG_RIP:
            return int(insn.address + insn.size + memory.disp + self._bias) & _WORD
        total: int = memory.disp
        if memory.segment:
            return None
        for register, scale in ((memory.base, 1), (memory.index, memory.scale)):
            if register:
                value = self.values.get(register)
                if value is None:
                    return None
                total += value * scale
        return total & _WORD

    def word(self, address: int) -> int | None:
        """The 64-bit word at that address."""
        return self._stores[address] if address in self._stores else self._read(address)

    def after_call(self, kept: tuple[int, ...]) -> None:
        """Go's functions keep only the stack's registers."""
        self.values = {register: value for register, value in self.values.items() if register in kept}

    def follow(self, insn: CsInsn) -> None:
        """Applies the instruction: moves, addresses, sums with constants; what else it writes is unknown from then on."""
        from capstone.x86 import X86_OP_IMM, X86_OP_MEM, X86_OP_REG, X86_REG_RSP

        name, operands = insn.mnemonic, insn.operands
        if name in ("mov", "movabs") and len(operands) == 2:
            to, source = operands
            if source.type == X86_OP_IMM:
                value: int | None = source.imm & (_WORD if source.size == 8 else _LOW)
            elif source.type == X86_OP_REG:
                value = self.values.get(whole(source.reg)) if source.size >= 4 else None
                value = value & _LOW if value is not None and source.size == 4 else value
            else:
                at = self.address(insn, 1)
                value = self.word(at) if at is not None and to.size >= 4 else None
                value = value & _LOW if value is not None and to.size == 4 else value
            if to.type == X86_OP_MEM:
                self._store(self.address(insn, 0), value if to.size == 8 else None)
            else:
                self._set(to.reg, value if to.size >= 4 else None)
            return
        if name == "lea":
            self._set(operands[0].reg, self.address(insn, 1))
        elif name == "xor" and operands[0].type == operands[1].type == X86_OP_REG and operands[0].reg == operands[1].reg:
            self._set(operands[0].reg, 0)
        elif name in ("add", "sub") and operands[0].type == X86_OP_REG and operands[1].type == X86_OP_IMM:
            value, by = self.values.get(whole(operands[0].reg)), operands[1].imm
            self._set(operands[0].reg, None if value is None else (value + (by if name == "add" else -by)) & _WORD)
        elif name in ("push", "pop"):
            top = self.values.get(X86_REG_RSP)
            if name == "pop" and operands[0].type == X86_OP_REG:
                self._set(operands[0].reg, self.word(top) if top is not None else None)
            elif name == "push" and top is not None:
                known = self.values.get(whole(operands[0].reg)) if operands[0].type == X86_OP_REG else None
                self._store(top - 8, known)
            self._set(X86_REG_RSP, top + (8 if name == "pop" else -8) if top is not None else None)
        elif name not in ("cmp", "test", "nop"):
            if operands and operands[0].type == X86_OP_MEM:
                self._store(self.address(insn, 0), None)
            for register in insn.regs_access()[1]:
                self.values.pop(whole(register), None)

    def _set(self, register: int, value: int | None) -> None:
        if value is None:
            self.values.pop(whole(register), None)
        else:
            self.values[whole(register)] = value

    def _store(self, address: int | None, value: int | None) -> None:
        if address is not None and value is not None:
            self._stores[address] = value
        elif address is not None:
            self._stores.pop(address, None)


@cache
def whole(register: int) -> int:
    """The 64-bit register that `register` is a part of."""
    return _parts().get(register, register)


@cache
def _parts() -> dict[int, int]:
    from capstone import x86

    found = {}
    for letter in "ABCD":
        for part in (f"E{letter}X", f"{letter}X", f"{letter}H", f"{letter}L"):
            found[getattr(x86, f"X86_REG_{part}")] = getattr(x86, f"X86_REG_R{letter}X")
    for name in ("SI", "DI", "BP", "SP"):
        for part in (f"E{name}", name, f"{name}L"):
            found[getattr(x86, f"X86_REG_{part}")] = getattr(x86, f"X86_REG_R{name}")
    for number in range(8, 16):
        for part in "DWB":
            found[getattr(x86, f"X86_REG_R{number}{part}")] = getattr(x86, f"X86_REG_R{number}")
    return found
