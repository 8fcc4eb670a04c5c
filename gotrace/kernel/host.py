"""What this host offers: every capability that gotrace needs or can use, found by trying it, with the way to get it."""

from __future__ import annotations

import ctypes as ct
import errno
import importlib.util
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from time import monotonic

from gotrace.errors import GotraceError, Refused
from gotrace.kernel.bpf import EXIT_0, ProgramType, attach_raw_tracepoint, load_program
from gotrace.kernel.offsets import kernel_offsets
from gotrace.kernel.perf_event import UPROBE_TYPE

CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 19, 21, 38, 39
BTF = Path("/sys/kernel/btf/vmlinux")


@dataclass(frozen=True)
class Check:
    """One finding. `needed`: attach can't work without it. `fix` is empty where nothing needs mending."""

    name: str
    needed: bool
    ok: bool
    why: str
    fix: str = ""


def preflight() -> None:
    """The checks that cost nothing; raises Refused with all findings at once if attach could not work."""
    failed = [check for check in _cheap_checks() if check.needed and not check.ok]
    if failed:
        raise Refused(
            "this host can't be used for tracing: " + "; ".join(f"{check.name}: {check.why}" for check in failed),
            failed[0].fix if len(failed) == 1 else "gotrace doctor lists what to do about each",
        )


def examine() -> list[Check]:
    """All checks, also those that load and run small BPF programs (about a second)."""
    checks = _cheap_checks()
    usable = all(check.ok for check in checks if check.needed)
    return checks + (_costly_checks() if usable else []) + _optional_checks()


class SyscallSource(str, Enum):
    """Where system calls are seen: by the kernel's tracepoints, by probes on the Go side of them, or nowhere."""

    TRACEPOINTS = "tracepoints"
    UPROBES = "uprobes"
    NONE = "none"


def choose_syscall_source(wanted: str) -> tuple[SyscallSource, dict[str, int], str]:
    """(source, offsets of the kernel's structs, why it is not the best one) for ``auto`` or the value of a SyscallSource.

    Raises:
        Refused: tracepoints were asked for and can't be had.
    """
    if wanted == SyscallSource.NONE.value:
        return SyscallSource.NONE, {}, ""
    offsets: dict[str, int] = {}
    obstacle = ""
    try:
        offsets = kernel_offsets()
    except Refused as error:
        if wanted == SyscallSource.TRACEPOINTS.value:
            raise
        obstacle = str(error)
    if wanted == SyscallSource.UPROBES.value:
        return SyscallSource.UPROBES, offsets, ""
    try:
        _raw_tracepoints()
    except OSError as error:
        if wanted == SyscallSource.TRACEPOINTS.value:
            raise Refused(f"the kernel refuses {error.strerror}", "gotrace attach --syscalls uprobes") from None
        obstacle = obstacle or f"the kernel refuses {error.strerror}"
    return (SyscallSource.UPROBES if obstacle else SyscallSource.TRACEPOINTS), offsets, obstacle


def _raw_tracepoints() -> str:
    program = load_program(ProgramType.RAW_TRACEPOINT, EXIT_0, "empty")
    try:
        os.close(attach_raw_tracepoint("sched_switch", program))
    finally:
        os.close(program)
    return "sched_switch can be attached to"


def _cheap_checks() -> list[Check]:
    return [_system(), _privileges(), _uprobes(), _bcc()]


def _system() -> Check:
    machine = f"{platform.system()} {platform.release()} on {platform.machine()}"
    ok = platform.system() == "Linux" and platform.machine() == "x86_64"
    return Check("linux/amd64", True, ok, machine, "" if ok else "run gotrace on an x86-64 Linux host")


def _privileges() -> Check:
    effective = 0
    for line in Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").exists() else []:
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    admin = effective >> CAP_SYS_ADMIN & 1
    missing = [
        name for name, number in (("CAP_BPF", CAP_BPF), ("CAP_PERFMON", CAP_PERFMON)) if not (effective >> number & 1 or admin)
    ] + ([] if effective >> CAP_SYS_PTRACE & 1 else ["CAP_SYS_PTRACE"])
    who = f"uid {os.geteuid()}"
    if missing:
        return Check("privileges", True, False, f"{who} lacks {', '.join(missing)}", "sudo gotrace ...")
    return Check("privileges", True, True, f"{who} has CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE")


