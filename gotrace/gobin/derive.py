"""What the machine code tells of the runtime's layout and globals: the check on every table, and the last resort.

Each fact is read from a function whose shape has been the same from Go 1.19 to 1.27 (src/runtime/asm_amd64.s: mcall, gogo; proc.go:
casgstatus, gopark, allgadd). A fact that is not found exactly once is None: unknown, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from gotrace.gobin.image import Image
from gotrace.gobin.pclntab import Pclntab
from gotrace.gobin.x86 import disassembler, instructions

if TYPE_CHECKING:
    from capstone import CsInsn


_SMALLEST_TLS = 4096


@dataclass(frozen=True)
class CodeFacts:
    """Offsets in runtime.g and runtime.m as the code uses them; None if the code does not tell."""

    g_sched_sp: int | None
    g_sched_pc: int | None
    g_sched_g: int | None
    g_sched_bp: int | None
    g_atomicstatus: int | None
    g_goid: int | None
    g_waitreason: int | None
    g_coroarg: int | None = None
    m_waitlock: int | None = None
    g_m: int | None = None
    g_trackingSeq: int | None = None
    g_labels: int | None = None
    m_g0: int | None = None
    m_curg: int | None = None
    m_procid: int | None = None
    pd_self: int | None = None


def derive(image: Image, table: Pclntab) -> CodeFacts:
    """Reads mcall, gogo, casgstatus, gopark and others of `image`."""
    sched = _sched(image, table)
    status = _atomicstatus(image, table)
    return CodeFacts(
        g_sched_sp=sched.sp,
        g_sched_pc=sched.pc,
        g_sched_g=sched.g,
        g_sched_bp=sched.bp,
        g_atomicstatus=status,
        # atomicstatus is followed by stackLock and goid (runtime2.go: g) in every version.
        g_goid=status + 8 if status is not None else None,
        g_waitreason=_waitreason(image, table, status),
        g_coroarg=_coroarg(image, table),
        m_waitlock=_waitlock(image, table),
        g_trackingSeq=_tracking_seq(image, table),
        g_labels=_only_store(image, table, "runtime/pprof.runtime_setProfLabel"),
        m_procid=_only_store(image, table, "runtime.minit"),
        pd_self=_self_pointer(image, table),
        **_systemstack_loads(image, table),
    )


def find_allgs(image: Image, table: Pclntab) -> int | None:
    """Address of runtime.allgs (a slice of *g): the one writable triple {ptr, len, cap} to which allgadd appends."""
    found = set()
    for function in table.functions_named("runtime.allgadd"):
        targets = {target for insn in instructions(image, function) for target in rip_targets(insn)}
        writable = {t for t in targets if t % 8 == 0 and (s := image.segment_at(t)) is not None and s.writable}
        found |= {t for t in writable if t + 8 in writable and t + 16 in writable}
    return found.pop() if len(found) == 1 else None


def find_thread_local_g(image: Image, table: Pclntab) -> int | None:
    """Offset of the thread-local g from the FS base: the first access through FS in runtime.systemstack.

    Either ``mov %fs:off, %rax`` or ``mov $off, %rcx; mov %fs:(%rcx), %rax`` (position independent code).
    """
    from capstone.x86 import X86_OP_IMM, X86_OP_MEM, X86_OP_REG, X86_REG_FS

    for function in table.functions_named("runtime.systemstack"):
        constants: dict[int, int] = {}
        for insn in instructions(image, function, 128):
            if insn.mnemonic != "mov" or len(insn.operands) != 2:
                continue
            to, source = insn.operands
            if source.type == X86_OP_MEM and source.mem.segment == X86_REG_FS:
                offset = source.mem.disp + (constants.get(source.mem.base, 0) if source.mem.base else 0)
                offset = (offset + (1 << 31)) % (1 << 32) - (1 << 31)
                # It is in the executable's own thread-local block, however large C code made that.
                return offset if -max(image.tls_size, _SMALLEST_TLS) <= offset < 0 else None
            if to.type == X86_OP_REG and source.type == X86_OP_IMM:
                constants[to.reg] = source.imm
    return None


class _Sched(NamedTuple):
    """Where g.sched has its parts, from the g's beginning."""

    sp: int | None = None
    pc: int | None = None
    g: int | None = None
    bp: int | None = None


def _sched(image: Image, table: Pclntab) -> _Sched:
    """mcall stores sched.pc, sched.sp, sched.bp; gogo loads the same from the gobuf: they must fit one base."""
    stores, loads = _mcall_stores(image, table), _gogo_loads(image, table)
    if stores is None or loads is None:
        return _Sched()
    (pc, sp, bp), (gogo_sp, gogo_pc, gogo_bp) = stores, loads
    if not sp - gogo_sp == pc - gogo_pc == bp - gogo_bp:
        return _Sched()
    # gobuf is {sp, pc, g, ...} in every version (runtime2.go).
    return _Sched(sp, pc, sp - gogo_sp + 16, bp)


