"""Link-time addresses of the scheduler's global variables, by symbol, else by the code that uses them.

Names of variables are only in ELF symbols; names of functions are in every Go binary. A variable is what several functions that are known
to use it refer to (src/runtime/proc.go, mgc.go, Go 1.19 to 1.27). What is not found without doubt is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from gotrace.gobin.derive import rip_targets
from gotrace.gobin.functions import Function
from gotrace.gobin.schedlayout import SchedLayout
from gotrace.gobin.x86 import instructions

if TYPE_CHECKING:
    from capstone import CsInsn

    from gotrace.gobin.binary import GoBinary

_LOCKING = ("goschedImpl", "stopm", "injectglist", "stoplockedm", "exitsyscall0", "exitsyscallNoP", "handoffp", "startm")
"""Each takes sched.lock."""
_WITH_ALLP = (
    "retake", "stopTheWorldWithSema", "forEachP", "forEachPInternal", "schedtrace", "procresize", "findRunnable", "checkdead", "stealWork",
    "startTheWorldWithSema",
)
_LOCKS = ("lock2", "lock", "lockWithRank")
_LARGEST_SCHED = 8192
_LONG = 1 << 15
_PAUSES = 8 + 2 * 256 * 8
"""memstats.numgc follows pause_total_ns and two arrays of 256 numbers (runtime/mstats.go)."""
_STORE_WITHIN = 12
_MARK, _MARK_TERMINATION = 1, 2


@dataclass(frozen=True)
class CollectorPlaces:
    """Link-time addresses of what tells of the garbage collector: gcphase, memstats.numgc and memstats.pause_total_ns."""

    phase: int | None
    numgc: int | None
    pause_total_ns: int | None


class Globals:
    """The variables of one binary; `layout` has the fields' offsets within them."""

    def __init__(self, binary: GoBinary, layout: SchedLayout) -> None:
        self._binary = binary
        self._layout = layout

    @cached_property
    def sched(self) -> int | None:
        """runtime.sched: the argument that many functions give to lock2, less the offset of its field `lock`."""
        known = self._binary.symbols.address("runtime.sched")
        if known is not None or self._layout.schedt_lock is None:
            return known
        votes: Counter[int] = Counter()
        for name in _LOCKING:
            votes.update(self._locked(name))
        lock = _clear_winner(votes)
        return lock - self._layout.schedt_lock if lock is not None else None

    @cached_property
    def allp(self) -> int | None:
        """runtime.allp, a slice of *p: the pair {pointer, length} that most of the functions which go through all Ps refer to."""
        known = self._binary.symbols.address("runtime.allp")
        if known is not None:
            return known
        votes: Counter[int] = Counter()
        sched = self.sched or 0
        for name in _WITH_ALLP:
            there = self._writable(name)
            votes.update(at for at in there if at % 8 == 0 and at + 8 in there and not sched <= at < sched + _LARGEST_SCHED)
        votes.pop(self._binary.allgs, None)
        return _clear_winner(votes)

    @cached_property
    def allm(self) -> int | None:
        """runtime.allm: what mcommoninit stores in the new m's field alllink, and mexit and schedtrace refer to."""
        known = self._binary.symbols.address("runtime.allm")
        return known if known is not None else self._list_of_ms[0]

    @property
    def alllink(self) -> int | None:
        """Where runtime.m has its field alllink, by the code; None if the code does not tell."""
        return self._list_of_ms[1]

    @cached_property
    def collector(self) -> CollectorPlaces:
        """What tells of the garbage collector."""
        symbols, layout = self._binary.symbols, self._layout
        phase, stats = symbols.address("runtime.gcphase"), symbols.address("runtime.memstats")
        numgc, pauses = self._pause_statistics()
        if stats is not None and layout.stats_numgc is not None and layout.stats_pause_total_ns is not None:
            numgc, pauses = stats + layout.stats_numgc, stats + layout.stats_pause_total_ns
        return CollectorPlaces(phase if phase is not None else self._phase(), numgc, pauses)

    @cached_property
    def _list_of_ms(self) -> tuple[int | None, int | None]:
        from capstone.x86 import X86_OP_MEM, X86_OP_REG

        others = self._writable("mexit") | self._writable("schedtrace")
        found = set()
        for function in self._functions("mcommoninit"):
            insns = instructions(self._binary.image, function, _LONG)
            for index, insn in enumerate(insns):
                targets = rip_targets(insn)
                if insn.mnemonic != "mov" or not targets or targets[0] not in others or insn.operands[0].type != X86_OP_REG:
                    continue
                loaded = insn.operands[0].reg
                for later in insns[index + 1 : index + 1 + _STORE_WITHIN]:
                    if later.mnemonic != "mov" or len(later.operands) != 2:
                        continue
                    to, source = later.operands
                    if to.type == X86_OP_MEM and source.type == X86_OP_REG and source.reg == loaded and to.size == 8 and to.mem.disp > 128:
                        found.add((targets[0], to.mem.disp))
        return found.pop() if len(found) == 1 else (None, None)

    def _phase(self) -> int | None:
        """gcphase is compared with _GCmark in gcMarkDone, and with _GCmarktermination in gcMark."""
        both = self._compared("gcMarkDone", _MARK) & self._compared("gcMark", _MARK_TERMINATION)
        return both.pop() if len(both) == 1 else None

    def _compared(self, name: str, value: int) -> set[int]:
        from capstone.x86 import X86_OP_IMM

        return {
            target
            for function in self._functions(name)
            for insn in instructions(self._binary.image, function, _LONG)
            if insn.mnemonic == "cmp" and insn.operands[0].size == 4 and insn.operands[1].type == X86_OP_IMM
            and insn.operands[1].imm == value
            for target in rip_targets(insn)
        }

    def _pause_statistics(self) -> tuple[int | None, int | None]:
        """(numgc, pause_total_ns): gcMarkTermination increments the one and adds to the other."""
        counted: set[int] = set()
        added: set[int] = set()
        for function in self._functions("gcMarkTermination"):
            for insn in instructions(self._binary.image, function, _LONG):
                if insn.mnemonic == "inc" and insn.operands[0].size == 4:
                    counted.update(rip_targets(insn))
                elif insn.mnemonic == "add" and insn.operands[0].size == 8:
                    added.update(rip_targets(insn))
        found = {at for at in counted if at - _PAUSES in added}
        return (at := found.pop(), at - _PAUSES) if len(found) == 1 else (None, None)

    def _locked(self, name: str) -> set[int]:
        """The addresses that a function hands to the runtime's lock: the last one loaded into RAX before such a call."""
        locks = {function.entry for each in _LOCKS for function in self._functions(each)}
        found, last = set(), 0
        for function in self._functions(name):
            for insn in instructions(self._binary.image, function):
                if insn.mnemonic == "lea" and insn.op_str.startswith("rax") and (targets := rip_targets(insn)):
                    last = targets[0]
                elif insn.mnemonic == "call" and _target(insn) in locks and last:
                    found.add(last)
                    last = 0
        return found

    def _writable(self, name: str) -> set[int]:
        found = (target for function in self._functions(name) for insn in instructions(self._binary.image, function, _LONG)
                 for target in rip_targets(insn))
        return {at for at in found if (segment := self._binary.image.segment_at(at)) is not None and segment.writable}

    def _functions(self, name: str) -> Iterable[Function]:
        return self._binary.table.functions_named(f"runtime.{name}")


def _clear_winner(votes: Counter[int]) -> int | None:
    """The one with at least three votes and more than any other."""
    best = votes.most_common(2)
    if not best or best[0][1] < 3 or len(best) > 1 and best[1][1] == best[0][1]:
        return None
    return best[0][0]


def _target(insn: CsInsn) -> int:
    return int(insn.op_str, 16) if insn.op_str.startswith("0x") else 0
