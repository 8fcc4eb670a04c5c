"""What the compiler has inlined into each function: trees in its function data (src/internal/abi/symtab.go: FUNCDATA_InlTree)."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import cached_property

from gotrace.common.errors import BadBinary
from gotrace.gobin.functionnames import FunctionNames
from gotrace.gobin.functionrecords import FunctionRecords
from gotrace.gobin.functions import Function
from gotrace.gobin.moduledata import GOFUNC, MAGIC_120
from gotrace.gobin.pcvalues import PcValues

_INLINE_TREE, _INLINE_INDEX = 3, 2
"""FUNCDATA_InlTree, PCDATA_InlTreeIndex."""
_MAX_INLINED = 512
"""The most entries of an inline tree that are read; the runtime's largest has about 150."""
_MAX_COPIES = 256
_MAX_MATCHES = 1 << 14


class InlineTrees:
    """The inline trees of one table."""

    def __init__(self, records: FunctionRecords, names: FunctionNames, values: PcValues) -> None:
        self._records = records
        self._names = names
        self._values = values
        self._gofunc: int | None = None

    def tree(self, function: Function) -> int | None:
        """The address of the function's tree; None if it has none."""
        if function.nfuncdata <= _INLINE_TREE:
            return None
        offset = self._records.word(function, function.npcdata + _INLINE_TREE)
        return None if offset in (None, 0xFFFFFFFF) else self.gofunc + offset

    def function_data(self, function: Function, kind: int) -> int | None:
        """The address of the function's data of that kind (internal/abi/symtab.go: FUNCDATA_*); None if it has none."""
        offset = self._records.word(function, function.npcdata + kind) if function.nfuncdata > kind else None
        return None if offset in (None, 0xFFFFFFFF) else self.gofunc + (offset or 0)

    def indexes(self, function: Function) -> int:
        """The table of its program counters' indexes in the tree, in the naming of `PcValues`; 0 if there is none."""
        return (self._records.word(function, _INLINE_INDEX) or 0) if function.npcdata > _INLINE_INDEX else 0

    def call(self, tree: int, index: int) -> tuple[int, int, int]:
        """For an inlined call: the offset of its name, the offset in the function of the program counter at which it was called, its
        funcID."""
        if self._records.magic == MAGIC_120:
            func_id, name_offset, parent_pc, _ = struct.unpack("<B3xiii", self._records.image.read(tree + 16 * index, 16))
        else:
            _, func_id, _, _, _, name_offset, parent_pc = struct.unpack("<hBBiiii", self._records.image.read(tree + 20 * index, 20))
        return name_offset, parent_pc, func_id

    def into(self, name: str) -> list[Function]:
        """The functions of package runtime whose code contains an inlined copy of its function `name`, in address order: the inline trees
        name each. No other package can contain one of a function that is not exported, except by a copy within a copy, for which the
        runtime's exported functions are too large."""
        offset = self._names.offset(name)
        if offset is None:
            return []
        pattern, found, candidates = struct.pack("<i", offset), [], 0
        # {funcID, name, parent pc, line} of 16 bytes from Go 1.20 on, before that 20 bytes with the name at 12.
        size, at = (16, 4) if self._records.magic == MAGIC_120 else (20, 12)
        for function, around in self._runtime_trees:
            if pattern not in around:
                continue
            candidates += 1
            if candidates > _MAX_COPIES:
                raise BadBinary(f"{self._records.image.name}: more than {_MAX_COPIES} functions seem to have {name} inlined")
            indexes = self.indexes(function)
            count = max(self._values.values(function, indexes)[1], default=-1) + 1 if indexes else 0
            entries = around[: size * min(count, _MAX_INLINED)]
            if any(entries[place : place + 4] == pattern for place in range(at, len(entries), size)):
                found.append(function)
        return found

    def into_any(self, name: str, most: int) -> list[Function]:
        """As `into`, of all packages, at most so many."""
        offset = self._names.offset(name)
        if offset is None:
            return []
        pattern, found = struct.pack("<i", offset), []
        size, at = (16, 4) if self._records.magic == MAGIC_120 else (20, 12)
        seen = 0
        for address in self._words_equal(pattern):
            seen += 1
            if seen > _MAX_MATCHES:
                raise BadBinary(f"{self._records.image.name}: more than {_MAX_MATCHES} places look like a copy of {name}")
            # Of the tree that begins last before it, which several functions may share.
            starts, end = self._all_trees, bisect_right(self._all_trees, address << 32 | 0xFFFFFFFF)
            tree = starts[end - 1] >> 32 if end else 0
            for word in starts[bisect_left(starts, tree << 32) : end]:
                function = self._records.function(word & 0xFFFFFFFF)
                index, rest = divmod(address - tree, size)
                if function is None or rest != at or function in found or not (indexes := self.indexes(function)):
                    continue
                if index <= max(self._values.values(function, indexes)[1], default=-1):
                    found.append(function)
                    if len(found) >= most:
                        return found
        return found

    def _words_equal(self, word: bytes) -> Iterator[int]:
        """Where in the function data that word is."""
        image = self._records.image
        segment, start = image.segment_at(self.gofunc), image.file_offset(self.gofunc)
        if segment is None or start is None:
            return
        position, end = start - 1, segment.offset + segment.file_size
        while (position := image.data.find(word, position + 1, end)) >= 0:
            address = segment.address + position - segment.offset
            if address % 4 == 0:
                yield address

    @cached_property
    def _all_trees(self) -> array[int]:
        """Every tree: its address, shifted by 32 bits, and the place of its function, in order of addresses from `gofunc` on."""
        data = self._records.all_data(_INLINE_TREE)
        return array("Q", sorted(array("Q", (self.gofunc + offset << 32 | index for index, offset in data))))

    @cached_property
    def _runtime_trees(self) -> list[tuple[Function, bytes]]:
        """The functions of package runtime that have an inline tree, with the bytes of the tree and of what follows it."""
        try:
            _ = self.gofunc
        except BadBinary:
            return []  # attaching has refused it before (GoBinary.check)
        found = [(function, tree) for function in self._names.of_runtime() if (tree := self.tree(function)) is not None]
        starts = sorted({tree for _, tree in found})
        ends = dict(zip(starts, [*starts[1:], starts[-1] + 20 * _MAX_INLINED], strict=True)) if starts else {}
        around = {tree: self._records.image.read_up_to(tree, min(end - tree, 20 * _MAX_INLINED)) for tree, end in ends.items()}
        return [(function, around[tree]) for function, tree in sorted(found, key=lambda item: item[0].entry)]

    @property
    def gofunc(self) -> int:
        """Base of the function data, moduledata.gofunc: the candidate offset whose value is in read-only data."""
        if self._gofunc is None:
            self._gofunc = self._find_gofunc()
        return self._gofunc

    def _find_gofunc(self) -> int:
        # The field moved between versions (see GOFUNC). The inline trees tell which candidate is right: every tree of the first functions
        # that have one must contain a name that is text and a parent within its function.
        best, best_score = 0, -1
        for offset in GOFUNC:
            try:
                base = self._records.image.pointer(self._records.moduledata + offset)
            except BadBinary:
                continue
            segment = self._records.image.segment_at(base)
            if segment is None:
                continue
            score = self._gofunc_score(base)
            if score > best_score:
                best, best_score = base, score
        if best_score < 0:
            raise BadBinary(f"{self._records.image.name}: moduledata.gofunc was not found")
        return best

    def _gofunc_score(self, base: int) -> int:
        records, score, seen = self._records, 0, 0
        for index in range(min(self._records.function_count, 4096)):
            function = self._records.function(index)
            if function is None or function.nfuncdata <= _INLINE_TREE:
                continue
            offset = records.image.u32(function.address + records.func_size + 4 * (function.npcdata + _INLINE_TREE))
            if offset == 0xFFFFFFFF:
                continue
            seen += 1
            try:
                name_offset, parent_pc, _ = self.call(base + offset, 0)
                name = self._records.image.read_up_to(self._records.names + name_offset - 1, 2)
            except BadBinary:
                continue
            plausible = 0 <= parent_pc < function.end - function.entry and name_offset > 0
            score += plausible and len(name) == 2 and name[0] == 0 and name[1] > 32
            if seen >= 64:
                break
        return score
