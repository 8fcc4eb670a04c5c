"""What bpf/*.c is compiled with, and the constants that are written into it once the target is known."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gotrace.common.errors import Refused
from gotrace.common.histogram import BUCKETS, MAX_BITS, SUBBITS, SUBBUCKETS
from gotrace.common.vocabulary import OUTSIDE_CODE, SANITIZER_CODE, StartKind, Stat
from gotrace.gobin.layout import Layout
from gotrace.kernel.structs import MAX_FRAMES, MAX_PAUSES, NO_SYSCALL, SCRATCH_SLOTS
from gotrace.plan.probes import Plan, ProbeSet

MAX_REASONS = 64
_IO_WAIT = 2
"""g.waitreason of "IO wait" in Go 1.19 to 1.27; gotrace.gobin.waitreasons reads no table in which it is another."""
MAX_G_READ = 248
_MAX_G = 4096
"""Bytes of a g; Go 1.27 needs 464."""
MAX_FRAME_SIZES = 1 << 13
"""Return addresses of which the kernel side knows the frame."""
_MAX_PD_READ = 1024
"""Bytes of a pollDesc; Go 1.27 needs 304."""
_MORE_ROWS = 3 << 14
"""Rows of stacks, with wakers and what else is told apart, beyond `Options.max_stacks`: in a map that gets memory for what is in it."""
_MOST_GOROUTINES = 1 << 22
"""Of which any was seen to move, and pairs of those with a stack. An empty map for so many takes the kernel 64 MB, whatever the target
says of itself."""
LOAD_MARK = 0x676F7472
"""The upper half of an immediate that the loader replaces; the lower half is the constant's place in `constant_names`."""
SOURCES = (
    "maps.c", "stack.c", "kernel_stack.c", "record.c", "objects.c", "goroutines.c", "wakers.c", "world.c", "threads.c", "syscalls.c", "exec.c",
)
"""One translation unit, in this order."""
PROGRAMS = (
    "start_park", "start_gosched", "start_yield", "start_preempt_park", "start_exit_syscall", "start_gopark",
    "start_schedule", "mark_ready", "mark_netpoll", "mark_exit", "end_interval", "on_switch", "on_waking", "on_signal", "on_data_ready",
    "on_poll_event", "enter_syscall", "exit_syscall", "stop_world", "start_world", "target_exec",
)
"""The entry points."""
VARIANTS = {
    "end_execute": ("end_interval", {"COROSWITCH": 0}),
    "switch_coroutine": ("end_interval", {"COROSWITCH": 1}),
    "mark_ready": ("mark_ready", {"AT_CREATION": 0}),
    "mark_created": ("mark_ready", {"AT_CREATION": 1}),
}
"""Programs of a plan that are an entry point with constants of their own; all others have its name."""


@dataclass(frozen=True)
class Options:
    """What the kernel side filters and keeps. Durations are ns; 0 switches the option off.

    `kinds` and `reasons` are the start kinds and wait reason numbers to keep, None for all. `stream_ns` streams single
    intervals of at least that length, None streams none. `wakers`: what makes goroutines runnable is told. `governed`:
    `gotrace.watch.probed.ProbedProcess` can leave stages out, sample and pause while it traces.
    """

    min_block_ns: int = 0
    sample_period_ns: int = 0
    only_goid: int = 0
    per_goroutine: bool = False
    kinds: frozenset[StartKind] | None = None
    reasons: frozenset[int] | None = None
    stream_ns: int | None = None
    wakers: bool = True
    governed: bool = False
    max_goroutines: int = 1 << 16
    max_stacks: int = 1 << 14
    max_objects: int = 1 << 13
    ring_bytes: int = 1 << 23


