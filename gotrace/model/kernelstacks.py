"""Why a thread sleeps in the kernel, by the functions on its kernel stack. Names are those of Linux 5.10 to 7.3."""

from __future__ import annotations

from collections.abc import Sequence

PAGE_FAULT = "page fault"
MEMORY_LIMIT = "memory limit"
STOPPED = "stopped"
PROBE = "probe"
"""At a breakpoint of a tracer: the kernel searches for the probe under the lock of the process's memory map."""

_SCHEDULE = ("__schedule", "schedule", "bpf_", "__bpf_", "__traceiter_", "__probestub_")
"""The kernel's way off the CPU, and into our programs."""
STOPS = frozenset(("do_signal_stop", "ptrace_stop", "do_jobctl_trap", "do_freezer_trap", "__refrigerator"))
"""kernel/signal.c, kernel/freezer.c: a signal, a debugger, or the freezer of cgroup v2 or v1."""
_LIMITS = frozenset((
    "mem_cgroup_oom_synchronize", "mem_cgroup_handle_over_high", "__mem_cgroup_handle_over_high", "mem_cgroup_out_of_memory",
    "try_to_free_mem_cgroup_pages",
))
"""mm/memcontrol.c, mm/memcontrol-v1.c, mm/vmscan.c: the cgroup has no memory left, or more than it may keep."""
_FAULTS = frozenset((
    "asm_exc_page_fault", "exc_page_fault", "do_user_addr_fault", "handle_mm_fault", "__handle_mm_fault", "handle_userfault",
    "async_page_fault", "page_fault", "do_page_fault", "__do_page_fault", "do_async_page_fault",
))
"""arch/x86/mm/fault.c, mm/memory.c, fs/userfaultfd.c."""
_PROBES = frozenset(("uprobe_notify_resume", "handle_swbp", "find_active_uprobe", "find_active_uprobe_rcu"))
"""kernel/events/uprobes.c."""


def cause(names: Sequence[str]) -> str:
    """Why a thread with these functions on its kernel stack, leaf first, sleeps: `STOPPED`, `MEMORY_LIMIT`, `PAGE_FAULT`, `PROBE`, or "" if
    they do not tell."""
    for reason, functions in ((STOPPED, STOPS), (MEMORY_LIMIT, _LIMITS), (PAGE_FAULT, _FAULTS), (PROBE, _PROBES)):
        if not functions.isdisjoint(names):
            return reason
    # get_signal itself sleeps where the compiler has inlined the traps.
    return STOPPED if next(iter(_asleep_in(names)), "") == "get_signal" else ""


def is_fault(names: Sequence[str]) -> bool:
    """Whether the thread is in a page fault, for whatever cause it sleeps there."""
    return not _FAULTS.isdisjoint(names)


def waits_for_vfork(names: Sequence[str]) -> bool:
    """Whether the thread waits for a child that shares its memory until it calls exec or ends (kernel/fork.c: wait_for_vfork_done, which
    the compiler may inline)."""
    if "wait_for_vfork_done" in names:
        return True
    at = next((index for index, name in enumerate(names) if name in ("kernel_clone", "_do_fork")), 0)
    return at > 0 and names[at - 1].startswith(("wait_for_completion", "__wait_for_common"))


def _asleep_in(names: Sequence[str]) -> list[str]:
    """The stack without the way off the CPU."""
    start = next((index for index, name in enumerate(names) if name and not name.startswith(_SCHEDULE)), len(names))
    return list(names[start:])