def _uprobes() -> Check:
    if UPROBE_TYPE.exists():
        return Check("uprobes", True, True, f"perf event type {UPROBE_TYPE.read_text().strip()}")
    return Check("uprobes", True, False, f"{UPROBE_TYPE} does not exist", "a kernel with CONFIG_UPROBE_EVENTS, and /sys mounted")


def _bcc() -> Check:
    # Only found, not imported: that takes a tenth of a second, and the compiler's process does it anyway.
    if importlib.util.find_spec("bcc") is not None:
        return Check("bcc", True, True, "Python's bcc module is installed")
    return Check(
        "bcc", True, False, f"Python's bcc module is not installed for {sys.executable}",
        "sudo apt-get install python3-bpfcc, and a Python that sees the system's packages (./scripts/install)",
    )


def _costly_checks() -> list[Check]:
    return [
        _tried("BPF programs", True, _compiles, "see the log that the message names"),
        _tried("raw tracepoints", False, _raw_tracepoints, "CAP_PERFMON; without them gotrace sees system calls by uprobes"),
        _tried("uprobe self-test", True, _self_test, "a kernel with CONFIG_BPF_EVENTS; in a container: --privileged"),
        _tried("memory of processes", True, _reads_memory, "CAP_SYS_PTRACE; in a container: --cap-add SYS_PTRACE"),
    ]


def _tried(name: str, needed: bool, attempt: Callable[[], str], fix: str) -> Check:
    try:
        return Check(name, needed, True, attempt())
    except (GotraceError, OSError) as error:
        return Check(name, needed, False, str(error), getattr(error, "hint", None) or fix)


def _compiles() -> str:
    from gotrace.kernel.compilation import Compilation
    from gotrace.kernel.loader import load
    from gotrace.kernel.program import Options, constant_names, map_entries

    start = monotonic()
    compilation = Compilation()
    try:
        compiled = compilation.result()
    finally:
        compilation.close()
    # Loaded, not attached: any constants will do for the verifier.
    programs = dict.fromkeys(("start_park", "end_execute", "switch_coroutine"), ProgramType.KPROBE)
    programs["target_exec"] = ProgramType.RAW_TRACEPOINT
    options = Options(max_goroutines=64, max_stacks=64)
    loaded = load(compiled, programs, dict.fromkeys(constant_names(), 64), map_entries(options))
    try:
        os.close(attach_raw_tracepoint("sched_process_exec", loaded.programs["target_exec"]))
    finally:
        loaded.close()
    return f"compiled by bcc {compiled.bcc_version} without kernel headers and verified in {monotonic() - start:.1f} s"


def _self_test() -> str:
    from gotrace.kernel.calibrate import measure_trap_ns

    return f"one hit costs {measure_trap_ns()} ns here"


def _reads_memory() -> str:
    from gotrace.proc.memory import Memory

    value = ct.c_uint64(0x676F7472616365)
    if Memory(os.getpid()).u64(ct.addressof(value)) != value.value:
        raise OSError(errno.EPERM, "process_vm_readv does not work")
    return "process_vm_readv works"


def _optional_checks() -> list[Check]:
    lockdown = Path("/sys/kernel/security/lockdown")
    locked = lockdown.read_text().split("[")[-1].split("]")[0] if lockdown.exists() else "none"
    tracefs = any(Path(path, "events").is_dir() for path in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"))
    kprobes = Path("/sys/bus/event_source/devices/kprobe/type").exists()
    return [
        Check("BTF", False, BTF.exists(), str(BTF) if BTF.exists() else f"no {BTF}",
              "" if BTF.exists() else "a kernel with CONFIG_DEBUG_INFO_BTF; without it: gotrace attach --no-kernel"),
        Check("kprobes", False, kprobes, "perf event type kprobe" if kprobes else "this kernel has none: not needed for goroutine stacks"),
        Check("tracefs", False, tracefs, "mounted" if tracefs else "not mounted: gotrace never needs it"),
        Check("lockdown", False, locked != "confidentiality", f"mode {locked}",
              "" if locked != "confidentiality" else "boot without lockdown=confidentiality: it forbids reading memory from BPF"),
    ]
