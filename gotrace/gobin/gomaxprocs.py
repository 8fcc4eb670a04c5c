"""Where the runtime keeps GOMAXPROCS: found by its symbol, and by procresize, which loads it first (src/runtime/proc.go)."""

from __future__ import annotations

from gotrace.gobin.image import Image
from gotrace.gobin.pclntab import Pclntab
from gotrace.gobin.symbols import Symbols
from gotrace.gobin.x86 import instructions

_READ = 512


def find_gomaxprocs(image: Image, table: Pclntab, symbols: Symbols) -> int | None:
    """The link-time address of runtime.gomaxprocs (int32), None if it was not found or symbol and code disagree."""
    symbol, code = symbols.address("runtime.gomaxprocs"), _by_code(image, table)
    if symbol is not None and code is not None and symbol != code:
        return None
    return symbol if symbol is not None else code


def _by_code(image: Image, table: Pclntab) -> int | None:
    from capstone.x86 import X86_OP_MEM, X86_OP_REG, X86_REG_RIP

    for function in table.functions_named("runtime.procresize"):
        for insn in instructions(image, function, _READ):
            operands = insn.operands
            if insn.mnemonic not in ("mov", "movsxd") or operands[0].type != X86_OP_REG or operands[1].type != X86_OP_MEM:
                continue
            target = int(insn.address + insn.size + operands[1].mem.disp)
            segment = image.segment_at(target)
            if operands[1].mem.base == X86_REG_RIP and operands[1].size == 4 and segment is not None and segment.writable:
                return target
    return None
