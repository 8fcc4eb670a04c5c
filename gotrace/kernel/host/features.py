"""What the kernel lets us do with BPF and probes: each is tried, on our own code and memory alone, and undone."""

from __future__ import annotations

import contextlib
import ctypes as ct
import errno
import os
from functools import cache

from gotrace.common.errors import Refused
from gotrace.kernel.bpf import (
    EXIT_0,
    AttachType,
    BpfError,
    MapType,
    ProgramType,
    attach_fentry,
    attach_kprobe_link,
    attach_raw_tracepoint,
    create_map,
    load_program,
    possible_cpus,
)
from gotrace.kernel.btf import VMLINUX, Btf
from gotrace.kernel.host.check import Check, tried
from gotrace.kernel.host.privileges import seccomp_hint
from gotrace.kernel.perf_event import KPROBE_TYPE, UPROBE_TYPE, open_kprobe, uprobe_errno
from gotrace.kernel.stats import close as close_stats
from gotrace.kernel.stats import enable_stats
from gotrace.kernel.uprobes import by_link, link_obstacle
from gotrace.proc.memory import Memory

_TESTED = "ep_poll_callback"
"""The kernel's function on which gotrace would place a kprobe."""
_HARMLESS = "bpf_fentry_test1"
"""A function of the kernel that exists to be traced and is never called (net/bpf/test_run.c)."""
# r1 = r10 - 8; r2 = 8; r3 = 0; call bpf_probe_read_kernel; r0 = 0; exit
_READ_KERNEL = bytes.fromhex(
    "bfa1000000000000 07010000f8ffffff b702000008000000 b703000000000000 8500000071000000 b700000000000000 9500000000000000"
)
# *(u64 *)(r10 - 8) = 0; r0 = 0; r1 = 1; r0 = cmpxchg(r10 - 8, r0, r1); r0 = 0; exit
_ATOMICS = bytes.fromhex(
    "7a0af8ff00000000 b700000000000000 b701000001000000 db1af8fff1000000 b700000000000000 9500000000000000"
)
# call bpf_loop, without arguments; exit: never accepted, but the verifier's message tells whether it knows the helper.
_BPF_LOOP = bytes.fromhex("85000000b5000000 9500000000000000")
_UNKNOWN = ("invalid func", "unknown func", "cannot use helper")


@cache
def maps_may_grow() -> bool:
    """Whether programs of tracers may put elements into maps that get their memory on demand. From Linux 6.1 on the kernel has an
    allocator for that which works in any context (kernel/bpf/memalloc.c). Must not be tried: some earlier kernels accept such a map
    and may hang."""
    with contextlib.suppress(Refused), Btf() as btf:
        return btf.offset("bpf_mem_alloc", "cache") is not None
    return False


@cache
def swaps() -> bool:
    """Whether programs may compare and swap: BPF atomics, Linux 5.12."""
    try:
        return bool(_atomics())
    except BpfError:
        return False


def required() -> list[Check]:
    """What every trace needs."""
    return [
        tried("BPF", True, _bpf, seccomp_hint("bpf") or "a kernel of 5.8 or later with CONFIG_BPF_SYSCALL; in a container: --cap-add BPF"),
        tried("ring buffer", True, _ring_buffer, seccomp_hint("bpf") or "a kernel of 5.8 or later, or more memory for this cgroup"),
        tried("/sys", True, _sees_cpus, "mount -t sysfs sysfs /sys; in a container: -v /sys:/sys:ro"),
        _uprobes(),
        tried("memory of processes", True, _reads_memory,
              seccomp_hint("process_vm_readv") or "CAP_SYS_PTRACE; in a container: --cap-add SYS_PTRACE"),
    ]


def optional() -> list[Check]:
    """What makes a trace see more, or cost less, where it is available."""
    return [
        tried("raw tracepoints", False, raw_tracepoints, "CAP_PERFMON, and a kernel with CONFIG_BPF_EVENTS",
              "system calls are seen by uprobes instead, CPU waits not at all"),
        tried("BPF atomics", False, _atomics, "a kernel of 5.12 or later",
              "where two CPUs end the longest wait of a stack at once, it may be shown up to a sixteenth shorter"),
        tried("kernel memory from BPF", False, reads_kernel_memory,
              "boot without lockdown=confidentiality", "system calls are seen by uprobes instead, files and sockets are not told"),
        _btf(),
        tried("kprobes", False, _kprobes, "a kernel with CONFIG_KPROBE_EVENTS" if not KPROBE_TYPE.exists() else "CAP_PERFMON",
              "when data came is told by the tracepoint sk_data_ready, for sockets only"),
        tried("kprobe_multi", False, _kprobe_multi, "", "gotrace does without"),
        tried("fentry", False, _fentry, "", "gotrace does without"),
        tried("bpf_loop", False, _bpf_loop, "", "gotrace's loops are bounded and do without"),
        _uprobe_links(),
        _uprobe_refcounts(),
        tried("BPF statistics", False, _statistics, "CAP_SYS_ADMIN, or sysctl kernel.bpf_stats_enabled=1",
              "the overhead estimate leaves out the programs' own time"),
    ]


def _bpf() -> str:
    os.close(load_program(ProgramType.KPROBE, EXIT_0, "empty"))
    return "programs load"