def _mcall_stores(image: Image, table: Pclntab) -> tuple[int, int, int] | None:
    from capstone.x86 import X86_OP_MEM, X86_REG_R14

    for function in table.functions_named("runtime.mcall"):
        stores = [
            insn.operands[0].mem.disp
            for insn in instructions(image, function, 96)
            if insn.mnemonic == "mov"
            and insn.operands[0].type == X86_OP_MEM
            and insn.operands[0].mem.base == X86_REG_R14
            and insn.operands[0].size == 8
        ]
        if len(stores) >= 3:
            return stores[0], stores[1], stores[2]
    return None


def _systemstack_loads(image: Image, table: Pclntab) -> dict[str, int]:
    """systemstack loads g.m, compares g with m.gsignal, loads m.g0, compares g with that and with m.curg, in this order."""
    from capstone.x86 import X86_OP_MEM, X86_OP_REG, X86_REG_FS

    for function in table.functions_named("runtime.systemstack"):
        g = m = 0
        loads: list[int] = []
        compared: list[int] = []
        for insn in instructions(image, function, 128):
            if insn.mnemonic == "call":
                break
            if len(insn.operands) != 2 or insn.operands[1].type != X86_OP_MEM or insn.operands[0].type != X86_OP_REG:
                continue
            register, place = insn.operands[0].reg, insn.operands[1].mem
            if insn.mnemonic == "mov" and place.segment == X86_REG_FS:
                g = register
            elif insn.mnemonic == "mov" and g and place.base == (m or g) and place.index == 0:
                loads.append(place.disp)
                m = m or register
            elif insn.mnemonic == "cmp" and register == g and m and place.base == m:
                compared.append(place.disp)
        if len(loads) == len(compared) == 2:
            return {"g_m": loads[0], "m_g0": loads[1], "m_curg": compared[1]}
    return {}


def _only_store(image: Image, table: Pclntab, name: str) -> int | None:
    """The offset of the one field into which that function stores a 64-bit register."""
    from capstone.x86 import X86_OP_MEM, X86_OP_REG, X86_REG_R11, X86_REG_RDI, X86_REG_RSP

    found = {
        insn.operands[0].mem.disp
        for function in table.functions_named(name)
        for insn in instructions(image, function, 512)
        if insn.mnemonic == "mov"
        and insn.operands[0].type == X86_OP_MEM
        and insn.operands[0].size == 8
        and insn.operands[0].mem.base not in (0, X86_REG_RSP, X86_REG_R11, X86_REG_RDI, _rip_register())
        and insn.operands[1].type == X86_OP_REG
    }
    return found.pop() if len(found) == 1 else None


def _self_pointer(image: Image, table: Pclntab) -> int | None:
    """poll_runtime_pollOpen stores the pollDesc's own address in its field self, and nowhere else: ``mov %rax, self(%rax)``."""
    from capstone.x86 import X86_OP_MEM, X86_OP_REG

    found = {
        insn.operands[0].mem.disp
        for function in table.functions_named("internal/poll.runtime_pollOpen")
        for insn in instructions(image, function)
        if insn.mnemonic == "mov"
        and insn.operands[0].type == X86_OP_MEM
        and insn.operands[1].type == X86_OP_REG
        and insn.operands[0].mem.base == insn.operands[1].reg
        and insn.operands[0].mem.index == 0
        and insn.operands[0].size == 8
    }
    return found.pop() if len(found) == 1 else None


def _tracking_seq(image: Image, table: Pclntab) -> int | None:
    """casgstatus adds one to the byte g.trackingSeq: it is loaded, incremented and stored in three instructions."""
    from capstone.x86 import X86_OP_MEM, X86_OP_REG

    found = set()
    for function in table.functions_named("runtime.casgstatus"):
        insns = [insn for insn in instructions(image, function) if insn.mnemonic != "nop"]
        for load, more, store in zip(insns, insns[1:], insns[2:], strict=False):
            if (load.mnemonic, more.mnemonic, store.mnemonic) != ("movzx", "inc", "mov") or load.operands[1].type != X86_OP_MEM:
                continue
            to, source = store.operands
            if to.type == X86_OP_MEM and to.size == 1 and source.type == X86_OP_REG and to.mem.disp == load.operands[1].mem.disp:
                found.add(to.mem.disp)
    return found.pop() if len(found) == 1 else None