def source_folder() -> Path:
    """The folder with our C: inside an installed package, else beside it in a checkout.

    Raises:
        Refused: the installation is incomplete.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_bpf", package.parent / "bpf"):
        if (folder / SOURCES[0]).is_file():
            return folder
    raise Refused("gotrace's BPF sources are missing from the installation", "pipx install --system-site-packages .")


@cache
def constant_names() -> tuple[str, ...]:
    """The constants of bpf/at_load.h, in its order: their numbers are their places."""
    text = (source_folder() / "at_load.h").read_text()
    return tuple(re.findall(r"^#define (\w+) AT_LOAD\(\1\)", text, re.MULTILINE))


def definitions(swaps: bool) -> dict[str, int]:
    """The -D definitions, by name: the same for every target. `swaps`: the kernel lets programs compare and swap."""
    defined = {
        "SWAPS": int(swaps),
        "LOAD_MARK": LOAD_MARK,
        "MAX_FRAMES": MAX_FRAMES,
        "MAX_PAUSES": MAX_PAUSES,
        "NO_SYSCALL": NO_SYSCALL,
        "OUTSIDE_CODE": OUTSIDE_CODE,
        "SANITIZER_CODE": SANITIZER_CODE,
        "MAX_G_READ": MAX_G_READ,
        "SCRATCH_SLOTS": SCRATCH_SLOTS,
        "BUCKETS": BUCKETS,
        "SUBBITS": SUBBITS,
        "SUBBUCKETS": SUBBUCKETS,
        "MAX_BITS": MAX_BITS,
        "STAT_COUNT": len(Stat),
    }
    defined |= {f"LOAD_{name}": number for number, name in enumerate(constant_names())}
    defined |= {f"STAT_{stat.name}": stat.value for stat in Stat}
    defined |= {f"KIND_{kind.name}": kind.value for kind in StartKind}
    return defined


FD_SYSCALLS = frozenset((
    0, 1, 3, 5, 8, 16, 17, 18, 19, 20, 40, 42, 43, 44, 45, 46, 47, 49, 50, 51, 52, 72, 73, 74, 75, 77, 81, 91, 93, 217, 221,
    232, 233, 257, 275, 277, 280, 281, 285, 286, 287, 288, 292, 295, 296, 299, 306, 307, 326, 327, 328, 426, 437, 441,
))
"""x86-64 system calls whose first argument is a file descriptor (arch/x86/entry/syscalls/syscall_64.tbl)."""


def constants(
    pid: int, plan: Plan, layout: Layout, bias: int, options: Options, kernel: dict[str, int], by_file: bool = False,
    may_grow: bool = False, threads: bool = True,
) -> dict[str, int]:
    """The values of bpf/at_load.h's constants. `pid` is the target's in our own PID namespace; `kernel` are the offsets
    of the kernel's structs, empty without the kernel stage; `by_file`: a kprobe tells when files have events; `may_grow`: maps
    may get their memory on demand; `threads`: what the kernel does with threads is told.

    Raises:
        Refused: a g of this layout is larger than the program can read.
    """
    namespace = os.stat("/proc/self/ns/pid")
    kinds = options.kinds
    reasons = options.reasons
    fields = {
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
    size = max(fields.values()) + 8
    if size > MAX_G_READ:
        raise Refused(f"the layout of runtime.g ({layout.source}) is beyond what gotrace reads: {size} bytes")
    sleep_when = layout.g_sleepWhen or 0
    if plan.sleep_reason is None or sleep_when > _MAX_G:
        sleep_when = 0
    pd_read = 0
    if layout.pd_self is not None and layout.pd_rg is not None and layout.pd_wg is not None:
        pd_read = layout.pd_wg - layout.pd_rg + max(layout.pd_self, layout.pd_fd or 0) + 8
    values = fields | {
        "G_READ": size,
        "G_M": layout.g_m or 0,
        "M_CURG": layout.m_curg or 0,
        "M_WAITLOCK": (layout.m_waitlock or 0) if 0 < pd_read <= _MAX_PD_READ and layout.g_m is not None else 0,
        "M_VDSO_SP": layout.m_vdsoSP or 0,
        "M_VDSO_PC": layout.m_vdsoPC or 0,
        "PD_FD": layout.pd_fd or 0,
        "PD_SELF": layout.pd_self or 0,
        "IO_WAIT": _IO_WAIT,
        "SLEEP": plan.sleep_reason or 0,
        "AT_CREATION": 0,
        "CREATED_IN_AX": int(any(probe.role == "create" and probe.register == "rax" for probe in plan.probes)),
        "SEES_CREATION": int(plan.has("create")),
        "BY_FILE": int(by_file),
        "HAS_STOP_REASON": int(plan.has_stop_reasons),
        "WAKERS": int(options.wakers),
        "PD_RG": layout.pd_rg or 0,
        "PD_WG": layout.pd_wg or 0,
        "PD_READ": min(pd_read, _MAX_PD_READ),
        "TLS_G": plan.thread_local_g or 0,
        "KERNEL_STAGE": int(bool(kernel)),
        "G_COROARG": layout.g_coroarg or 0,
        "G_SLEEPWHEN": sleep_when,
        "TARGET_PID": pid,
        "PID_NAMESPACE_DEV": namespace.st_dev,
        "PID_NAMESPACE_INO": namespace.st_ino,
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
        "MORESTACK": plan.morestack[0] + bias,
        "MORESTACK_NOCTXT": plan.morestack[1] + bias,
        "BY_THREAD": int(plan.probe_set in (ProbeSet.SCHEDULE, ProbeSet.LEAN)),
        "LEAN": int(plan.probe_set is ProbeSet.LEAN),
        "THREADS": int(threads),
        "MIN_BLOCK_NS": options.min_block_ns,
        "SAMPLE_NS": options.sample_period_ns,
        "ONLY_GOID": options.only_goid,
        "PER_GOROUTINE": int(options.per_goroutine),
        "KIND_FILTER": int(kinds is not None or reasons is not None),
        "KIND_MASK": sum(1 << kind for kind in (StartKind if kinds is None else kinds)),
        "REASON_MASK": sum(1 << reason for reason in (range(MAX_REASONS) if reasons is None else reasons)),
        "MORE_ROWS": int(may_grow),
        "GOVERNED": int(options.governed),
        "STREAM": int(options.stream_ns is not None),
        "STREAM_NS": options.stream_ns or 0,
    }
    values |= {name: kernel.get(name, 0) for name in constant_names() if name.startswith("K_")}
    for word in range(7):
        values[f"FD_SYSCALLS_{word}"] = sum(1 << number % 64 for number in FD_SYSCALLS if number // 64 == word)
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


def map_entries(options: Options, may_grow: bool) -> dict[str, int]:
    """How many entries each map gets that is not sized by the C source. `may_grow`: such may get their memory on demand."""
    goroutines = min(options.max_goroutines, _MOST_GOROUTINES)
    return {
        "goroutines": goroutines,
        "intervals": options.max_stacks,
        "more_intervals": _MORE_ROWS if may_grow else 1,
        "more_stacks": _MORE_ROWS if may_grow else 1,
        "stacks": options.max_stacks,
        "frame_sizes": MAX_FRAME_SIZES,
        "threads": 32768,
        "waits": 16384,
        "objects": options.max_objects,
        "watched": options.max_objects,
        "unix_paths": options.max_objects,
        "members": min(4 * max(goroutines, options.max_stacks), _MOST_GOROUTINES),
        "last_g": 32768,
        "events": options.ring_bytes if options.stream_ns is not None else 4096,
    }
