"""Whether the frames that a walk has found on a goroutine's stack are all that lie there.

The walk follows frame pointers. Code that is not Go's, or assembly that uses the register for something else, may leave an older frame's
in it: then the chain ends at the root, and frames in between are missing. What the walk has passed is a number of bytes; the function
table says how many each frame has. In a stack that is whole the two are equal.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from gotrace.common.vocabulary import OUTSIDE_CODE, SANITIZER_CODE
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.functions import Function
from gotrace.kernel.records import RawStack
from gotrace.kernel.structs import LEAF_BLOCK, LEAF_BLOCK_BITS, LEAF_PC

ROOTS = frozenset(("runtime.goexit", "runtime.mstart", "runtime.rt0_go", "runtime.cgocallback", "crosscall2"))
"""Where a stack may end: the goroutine's first frame, the scheduler's, and, on a thread that C made, the way from C into Go."""
INTERRUPTED = frozenset(("runtime.asyncPreempt", "runtime.sigpanic"))
"""What a signal calls: the frame above is the interrupted instruction (runtime/preempt.go, signal_amd64.go)."""
NO_ADDRESSES = frozenset((OUTSIDE_CODE, SANITIZER_CODE))
_OWN_FRAMES = INTERRUPTED | ROOTS | {
    "runtime.cgocallback", "runtime.asmcgocall", "runtime.systemstack", "runtime.mcall", "runtime.morestack",
}
"""Functions whose callers do not lie right above their frames."""
_MOST_FRAME_SIZES = 8192
_MOST_BLOCKS = 1024
_WORD = 8


@dataclass(frozen=True, slots=True)
class CodePoint:
    """A program counter at its link-time address. `exact`: the instruction itself, not a return address behind it."""

    pc: int
    exact: bool = False


class Chains:
    """Chains of callers of one process's goroutines, an instance of `binary` loaded at `bias`."""

    def __init__(self, binary: GoBinary, bias: int) -> None:
        self._binary = binary
        self._bias = bias
        asmcgocall = binary.function("runtime.asmcgocall")
        self._asmcgocall_frame = binary.table.frame_size(asmcgocall[0]) if asmcgocall else 0
        self.frame_sizes: dict[int, int] = {}
        """Of the frames in stacks that broke off: by return address, how far above the stack pointer their own return address lies. And
        of functions that threads were stopped in: the same by block of code or instruction, as in bpf/maps.c."""

    def at_root(self, points: Sequence[CodePoint]) -> bool:
        """Whether it ends where a stack may."""
        function = self.function(points[-1]) if points else None
        return function is not None and function.name in ROOTS

    def ends_in_callback(self, points: Sequence[CodePoint]) -> bool:
        """Whether its last frame is that by which C calls Go."""
        function = self.function(points[-1]) if points else None
        return function is not None and function.name in ("runtime.cgocallback", "crosscall2")

    def function(self, point: CodePoint) -> Function | None:
        """The function that the point is in."""
        return self._binary.table.function_at(point.pc - (not point.exact))

    def adds_up(self, stack: RawStack, points: Sequence[CodePoint]) -> bool:
        """Whether the frames fill what the walk has passed. True as well where that can't be known, as of code that is not Go's; but
        what such code was called from can't be a call of a Go function, which has a frame of its own."""
        if any(below.pc == OUTSIDE_CODE and self._calls_go(above) for below, above in zip(points, points[1:], strict=False)):
            return False
        if not stack.span or stack.in_transit or len(points) < 2:
            return True
        sizes = [self._frame(point, index, stack) for index, point in enumerate(points[:-1])]
        known = [size + _WORD for size in sizes if size is not None]
        if len(known) < len(sizes) or sum(known) == stack.span:
            return True
        # Assembly may move the stack pointer by what is no constant, in a leaf: then its frame pointer is right, and its caller calls it.
        return points[0].exact and sum(known[1:]) == stack.span - stack.first and self._surely_calls(points[1], points[0])

    def _frame(self, point: CodePoint, index: int, stack: RawStack) -> int | None:
        """Bytes between the stack pointer there and the return address; None if not known."""
        if point.pc in NO_ADDRESSES:
            return 0 if index == 0 and stack.in_prologue else None
        function = self.function(point)
        if index == 0 and not point.exact and self._is_entry(point.pc):
            return 0  # runtime.systemstack_switch, up to Go 1.20: a mark, at which nothing is on the stack
        size = self._binary.table.stack_delta(point.pc - (not point.exact))
        if function is None or size is None or size < 0 or size % _WORD:
            return None
        if function.name == "runtime.cgocallback":
            # A mark of where the goroutine went into C, and the frame of asmcgocall (runtime/asm_amd64.s).
            return size + _WORD + self._asmcgocall_frame
        return size

    def _is_entry(self, pc: int) -> bool:
        function = self._binary.table.function_at(pc)
        return function is not None and function.entry == pc

    def _surely_calls(self, caller: CodePoint, callee: CodePoint) -> bool:
        """Whether a call of just that function stands in front of the return address."""
        function = self.function(callee)
        if function is None or caller.pc in NO_ADDRESSES or callee.pc in NO_ADDRESSES:
            return False
        if caller.exact:
            return function.name in INTERRUPTED
        return self._called(caller.pc) == function.entry

    def _called(self, to: int) -> int | None:
        """Where the call goes that returns to `to`; None if it is none with a fixed address."""
        code = self._binary.image.read_up_to(to - 5, 5)
        return to + int.from_bytes(code[1:], "little", signed=True) if len(code) == 5 and code[0] == 0xE8 else None

    def _calls_go(self, caller: CodePoint) -> bool:
        """Whether what stands there calls a Go function that has a frame."""
        target = None if caller.exact or caller.pc in NO_ADDRESSES else self._called(caller.pc)
        called = self._binary.table.function_at(target) if target is not None else None
        return called is not None and self._binary.table.frame_size(called) > 0

    def certain(self, points: Sequence[CodePoint]) -> int:
        """How many frames of a chain that does not add up are its own beyond doubt: each called by the next."""
        for index, (callee, caller) in enumerate(zip(points, points[1:], strict=False), 1):
            if not self._surely_calls(caller, callee):
                return index + (caller.pc == OUTSIDE_CODE)
        return len(points)

    def believed(self, points: Sequence[CodePoint]) -> int:
        """How many frames of a stack that broke off are its own: up to where the frame before was not called from."""
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
                # Another one: it may have jumped on, as wrappers and stubs do. Then it has no frame of its own.
                other = self._binary.table.function_at(target)
                if other is not None and self._binary.table.frame_size(other) == 0:
                    continue
                return index
            if not (code[3] == 0xFF and code[4] & 0x38 == 0x10 or code[2] == 0xFF and code[3] & 0x38 == 0x10):
                return index
        return len(points)

    def learn(self, points: Sequence[CodePoint]) -> None:
        """The chain of frame pointers has been broken there. From now on it can be passed by the sizes of these frames."""
        for point in points[1:]:
            function = self.function(point)
            size = self._binary.table.stack_delta(point.pc - 1) or 0
            if function is None or point.exact or size < _WORD or size % _WORD or function.name in _OWN_FRAMES:
                continue
            self._note(point.pc + self._bias, size)
        if points and points[0].exact and points[0].pc not in NO_ADDRESSES:
            self._learn_leaf(points[0].pc)

    def _learn_leaf(self, pc: int) -> None:
        """A function may use the frame pointer as it likes while it calls nothing: wherever a thread stops in it, its caller is found by
        how far its return address is."""
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