def _gogo_loads(image: Image, table: Pclntab) -> tuple[int, int, int] | None:
    """Offsets of sp, pc, bp within gobuf: gogo<> loads them from (%rbx), pc last, into rbx, before it jumps."""
    loads: dict[str, int] = {}
    for function in table.functions_named("runtime.gogo"):
        jump = next((i for i in instructions(image, function, 32) if i.mnemonic == "jmp"), None)
        if jump is None or not jump.op_str.startswith("0x"):
            continue
        target = int(jump.op_str, 16)
        for insn in disassembler().disasm(image.read_up_to(target, 128), target):
            if insn.mnemonic == "jmp":
                break
            register, _, source = insn.op_str.partition(", ")
            if insn.mnemonic == "mov" and source.startswith("qword ptr [rbx") and register in ("rsp", "rbp", "rbx"):
                loads.setdefault(register, insn.operands[1].mem.disp)
    return (loads["rsp"], loads["rbx"], loads["rbp"]) if len(loads) == 3 else None


def _atomicstatus(image: Image, table: Pclntab) -> int | None:
    from capstone.x86 import X86_OP_MEM, X86_REG_RIP

    found = {
        insn.operands[0].mem.disp
        for function in table.functions_named("runtime.casgstatus")
        for insn in instructions(image, function)
        if "cmpxchg" in insn.mnemonic
        and insn.operands[0].type == X86_OP_MEM
        and insn.operands[0].mem.base != X86_REG_RIP
    }
    return found.pop() if len(found) == 1 else None


def _waitreason(image: Image, table: Pclntab, status: int | None) -> int | None:
    """gopark stores its reason argument with the only byte store of a register into the g near atomicstatus + 32."""
    from capstone.x86 import X86_OP_MEM, X86_OP_REG, X86_REG_RSP

    if status is None:
        return None
    found = {
        insn.operands[0].mem.disp
        for function in table.functions_named("runtime.gopark")
        for insn in instructions(image, function)
        if insn.mnemonic == "mov"
        and insn.operands[0].type == X86_OP_MEM
        and insn.operands[0].size == 1
        and insn.operands[0].mem.base != X86_REG_RSP
        and insn.operands[1].type == X86_OP_REG
        and status < insn.operands[0].mem.disp <= status + 64
    }
    return found.pop() if len(found) == 1 else None


def _coroarg(image: Image, table: Pclntab) -> int | None:
    """coroswitch_m clears gp.coroarg, with its only store of a 64-bit zero into the g that is its argument (RAX)."""
    from capstone.x86 import X86_OP_IMM, X86_OP_MEM, X86_REG_RAX

    found = {
        insn.operands[0].mem.disp
        for function in table.functions_named("runtime.coroswitch_m")
        for insn in instructions(image, function, 160)
        if insn.mnemonic == "mov"
        and insn.operands[0].type == X86_OP_MEM
        and insn.operands[0].mem.base == X86_REG_RAX
        and insn.operands[0].size == 8
        and insn.operands[1].type == X86_OP_IMM
        and insn.operands[1].imm == 0
    }
    return found.pop() if len(found) == 1 else None


def _waitlock(image: Image, table: Pclntab) -> int | None:
    """gopark stores its second argument (RBX) in m.waitlock and its first (RAX) in m.waitunlockf, right before it, both through the same
    register."""
    from capstone.x86 import X86_OP_MEM, X86_OP_REG, X86_REG_RAX, X86_REG_RBX, X86_REG_RSP

    stores: dict[int, set[tuple[int, int]]] = {X86_REG_RAX: set(), X86_REG_RBX: set()}
    for function in table.functions_named("runtime.gopark"):
        for insn in instructions(image, function):
            if insn.mnemonic != "mov" or insn.operands[0].type != X86_OP_MEM or insn.operands[1].type != X86_OP_REG:
                continue
            to, source = insn.operands
            if to.mem.base != X86_REG_RSP and to.size == 8 and source.reg in stores and to.mem.disp > 256:
                stores[source.reg].add((to.mem.base, to.mem.disp))
    found = {disp for base, disp in stores[X86_REG_RBX] if (base, disp - 8) in stores[X86_REG_RAX]}
    return found.pop() if len(found) == 1 else None


@cache
def _rip_register() -> int:
    from capstone.x86 import X86_REG_RIP

    register: int = X86_REG_RIP
    return register


def rip_targets(insn: CsInsn) -> list[int]:
    """The addresses that the instruction refers to relative to itself."""
    from capstone.x86 import X86_OP_MEM

    return [
        insn.address + insn.size + operand.mem.disp
        for operand in insn.operands
        if operand.type == X86_OP_MEM and operand.mem.base == _rip_register()
    ]
