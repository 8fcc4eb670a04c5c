"""What refers to a function: the calls and jumps in the code, and where its address is kept as a value.

Calls are `call rel32`; a function is a value as a pointer in data (cmd/link: the word of a func value, an itab's method), as `lea rel32`
in code (a closure), or as an offset from the beginning of the code (runtime/type.go: textOff of a type's method).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gotrace.common.errors import BadBinary
from gotrace.gobin.functions import Function
from gotrace.gobin.image import Image, Segment
from gotrace.gobin.moduledata import TYPES
from gotrace.gobin.passages import MAX_CODE
from gotrace.gobin.pclntab import Pclntab
from gotrace.gobin.x86 import instructions

if TYPE_CHECKING:
    from capstone import CsInsn

# Bounds on searches for bytes, which in a hostile file match everywhere.
_MAX_FOUND = 256
_MAX_CHECKED = 1 << 20
_MAX_WORDS = 1 << 14


@dataclass(frozen=True)
class References:
    """Of one function. `calls`: addresses of the instructions that call it, with the functions that those are in, in address order, without
    those of the function itself. `other`: what else refers to it, in words, at most a few; () if every caller is known."""

    calls: tuple[tuple[Function, int], ...]
    other: tuple[str, ...]


def references(image: Image, table: Pclntab, function: Function, by_methods: bool = True) -> References:
    """All that can lead to the first instruction of `function`. Wherever it is not certain what refers to it, `other` says so.

    `by_methods`: what finds it as a method of its type (an assertion to an interface, package reflect) is among that.

    Raises:
        BadBinary: too much of the file looks like references.
    """
    calls: list[tuple[Function, int]] = []
    other: list[str] = []
    code: dict[int, list[CsInsn]] = {}
    for number, at in enumerate(_relative(image, function.entry)):
        if number >= _MAX_FOUND:
            other.append("more places than are checked")
            break
        holder = table.function_at(at)
        if holder is None:
            other.append("code that is in no Go function")
            continue
        insns = code[holder.entry] = code.get(holder.entry) or instructions(image, holder, MAX_CODE)
        insn = next((insn for insn in insns if insn.address <= at < insn.address + insn.size), None)
        if insn is None:
            other.append(f"code of {holder.name} that can't be read")
        elif not _leads_to(insn, function.entry) or (holder.entry == function.entry and insn.mnemonic != "lea"):
            continue  # the bytes are those of another number; or it calls itself, or begins again with more stack
        elif insn.mnemonic == "call":
            calls.append((holder, insn.address))
        else:
            other.append(f"as a value in {holder.name}" if insn.mnemonic == "lea" else f"by a jump in {holder.name}")
    other += _as_values(image, table, function, by_methods)
    if any(table.functions_named(f"plugin.{name}") for name in ("Open", "open", "lastmoduleinit")):
        other.append("from plugins")
    return References(tuple(sorted(calls, key=lambda call: call[1])), tuple(dict.fromkeys(other)))


def _leads_to(insn: CsInsn, target: int) -> bool:
    """Whether it calls or jumps to `target`, or takes its address."""
    if insn.mnemonic == "lea":
        from capstone.x86 import X86_OP_MEM, X86_REG_RIP

        return any(
            operand.type == X86_OP_MEM and operand.mem.base == X86_REG_RIP and insn.address + insn.size + operand.mem.disp == target
            for operand in insn.operands
        )
    return bool(insn.mnemonic.startswith(("call", "j"))) and insn.op_str == hex(target)


def _relative(image: Image, target: int) -> Iterator[int]:
    """Where in the code the distance to `target` from right behind it stands, at an instruction's end or by chance."""
    checked = 0
    # The upper half of the distance is the same in long runs of addresses: few places have it, and a search for bytes finds them.
    for segment in image.segments:
        if not segment.executable:
            continue
        start, limit = segment.address, segment.address + segment.file_size
        while start < limit:
            # For a field at `at`, the distance is target - at - 4.
            high = (target - start - 4) >> 16
            end = min(limit, target - 4 - (high << 16) + 1)  # the last `at` with that upper half, and one
            code = image.read_up_to(start, end - start + 3)
            pattern = struct.pack("<H", high & 0xFFFF)
            position = code.find(pattern, 2)
            while position >= 0:
                checked += 1
                if checked > _MAX_CHECKED:
                    raise BadBinary(f"{image.name}: too much of its code looks like references to {target:#x}")
                at = start + position - 2
                if at < end and struct.unpack_from("<i", code, position - 2)[0] == target - at - 4:
                    yield at
                position = code.find(pattern, position + 1)
            start = end


def _as_values(image: Image, table: Pclntab, function: Function, by_methods: bool) -> Iterator[str]:
    word = struct.pack("<Q", function.entry)
    if any(target == function.entry for target in image.relocations.values()):
        yield "by its address in data"
    if any(next(_found_in(image, segment, word), None) is not None for segment in image.segments if not segment.executable):
        yield "by its address in data"
    if by_methods and _is_method(image, table, function):
        yield "as a method of its type"


def _is_method(image: Image, table: Pclntab, function: Function) -> bool:
    """Whether a type has it among its methods (internal/abi/type.go: Method, {name, type, ifn, tfn}, all offsets of 32 bits)."""
    name = function.name.rpartition(".")[2].encode()
    try:
        types = image.pointer(table.moduledata + TYPES[table.magic])
    except BadBinary:
        return True
    for segment in image.segments:
        if segment.executable:
            continue
        for at in _found_in(image, segment, struct.pack("<I", function.entry - table.text)):
            for place in (at - 8, at - 12):
                raw = image.read_up_to(place, 4)
                # A name is {flags u8, length varint, text} (internal/abi/type.go: Name).
                text = image.read_up_to(types + int.from_bytes(raw, "little"), 3 + len(name)) if len(raw) == 4 else b""
                if name in (text[2 : 2 + len(name)], text[3:]) and len(text) > 2:
                    return True
    return False


def _found_in(image: Image, segment: Segment, word: bytes) -> Iterator[int]:
    """The addresses of a word in a segment."""
    position, end = segment.offset - 1, segment.offset + segment.file_size
    for _ in range(_MAX_WORDS):
        position = image.data.find(word, position + 1, end)
        if position < 0:
            return
        address = segment.address + position - segment.offset
        if address % len(word) == 0:
            yield address
    raise BadBinary(f"{image.name}: the word {word.hex()} is everywhere in its data")
