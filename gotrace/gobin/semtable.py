"""Where the runtime's table of semaphores is: found by symbol and by the code that uses it (src/runtime/sema.go: semTable, rootFor)."""

from __future__ import annotations

from gotrace.gobin.image import Image
from gotrace.gobin.pclntab import Pclntab
from gotrace.gobin.symbols import Symbols
from gotrace.gobin.x86 import instructions

ROOTS, STRIDE = 251, 64
"""semTabSize, and the size of a cache line on amd64, to which each root is padded; the same from Go 1.19 to 1.27."""


def find_semtable(image: Image, table: Pclntab, symbols: Symbols) -> int | None:
    """The link-time address of runtime.semtable, None if it was not found or symbol and code disagree.

    semrelease1 and semacquire1 each load its address; nothing else that both load has room for the whole table.
    """
    symbol, code = symbols.address("runtime.semtable"), _by_code(image, table)
    if symbol is not None and code is not None and symbol != code:
        return None
    return symbol if symbol is not None else code


def _by_code(image: Image, table: Pclntab) -> int | None:
    found: set[int] | None = None
    for name in ("runtime.semrelease1", "runtime.semacquire1"):
        functions = table.functions_named(name)
        if not functions:
            return None
        loaded = {target for function in functions for target in _loaded(image, table, function.entry)}
        found = loaded if found is None else found & loaded
    return found.pop() if found is not None and len(found) == 1 else None


def _loaded(image: Image, table: Pclntab, entry: int) -> set[int]:
    """The writable addresses that the function loads, where a table has room."""
    from capstone.x86 import X86_OP_MEM, X86_REG_RIP

    function = table.function_at(entry)
    found = set()
    for insn in instructions(image, function) if function is not None else []:
        if insn.mnemonic != "lea" or insn.operands[1].type != X86_OP_MEM or insn.operands[1].mem.base != X86_REG_RIP:
            continue
        target = insn.address + insn.size + insn.operands[1].mem.disp
        segment = image.segment_at(target)
        if segment is not None and segment.writable and target + ROOTS * STRIDE <= segment.address + segment.memory_size:
            found.add(target)
    return found
