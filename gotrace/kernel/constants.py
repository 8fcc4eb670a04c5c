"""The constants of bpf/at_load.h, which are written into the programs once the target is known."""

from __future__ import annotations

import os

from gotrace.common.errors import Refused
from gotrace.common.vocabulary import StartKind
from gotrace.gobin.layout import Layout
from gotrace.kernel.program import FD_SYSCALLS, LABELS_AS_LIST, MAX_G_READ, Options, constant_names, history_chunks
from gotrace.kernel.rows import label_key_hash
from gotrace.kernel.structs import WANTED_LABELS
from gotrace.kernel.waited import NO_OBJECTS
from gotrace.plan.probes import Plan, ProbeSet

_MAX_REASONS = 64
_IO_WAIT = 2
"""g.waitreason of "IO wait" in Go 1.19 to 1.27; gotrace.gobin.waitreasons rejects a table with a different number."""
_MAX_G = 4096
"""Bytes of a g; Go 1.27 needs 464."""
_MAX_PD_READ = 1024
"""Bytes of a pollDesc; Go 1.27 needs 304."""


def constants(
    pid: int, plan: Plan, layout: Layout, bias: int, options: Options, kernel: dict[str, int], by_file: bool = False,
    may_grow: bool = False, threads: bool = True,
) -> dict[str, int]:
    """The values of bpf/at_load.h's constants. `pid` is the target's in our own PID namespace; `kernel` are the offsets in the kernel's
    structs, empty without the kernel stage; `by_file`: a kprobe reports events of files; `may_grow`: maps may get their memory on
    demand; `threads`: tracepoints report what the kernel does with threads.

    Raises:
        Refused: a g of this layout is larger than the program can read.
    """
    namespace = os.stat("/proc/self/ns/pid")
    values = _of_structs(layout, plan) | _of_code(plan, bias) | _of_options(options) | {
        "IO_WAIT": _IO_WAIT,
        "AT_CREATION": 0,
        "BY_FILE": int(by_file),
        "FOLD_PORTS": int(options.fold_ports),
        "KERNEL_STAGE": int(bool(kernel)),
        "THREADS": int(threads),
        "MORE_ROWS": int(may_grow),
        "TARGET_PID": pid,
        "PID_NAMESPACE_DEV": namespace.st_dev,
        "PID_NAMESPACE_INO": namespace.st_ino,
    }
    values |= NO_OBJECTS if options.objects is None else options.objects.constants(layout, values["G_READ"])
    if not options.labels:
        values["G_LABELS"] = 0
    values |= _of_labels(options)
    values |= {name: kernel.get(name, 0) for name in constant_names() if name.startswith("K_")}
    for word in range(7):
        values[f"FD_SYSCALLS_{word}"] = sum(1 << number % 64 for number in FD_SYSCALLS if number // 64 == word)
    return values


def _of_structs(layout: Layout, plan: Plan) -> dict[str, int]:
    """Where the fields of the runtime's structs are; 0 for those that the layout lacks."""
    read = {
        "G_STACK_LO": layout.g_stack_lo,
        "G_STACK_HI": layout.g_stack_hi,
        "G_SCHED_SP": layout.g_sched_sp,
        "G_SCHED_PC": layout.g_sched_pc,
        "G_SCHED_BP": layout.g_sched_bp,
        "G_GOID": layout.g_goid,
        "G_WAITREASON": layout.g_waitreason,
        "G_ATOMICSTATUS": layout.g_atomicstatus,
        "G_SYSCALLSP": layout.g_syscallsp or 0,
    }
    size = max(read.values()) + 8
    if size > MAX_G_READ:
        raise Refused(f"the layout of runtime.g ({layout.source}) is beyond what gotrace reads: {size} bytes")
    sleep_when = layout.g_sleepWhen or 0
    if plan.sleep_reason is None or sleep_when > _MAX_G:
        sleep_when = 0
    pd_read = 0
    if layout.pd_self is not None and layout.pd_rg is not None and layout.pd_wg is not None:
        pd_read = layout.pd_wg - layout.pd_rg + max(layout.pd_self, layout.pd_fd or 0) + 8
    return read | {
        "G_READ": size,
        "G_M": layout.g_m or 0,
        "G_COROARG": layout.g_coroarg or 0,
        "G_STARTPC": layout.g_startpc or 0,
        "G_LABELS": layout.g_labels or 0,
        "G_SLEEPWHEN": sleep_when,
        "M_CURG": layout.m_curg or 0,
        "M_WAITLOCK": (layout.m_waitlock or 0) if 0 < pd_read <= _MAX_PD_READ and layout.g_m is not None else 0,
        "M_VDSO_SP": layout.m_vdsoSP or 0,
        "M_VDSO_PC": layout.m_vdsoPC or 0,
        "PD_FD": layout.pd_fd or 0,
        "PD_SELF": layout.pd_self or 0,
        "PD_RG": layout.pd_rg or 0,
        "PD_WG": layout.pd_wg or 0,
        "PD_READ": min(pd_read, _MAX_PD_READ),
    }


def _of_code(plan: Plan, bias: int) -> dict[str, int]:
    """What the plan knows of the binary's code."""
    values = {
        "SLEEP": plan.sleep_reason or 0,
        "CREATED_IN_AX": int(any(probe.program == "mark_created" and probe.register == "rax" for probe in plan.probes)),
        "SEES_CREATION": int(any(probe.program == "mark_created" for probe in plan.probes)),
        "HAS_STOP_REASON": int(plan.has_stop_reasons),
        "TLS_G": plan.thread_local_g or 0,
        "CGOCALLBACK_FRAME": plan.callback.frame,
        "ASMCGOCALL_FRAME": plan.callback.asmcgocall_frame,
        "CGOCALL_FRAME": plan.callback.cgocall_frame,
        "ASSIST_FRAME": plan.assist_frame,
        "SWITCHED_AT": plan.frameless_switch + bias if plan.frameless_switch else 0,
        "SANITIZER": int(plan.sanitizer_frame is not None),
        "SANITIZER_FRAME": plan.sanitizer_frame or 0,
        "EXECUTE_LENGTH": plan.execute.site.length,
        "EXECUTE_AT": plan.execute.site.address + bias,
        "MCALL": plan.mcall + bias,
        "MORESTACK": _moved(plan.morestack[0], bias),
        "MORESTACK_NOCTXT": _moved(plan.morestack[1], bias),
        "BY_THREAD": int(plan.probe_set in (ProbeSet.SCHEDULE, ProbeSet.LEAN)),
        "LEAN": int(plan.probe_set is ProbeSet.LEAN),
        "FROM_READY": int(plan.probe_set is ProbeSet.READY),
    }
    for name, where in (
        ("GOPARK", plan.gopark),
        ("ASYNC", plan.async_preempt),
        ("TEXT", plan.text),
        ("CGOCALLBACK", plan.callback.cgocallback),
        ("ASSIST", plan.assist),
    ):
        shift = bias if where.high else 0
        values[f"{name}_LO"], values[f"{name}_HI"] = where.low + shift, where.high + shift
    return values


def _of_options(options: Options) -> dict[str, int]:
    kinds, reasons = options.kinds, options.reasons
    return {
        "WAKERS": int(options.wakers),
        "MIN_BLOCK_NS": options.min_block_ns,
        "SAMPLE_NS": options.sample_period_ns,
        "ONLY_GOID": options.only_goid,
        "PER_GOROUTINE": int(options.per_goroutine),
        "KIND_FILTER": int(kinds is not None or reasons is not None),
        "KIND_MASK": sum(1 << kind for kind in (StartKind if kinds is None else kinds)),
        "REASON_MASK": sum(1 << reason for reason in (range(_MAX_REASONS) if reasons is None else reasons)),
        "GOVERNED": int(options.governed),
        "STREAM": int(options.stream_ns is not None),
        "STREAM_NS": options.stream_ns or 0,
        "SPANS": options.spans,
        "FOLLOWED": int(bool(options.spans) or options.objects is not None),
        "LABELS_LIST": int(options.labels == LABELS_AS_LIST),
        "HISTORY_CHUNKS": history_chunks(options.processes),
    }


def _of_labels(options: Options) -> dict[str, int]:
    keys = options.label_keys if options.labels else ()
    values = {
        "SPAN_HAS_LABELS": int(options.request_labels),
        "WANTED": len(keys),
        "WANTED_LENGTHS": sum(1 << bit for bit in {len(key) % 64 for key in keys}),
    }
    return values | {f"WANTED_{index}": label_key_hash(keys[index]) if index < len(keys) else 0 for index in range(WANTED_LABELS)}


def _moved(address: int, bias: int) -> int:
    """The address in the process, 0 if it is not known."""
    return address + bias if address else 0
