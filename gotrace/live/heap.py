"""The objects of a Go process's heap: where an address's object begins and ends (runtime/mheap.go: spanOf, mspan).

Where the runtime keeps its spans is found by the code that searches them, and confirmed by objects that are known: the g structs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gotrace.gobin.binary import GoBinary
from gotrace.gobin.x86 import instructions
from gotrace.live.pages import Pages, word_at

_ARENA_SHIFT, _ARENA_BASE, _PAGE = 26, 0x8000_0000_0000, 8192
"""runtime/malloc.go, linux/amd64: arenas of 64 MB, the first index stands for the lowest address."""
_PAGES_PER_ARENA = (1 << _ARENA_SHIFT) // _PAGE
_SPANS = (0, 0x100000 + 0x4000, 0x200000)
"""heapArena.spans: Go 1.22 and later, 1.20 and 1.21 (behind two bitmaps), 1.19."""
_START, _PAGES, _FREE_INDEX = 24, 32, 48
_ELEM_SIZES = (104, 112)
_CLASS, _STATE = -6, -5
"""mspan.spanclass and state, from elemsize on."""
_ALLOC_BITS, _ALLOC_BITS_BEFORE_22 = 64, 72
_IN_USE, _MANUAL = 1, 2
_MSPAN = 128
_SEARCHED = ("runtime.findObject", "runtime.spanOf", "runtime.spanOfHeap", "runtime.badPointer", "runtime.greyobject")
_CONFIRMED_BY = 8


class Span(NamedTuple):
    """A run of objects of one size. `manual`: stacks and the like, no objects; `pointers`: the objects may contain some."""

    start: int
    end: int
    size: int
    manual: bool
    pointers: bool
    free_index: int
    alloc_bits: bytes


class Heap:
    """The spans of one process's heap; `known` are addresses of g structs. `found` is False if the runtime's spans were not found."""

    def __init__(self, pages: Pages, binary: GoBinary, bias: int, known: Iterable[int], least: int) -> None:
        self._pages = pages
        minor = binary.version.minor if binary.version is not None else 0
        self._wide = minor < 22
        self._at_bits = _ALLOC_BITS_BEFORE_22 if self._wide else _ALLOC_BITS
        self._spans: dict[int, Span | None] = {}
        self._arenas = self._at_spans = self._at_size = 0
        self.found = self._find(binary, bias, list(known)[:_CONFIRMED_BY], least)

    def _find(self, binary: GoBinary, bias: int, known: list[int], least: int) -> bool:
        candidates = dict.fromkeys(target + bias for name in _SEARCHED for target in _loads(binary, name))
        for arenas in candidates:
            for at_spans in _SPANS:
                for at_size in _ELEM_SIZES:
                    self._arenas, self._at_spans, self._at_size = arenas, at_spans, at_size
                    spans = [self._read(g // _PAGE) for g in known]
                    if known and all(span is not None and not span.manual and span.size >= least and (g - span.start) % span.size == 0
                                     and span.start <= g < span.end for g, span in zip(known, spans, strict=True)):
                        return True
        return False

    def span(self, address: int) -> Span | None:
        """The span that contains the address, None if it is not in the heap."""
        page = address // _PAGE
        if page not in self._spans:
            self._spans[page] = self._read(page)
        span = self._spans[page]
        return span if span is not None and span.start <= address < span.end else None

    def object(self, address: int) -> tuple[int, int] | None:
        """The start and size of the allocated object that contains the address, None if there is none."""
        span = self.span(address)
        if span is None or span.manual:
            return None
        index = (address - span.start) // span.size
        if index >= span.free_index and not (index // 8 < len(span.alloc_bits) and span.alloc_bits[index // 8] >> index % 8 & 1):
            return None
        return span.start + index * span.size, span.size

    def _read(self, page: int) -> Span | None:
        address = page * _PAGE
        table = self._pages.word(self._arenas)
        arena = self._pages.word(table + 8 * ((address + _ARENA_BASE) >> _ARENA_SHIFT)) if table else None
        at = self._pages.word(arena + self._at_spans + 8 * (page % _PAGES_PER_ARENA)) if arena else None
        raw = self._pages.read(at, _MSPAN) if at else None
        if raw is None:
            return None
        start, pages, size = word_at(raw, _START), word_at(raw, _PAGES), word_at(raw, self._at_size)
        state = raw[self._at_size + _STATE]
        if start % _PAGE or not 0 < pages < 1 << 32 or state not in (_IN_USE, _MANUAL):
            return None
        if state == _IN_USE and not 8 <= size <= pages * _PAGE:
            return None
        free = word_at(raw, _FREE_INDEX) if self._wide else int.from_bytes(raw[_FREE_INDEX : _FREE_INDEX + 2], "little")
        count = pages * _PAGE // size if size else 0
        bits = self._pages.read(word_at(raw, self._at_bits), (count + 7) // 8) if state == _IN_USE and count <= 8192 else b""
        return Span(start, start + pages * _PAGE, size, state == _MANUAL, not raw[self._at_size + _CLASS] & 1, free, bits or b"")


def _loads(binary: GoBinary, name: str) -> list[int]:
    """The writable words that the function loads by their addresses."""
    from capstone.x86 import X86_OP_MEM, X86_OP_REG, X86_REG_RIP

    found = []
    for function in binary.table.functions_named(name):
        for insn in instructions(binary.image, function, 1024):
            operands = insn.operands
            if insn.mnemonic != "mov" or operands[0].type != X86_OP_REG or operands[1].type != X86_OP_MEM or operands[1].size != 8:
                continue
            target = int(insn.address + insn.size + operands[1].mem.disp)
            segment = binary.image.segment_at(target)
            if operands[1].mem.base == X86_REG_RIP and segment is not None and segment.writable:
                found.append(target)
    return found
