"""Whether all ways through a function's code pass certain instructions."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from gotrace.gobin.functions import Function

if TYPE_CHECKING:
    from capstone import CsInsn

_MOST = 8000


def always_passes(instruction: Callable[[int], CsInsn | None], function: Function, start: int, passed: Collection[int]) -> bool:
    """Whether the function can't return from `start` on without one of the instructions at the addresses `passed`. Ways that end in a panic
    do not count; a function that is too large is taken to have another way."""
    pending, seen = [start], set(passed)
    while pending:
        pc = pending.pop()
        while function.entry <= pc < function.end and pc not in seen:
            if len(seen) > _MOST:
                return False
            seen.add(pc)
            insn = instruction(pc)
            if insn is None or insn.mnemonic.startswith("ret"):
                return False
            if insn.mnemonic.startswith(("ud2", "int3")):
                break
            if insn.mnemonic.startswith("j"):
                if not insn.op_str.startswith("0x"):
                    return False  # through a table: anywhere
                target = int(insn.op_str, 16)
                if insn.mnemonic == "jmp":
                    pc = target
                    continue
                pending.append(target)
            pc = insn.address + insn.size
        else:
            if not function.entry <= pc < function.end:
                return False
    return True
