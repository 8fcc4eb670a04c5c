"""Go's function table (.gopclntab): names, files, lines and inlined calls without any symbol table."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import cached_property

from gotrace.common.caches import cached
from gotrace.common.errors import BadBinary
from gotrace.gobin.functionnames import FunctionNames
from gotrace.gobin.functionrecords import FunctionRecords
from gotrace.gobin.functions import Call, Function
from gotrace.gobin.image import Image
from gotrace.gobin.inlinetrees import InlineTrees
from gotrace.gobin.pcvalues import PcValues

_MAX_INLINE_DEPTH = 64


class Pclntab(FunctionRecords):
    """Reader of one module's function table.

    Raises:
        BadBinary: there is no table of a known format, or its header contradicts the file.
    """

    def __init__(self, image: Image) -> None:
        super().__init__(image)
        self._values = PcValues(image, self.pctab)
        self._by_name = FunctionNames(self)
        self._inlined = InlineTrees(self, self._by_name, self._values)

    # -- finding functions ---------------------------------------------------------------------------------------------

    @cached(1024)
    def functions_named(self, name: str) -> list[Function]:
        """All functions called `name`, in address order (an ABI wrapper has the same name as what it wraps)."""
        return self._by_name.functions(name)

    def inlined_into(self, name: str) -> list[Function]:
        """The functions of package runtime whose code contains an inlined copy of its function `name`, in address order."""
        return self._inlined.into(name)

    def inlined_anywhere(self, name: str, most: int = 4) -> list[Function]:
        """As `inlined_into`, for a function of any package and in all others: at most so many of them."""
        return self._inlined.into_any(name, most)

    def all_names(self) -> Iterator[str]:
        """The names that the table has, also those of functions of which there are only inlined copies."""
        start = self.in_file(self.names)
        for raw in self.image.data[start : self.in_file(self.cus)].split(b"\0"):
            if raw:
                yield raw.decode("utf-8", "replace")

    @property
    def gofunc(self) -> int:
        """Base of the function data, moduledata.gofunc."""
        return self._inlined.gofunc

    def function_data(self, function: Function, kind: int) -> int | None:
        """The address of the function's data of that kind (internal/abi/symtab.go: FUNCDATA_*); None if it has none."""
        return self._inlined.function_data(function, kind)

    @cached_property
    def wrapper_id(self) -> int | None:
        """The funcID of compiler-made wrappers in this binary (internal/abi/symtab.go: the last of the list, 21 to 23 by version): newstack
        and goexit1 are called from assembly, and each has an ABI wrapper of the same name."""
        ids = set()
        for name in ("runtime.newstack", "runtime.goexit1"):
            functions = self.functions_named(name)
            if len(functions) == 2:
                ids.add(max(function.func_id for function in functions))
        return ids.pop() if len(ids) == 1 else None

    # -- what a program counter means ----------------------------------------------------------------------------------

    def expand(self, pc: int, is_return_address: bool = True) -> list[Call]:
        """The calls that `pc` stands for, innermost inlined call first, the physical function last; [] outside Go code.

        A return address belongs to the call before it, so it is looked up at pc - 1 (runtime/traceback.go).
        """
        pc = pc - 1 if is_return_address else pc
        function = self.function_at(pc)
        if function is None:
            return []
        calls = []
        tree = self._inlined.tree(function)
        indexes = self._inlined.indexes(function)
        if tree is not None and indexes:
            for _ in range(_MAX_INLINE_DEPTH):
                index = self._values.value(function, indexes, pc)
                if index is None or index < 0:
                    break
                try:
                    name_offset, parent_pc, func_id = self._inlined.call(tree, index)
                except BadBinary:
                    break
                file, line = self._file_line(function, pc)
                calls.append(Call(self.string(self.names + name_offset), file, line, True, func_id))
                pc = function.entry + parent_pc
        file, line = self._file_line(function, pc)
        calls.append(Call(function.name, file, line, False, function.func_id))
        return calls

    def stack_delta(self, pc: int) -> int | None:
        """Bytes between the stack pointer at `pc` and the return address (table pcsp); None outside Go code."""
        function = self.function_at(pc)
        return None if function is None or not function.pcsp else self._values.value(function, function.pcsp, pc)

    def frame_size(self, function: Function) -> int:
        """The largest `stack_delta` within `function`: its whole frame."""
        return max(self._values.values(function, function.pcsp)[1], default=0)

    def stack_deltas(self, function: Function) -> tuple[array[int], array[int]]:
        """The end address of each run of instructions with the same `stack_delta`, and that delta."""
        return self._values.values(function, function.pcsp)

    def _file_line(self, function: Function, pc: int) -> tuple[str, int]:
        index = self._values.value(function, function.pcfile, pc) if function.pcfile else None
        line = self._values.value(function, function.pcln, pc) if function.pcln else None
        if index is None or index < 0:
            return "", max(line or 0, 0)
        try:
            offset = self.image.u32(self.cus + (function.cu_offset + index) * 4)
        except BadBinary:
            return "", max(line or 0, 0)
        return ("" if offset == 0xFFFFFFFF else self.string(self.files + offset)), max(line or 0, 0)