def _atomics() -> str:
    os.close(load_program(ProgramType.KPROBE, _ATOMICS, "atomics"))
    return "programs may compare and swap"


def _ring_buffer() -> str:
    # A perf buffer would add only Linux 5.7: older kernels do not give programs the pid in a namespace (bpf/exec.c).
    os.close(create_map(MapType.RINGBUF, 0, 0, 4096, "ring"))
    return "a map of that kind can be made"


def _sees_cpus() -> str:
    return f"per-CPU maps have {possible_cpus()} slots"


def _uprobes() -> Check:
    number = uprobe_errno()
    refused = f"the kernel refuses perf_event_open ({errno.errorcode[number]})" if number in (errno.EACCES, errno.EPERM) else ""
    if by_link():
        return Check("uprobes", True, True, f"{refused} but takes BPF links" if refused else "BPF links")
    if not UPROBE_TYPE.exists():
        return Check("uprobes", True, False, f"{UPROBE_TYPE} does not exist", "a kernel with CONFIG_UPROBE_EVENTS, and /sys mounted")
    if not refused:
        return Check("uprobes", True, True, f"perf event type {UPROBE_TYPE.read_text().strip()}")
    return Check(
        "uprobes", True, False, f"{refused}, and links: {link_obstacle()}",
        seccomp_hint("perf_event_open") or "CAP_SYS_ADMIN (in a container: --cap-add SYS_ADMIN), or sysctl kernel.perf_event_paranoid=2",
    )


def _uprobe_links() -> Check:
    obstacle = link_obstacle()
    if not obstacle:
        return Check("uprobe links", False, True, "a link sees all threads of a process")
    return Check("uprobe links", False, False, f"{obstacle}: gotrace uses perf events")


def _reads_memory() -> str:
    value = ct.c_uint64(0x676F7472616365)
    try:
        found = Memory(os.getpid()).u64(ct.addressof(value))
    except OSError as error:
        raise OSError(error.errno, f"process_vm_readv: {error.strerror}") from None
    if found != value.value:
        raise OSError(errno.ENOSYS, "process_vm_readv does not work")
    return "process_vm_readv works"


def raw_tracepoints() -> str:
    """Attaches an empty program to a raw tracepoint and removes it; raises BpfError."""
    program = load_program(ProgramType.RAW_TRACEPOINT, EXIT_0, "empty")
    try:
        os.close(attach_raw_tracepoint("sched_switch", program))
    finally:
        os.close(program)
    return "sched_switch can be attached to"


def reads_kernel_memory() -> str:
    """Has a program verified that reads the kernel's memory; raises BpfError. Lockdown mode "confidentiality" forbids it."""
    try:
        os.close(load_program(ProgramType.RAW_TRACEPOINT, _READ_KERNEL, "read_kernel"))
    except BpfError as error:
        raise BpfError(error.errno, "bpf_probe_read_kernel", error.log) from None
    return "the verifier takes bpf_probe_read_kernel"


def _btf() -> Check:
    def read() -> str:
        with Btf() as btf:
            if btf.offset("task_struct", "pid") is None:
                raise OSError(errno.EINVAL, f"{VMLINUX} does not describe task_struct")
        return str(VMLINUX)

    return tried("BTF", False, read, "a kernel with CONFIG_DEBUG_INFO_BTF; without it: gotrace attach --no-kernel")


def _kprobes() -> str:
    if not KPROBE_TYPE.exists():
        raise OSError(errno.ENODEV, "this kernel has none")
    program = load_program(ProgramType.KPROBE, EXIT_0, "empty")
    try:
        os.close(open_kprobe(_TESTED, program))
    finally:
        os.close(program)
    return f"{_TESTED} can be probed"


def _kprobe_multi() -> str:
    program = load_program(ProgramType.KPROBE, EXIT_0, "empty", AttachType.TRACE_KPROBE_MULTI)
    try:
        os.close(attach_kprobe_link(_HARMLESS, program))
    finally:
        os.close(program)
    return "works; gotrace has no use for it"


def _fentry() -> str:
    with Btf() as btf:
        function = btf.function(_HARMLESS)
    if function is None:
        raise OSError(errno.ENOENT, f"{VMLINUX} does not describe {_HARMLESS}")
    program = load_program(ProgramType.TRACING, EXIT_0, "empty", AttachType.TRACE_FENTRY, function)
    try:
        os.close(attach_fentry(program))
    finally:
        os.close(program)
    return "works; gotrace has no use for it"


def _bpf_loop() -> str:
    try:
        os.close(load_program(ProgramType.KPROBE, _BPF_LOOP, "loop"))
    except BpfError as error:
        if not error.log or any(words in error.log for words in _UNKNOWN):
            raise BpfError(error.errno, "helper bpf_loop") from None
    return "the verifier knows it; gotrace has no use for it"


def _uprobe_refcounts() -> Check:
    # The kernel's documentation of the interface: Documentation/ABI/testing/sysfs-bus-event_source-devices-uprobe.
    there = UPROBE_TYPE.with_name("format").joinpath("ref_ctr_offset").exists()
    return Check("uprobe refcounts", False, there, ("there" if there else "this kernel has none") + ": Go has no probes that need it")


def _statistics() -> str:
    fd = enable_stats()
    if fd is None:
        raise OSError(errno.EPERM, "the kernel does not time BPF programs for us")
    close_stats(fd)
    return "the kernel times BPF programs"
