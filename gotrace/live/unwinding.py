"""Walks goroutine stacks, by the frame sizes of the function table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from gotrace.common.vocabulary import OUTSIDE_CODE
from gotrace.gobin.binary import GoBinary

_MAX_FRAMES = 4096
_MAX_FOREIGN_FRAMES = 64
_MAX_FOREIGN_WORDS = 512
_MAX_STEPS = 1 << 18
_MOST_WAYS = 16
"""So many stacks above one program counter are recognised at once."""


def _at(places: list[int]) -> Callable[[memoryview], tuple[int, ...]]:
    """Picks the words at these places, of which there are at least two."""
    return itemgetter(*places)


class Way(NamedTuple):
    """Program counters, leaf first, and the words of the stack that decide them."""

    pcs: tuple[int, ...]
    places: tuple[int, ...]


class Unwinder:
    """Walks goroutine stacks by the frame sizes of the function table; remembers what each program counter means."""

    def __init__(self, binary: GoBinary, bias: int) -> None:
        self._binary = binary
        self._bias = bias
        self._steps: dict[tuple[int, bool], _Step | None] = {}
        self._entries: dict[int, bool] = {}
        self._ways: dict[int, list[tuple[int, Callable[[memoryview], tuple[int, ...]], tuple[int, ...], tuple[int, ...]]]] = {}
        asmcgocall = binary.function("runtime.asmcgocall")
        self._asmcgocall_frame = binary.table.frame_size(asmcgocall[0]) if asmcgocall else 0

    def unwind(self, pc: int, stack: bytes, sp: int = 0, interrupted: bool = False, bp: int = 0) -> tuple[int, ...] | None:
        """Program counters from `pc` down to the goroutine's root; `stack` is the memory from the stack pointer `sp` up. `interrupted`:
        `pc` is the next instruction, as in a thread's registers. `bp` is the frame pointer there, 0 if not known.

        OUTSIDE_CODE stands for code that is not in the function table, between its caller and its callee; at the end, if nothing is found
        above it. None if the chain leaves the stack before it reaches the root.
        """
        self._bound()
        exact = self._is_entry(pc) or interrupted
        words: memoryview = memoryview(stack)[: len(stack) & ~7].cast("Q")
        ways = self._ways.get(pc, ()) if not interrupted else ()
        for last, returns, callers, whole in ways:
            if last < len(words) and returns(words) == callers:
                return whole
        places: list[int] | None = [] if len(ways) < _MOST_WAYS and not interrupted else None
        return self._walk(pc, exact, words, sp, bp, places)

    def way(self, pc: int, stack: bytes | memoryview) -> Way | None:
        """The program counters as `unwind` gives them, and at which words of the stack the return addresses are: every stack with the same
        ones there, at the same program counter, is the same. None where more than these words decides, or it does not reach the root."""
        self._bound()
        places: list[int] = []
        words: memoryview = memoryview(stack)[: len(stack) & ~7].cast("Q")
        pcs = self._walk(pc, self._is_entry(pc), words, 0, 0, places)
        return Way(pcs, tuple(places)) if pcs is not None and places and len(places) == len(pcs) - 1 else None

    def _bound(self) -> None:
        if len(self._steps) > _MAX_STEPS:
            self._steps.clear()
            self._entries.clear()
            self._ways.clear()

    def _is_entry(self, pc: int) -> bool:
        """A saved pc is a return address too, except in a goroutine that has not run: there it is the function's entry."""
        exact = self._entries.get(pc)
        if exact is None:
            first = self._binary.table.function_at(pc - self._bias)
            exact = self._entries[pc] = first is not None and first.entry == pc - self._bias
        return exact

    def _walk(self, pc: int, exact: bool, words: memoryview, sp: int, bp: int, places: list[int] | None) -> tuple[int, ...] | None:
        """`places` gets the words at which the return addresses are; it is emptied where more than these decides."""
        pcs, position, size, steps = [pc], 0, len(words), self._steps
        kept = places if places is not None else []
        for _ in range(_MAX_FRAMES):
            key = (pc, exact)
            step = steps[key] if key in steps else steps.setdefault(key, self._step(pc, exact))
            if step is None:
                kept.clear()
                places = None
                pcs[-1] = OUTSIDE_CODE
                found = self._above(words, position, sp, bp if len(pcs) == 1 else 0) if len(pcs) > 1 or sp else 0
                if not found:
                    return tuple(pcs)
                pc, position, exact = words[found], found + 1, False
                pcs.append(pc)
                continue
            if step.root:
                return self._on_this_way(tuple(pcs), places)
            position += step.words
            if position >= size:
                return tuple(pcs) if step.callback else None
            if step.callback:
                kept.clear()
                places = None
                if self._is_outside(words[position]):
                    return tuple(pcs)  # a thread of C: nothing is above
            if places is not None:
                places.append(position)
            pc = words[position]
            position += 1
            exact = step.interrupted
            pcs.append(pc)
        return None

    def _on_this_way(self, pcs: tuple[int, ...], places: list[int] | None) -> tuple[int, ...]:
        """Remembers where on the stack the return addresses are: a stack with the same ones there is the same."""
        if places is not None and len(places) > 1 and len(places) == len(pcs) - 1:
            ways = self._ways.setdefault(pcs[0], [])
            if len(ways) < _MOST_WAYS:
                ways.append((places[-1], _at(places), pcs[1:], pcs))
        return pcs

    def _is_outside(self, pc: int) -> bool:
        return self._binary.table.function_at(pc - 1 - self._bias) is None

    def _above(self, words: memoryview, position: int, sp: int, bp: int) -> int:
        """Where on a stack the next return address into Go is, above foreign code. That code's own return address is the word before
        `position` (at 0: it is the leaf, with the frame pointer `bp`). 0 if there is none. Found by that code's frame pointer, if it has
        one, which its callee has saved; otherwise it is the first such word."""
        size = len(words)
        if position >= 2 or bp:
            frame = ((words[position - 2] if position >= 2 else bp) - sp) // 8
            for _ in range(_MAX_FOREIGN_FRAMES):
                if not position <= frame < size - 1:
                    break
                if self._returns_to_go(words[frame + 1]):
                    return frame + 1
                position, frame = frame + 2, (words[frame] - sp) // 8
        for index in range(position, min(size, position + _MAX_FOREIGN_WORDS)):
            if self._returns_to_go(words[index]):
                return index
        return 0

    def _returns_to_go(self, pc: int) -> bool:
        """Whether it is an address in a Go function, after a call; or the one to which a goroutine's first function returns."""
        function = self._binary.table.function_at(pc - 1 - self._bias)
        if function is None:
            return False
        if function.name == "runtime.goexit":
            return pc - self._bias == function.entry + 1  # src/runtime/sys_x86.go, proc.go: newproc1
        code = self._binary.image.read_up_to(pc - self._bias - 5, 5)
        if len(code) < 5:
            return False
        return code[0] == 0xE8 or (code[3] == 0xFF and code[4] & 0x38 == 0x10) or (code[2] == 0xFF and code[3] & 0x38 == 0x10)

    def _step(self, pc: int, exact: bool) -> _Step | None:
        lookup = pc - self._bias - (not exact)
        function = self._binary.table.function_at(lookup)
        if function is None:
            return None
        if function.name in ("runtime.goexit", "runtime.mstart", "runtime.rt0_go"):
            return _Step(root=True)
        delta = self._binary.table.stack_delta(lookup)
        if delta is None or delta < 0 or delta % 8:
            return None
        if function.name == "runtime.cgocallback":
            # What it "returns" to marks where the goroutine went into C (runtime/asm_amd64.s: gosave); the caller follows after
            # asmcgocall's frame. The BPF walk leaves the mark out as well.
            delta += 8 + self._asmcgocall_frame
        # Where a signal struck, the "return address" is the interrupted instruction itself (runtime/traceback.go).
        interrupted = function.name in ("runtime.asyncPreempt", "runtime.sigpanic")
        return _Step(delta // 8, callback=function.name == "runtime.cgocallback", interrupted=interrupted)


@dataclass(frozen=True)
class _Step:
    words: int = 0
    root: bool = False
    interrupted: bool = False
    callback: bool = False
