"""Whether a walk has found all frames that lie on a goroutine's stack.

The walk follows frame pointers. Code that is not Go's, or assembly that uses the register for something else, may leave an older frame's
pointer in it: the chain then still ends at the root, but frames in between are missing. The walk knows how many bytes it has passed, and
the function table how many each frame has. In a complete stack the two are equal.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from gotrace.common.vocabulary import OUTSIDE_CODE, SANITIZER_CODE
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.functions import Function
from gotrace.kernel.records import NO_STACK, RawStack
from gotrace.kernel.structs import LEAF_BLOCK, LEAF_BLOCK_BITS, LEAF_PC

ROOTS = frozenset(("runtime.goexit", "runtime.mstart", "runtime.rt0_go", "runtime.cgocallback", "crosscall2"))
"""Where a stack may end: the goroutine's first frame, the scheduler's, or, on a thread that C made, the way from C into Go."""
INTERRUPTED = frozenset(("runtime.asyncPreempt", "runtime.sigpanic"))
"""Called by a signal: the frame above is the interrupted instruction (runtime/preempt.go, signal_amd64.go)."""
NO_ADDRESSES = frozenset((OUTSIDE_CODE, SANITIZER_CODE))
_OWN_FRAMES = INTERRUPTED | ROOTS | {
    "runtime.cgocallback", "runtime.asmcgocall", "runtime.systemstack", "runtime.mcall", "runtime.morestack",
}
"""Functions whose callers do not lie right above their frames."""
_MOST_FRAME_SIZES = 8192
_MOST_BLOCKS = 1024
_MOST_CALLERS = 1 << 16
_WORD = 8


class CodePoint(NamedTuple):
    """A program counter at its link-time address. `exact`: the instruction itself, not the return address after it."""

    pc: int
    exact: bool = False


class Chains:
    """The chains of callers of one process's goroutines; the process runs `binary`, loaded at `bias`."""

    def __init__(self, binary: GoBinary, bias: int) -> None:
        self._binary = binary
        self._bias = bias
        asmcgocall = binary.function("runtime.asmcgocall")
        self._asmcgocall_frame = binary.table.frame_size(asmcgocall[0]) if asmcgocall else 0
        self._callers: dict[CodePoint, int | None] = {}
        """The frames of callers: the same few in most stacks."""
        self.frame_sizes: dict[int, int] = {}
        """The frames in stacks that broke off, by return address: how far above the stack pointer their own return address lies. Likewise
        the functions that threads were stopped in, by block of code or instruction, as in bpf/maps.c."""

    def at_root(self, points: Sequence[CodePoint]) -> bool:
        """Whether the chain ends where a stack may."""
        function = self.function(points[-1]) if points else None
        return function is not None and function.name in ROOTS

    def ends_in_callback(self, points: Sequence[CodePoint]) -> bool:
        """Whether the last frame is the one by which C calls Go."""
        function = self.function(points[-1]) if points else None
        return function is not None and function.name in ("runtime.cgocallback", "crosscall2")

    def function(self, point: CodePoint) -> Function | None:
        """The function that contains the point."""
        return self._binary.table.function_at(point.pc - (not point.exact))

    def adds_up(self, stack: RawStack, points: Sequence[CodePoint]) -> bool:
        """Whether the frames fill what the walk has passed. Also True where that can't be known, as for code that is not Go's; but such
        code can't have been called by a call of a Go function, which has a frame of its own."""
        if any(below.pc == OUTSIDE_CODE and self._calls_go(above) for below, above in zip(points, points[1:], strict=False)):
            return False
        if not stack.span or stack.in_transit or len(points) < 2:
            return True
        sizes = [self._frame(points[0], 0, stack), *map(self._caller, points[1:-1])]
        known = [size + _WORD for size in sizes if size is not None]
        if len(known) < len(sizes) or sum(known) == stack.span:
            return True
        # In a leaf, assembly may move the stack pointer by a variable amount: its frame pointer is then right, and its caller calls it.
        return points[0].exact and sum(known[1:]) == stack.span - stack.first and self._surely_calls(points[1], points[0])

    def _caller(self, point: CodePoint) -> int | None:
        if point not in self._callers:
            if len(self._callers) >= _MOST_CALLERS:
                self._callers.clear()
            self._callers[point] = self._frame(point, 1, NO_STACK)
        return self._callers[point]

    def _frame(self, point: CodePoint, index: int, stack: RawStack) -> int | None:
        """The bytes from the stack pointer there to the return address; None if not known."""
        if point.pc in NO_ADDRESSES:
            return 0 if index == 0 and stack.in_prologue else None
        function = self.function(point)
        if index == 0 and not point.exact and self._is_entry(point.pc):
            return 0  # runtime.systemstack_switch, up to Go 1.20: a mark, with nothing on the stack
        size = self._binary.table.stack_delta(point.pc - (not point.exact))
        if function is None or size is None or size < 0 or size % _WORD:
            return None
        if function.name == "runtime.cgocallback":
            # It marks where the goroutine went into C; the frame of asmcgocall follows (runtime/asm_amd64.s).
            return size + _WORD + self._asmcgocall_frame
        return size

    def _is_entry(self, pc: int) -> bool:
        function = self._binary.table.function_at(pc)
        return function is not None and function.entry == pc

    def _surely_calls(self, caller: CodePoint, callee: CodePoint) -> bool:
        """Whether a call of exactly that function stands before the return address."""
        function = self.function(callee)
        if function is None or caller.pc in NO_ADDRESSES or callee.pc in NO_ADDRESSES:
            return False
        if caller.exact:
            return function.name in INTERRUPTED
        return self._called(caller.pc) == function.entry

    def _called(self, to: int) -> int | None:
        """The target of the call that returns to `to`; None if it is not a call to a fixed address."""
        code = self._binary.image.read_up_to(to - 5, 5)
        return to + int.from_bytes(code[1:], "little", signed=True) if len(code) == 5 and code[0] == 0xE8 else None

    def _calls_go(self, caller: CodePoint) -> bool:
        """Whether the call there goes to a Go function that has a frame."""
        target = None if caller.exact or caller.pc in NO_ADDRESSES else self._called(caller.pc)
        called = self._binary.table.function_at(target) if target is not None else None
        return called is not None and self._binary.table.frame_size(called) > 0

    def certain(self, points: Sequence[CodePoint]) -> int:
        """How many frames of a chain that does not add up certainly belong to it: each is called by the next."""
        for index, (callee, caller) in enumerate(zip(points, points[1:], strict=False), 1):
            if not self._surely_calls(caller, callee):
                return index + (caller.pc == OUTSIDE_CODE)
        return len(points)

    def believed(self, points: Sequence[CodePoint]) -> int:
        """How many frames of a stack that broke off belong to it: up to the first that does not call the frame before it."""
        for index, (callee, caller) in enumerate(zip(points, points[1:], strict=False), 1):
            if caller.exact or caller.pc in NO_ADDRESSES or callee.pc in NO_ADDRESSES:
                continue
            code = self._binary.image.read_up_to(caller.pc - 5, 5)
            function = self.function(callee)
            if len(code) < 5 or function is None:
                return index
            target = self._called(caller.pc)
            if target is not None:
                if target == function.entry or self._binary.table.function_at(target) in (None, function):
                    continue
                # A different function: it may have jumped on, as wrappers and stubs do. It then has no frame of its own.
                other = self._binary.table.function_at(target)
                if other is not None and self._binary.table.frame_size(other) == 0:
                    continue
                return index
            if not (code[3] == 0xFF and code[4] & 0x38 == 0x10 or code[2] == 0xFF and code[3] & 0x38 == 0x10):
                return index
        return len(points)

    def learn(self, points: Sequence[CodePoint]) -> None:
        """Notes the sizes of these frames, where the chain of frame pointers broke off: with them the next walk can pass."""
        for point in points[1:]:
            function = self.function(point)
            size = self._binary.table.stack_delta(point.pc - 1) or 0
            if function is None or point.exact or size < _WORD or size % _WORD or function.name in _OWN_FRAMES:
                continue
            self._note(point.pc + self._bias, size)
        if points and points[0].exact and points[0].pc not in NO_ADDRESSES:
            self._learn_leaf(points[0].pc)

    def _learn_leaf(self, pc: int) -> None:
        """Notes how far the return address is at every point of a leaf function. A function that calls nothing may use the frame pointer as
        it likes; wherever a thread stops in it, its caller is found that way."""
        function, width = self._binary.table.function_at(pc), 1 << LEAF_BLOCK_BITS
        size = self._binary.table.stack_delta(pc)
        if function is None or function.name in _OWN_FRAMES or size is None or size < 0 or size % _WORD:
            return
        if (pc + self._bias) >> LEAF_BLOCK_BITS | LEAF_BLOCK in self.frame_sizes:
            return
        self._note(pc + self._bias | LEAF_PC, size)
        ends, sizes = self._binary.table.stack_deltas(function)
        for start in range(function.entry, min(function.end, function.entry + _MOST_BLOCKS * width), width):
            run = bisect_right(ends, start)
            if run < len(ends) and ends[run] >= min(start + width, function.end) and sizes[run] >= 0 and sizes[run] % _WORD == 0:
                self._note((start + self._bias) >> LEAF_BLOCK_BITS | LEAF_BLOCK, sizes[run])

    def _note(self, key: int, size: int) -> None:
        if len(self.frame_sizes) < _MOST_FRAME_SIZES:
            self.frame_sizes[key] = size
