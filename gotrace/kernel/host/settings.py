"""What the system's administrator, its container or its boot options decide, as shown in /proc and /sys."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path

from gotrace.kernel.bpf import BpfError, MapType, create_map
from gotrace.kernel.host import privileges
from gotrace.kernel.host.check import Check
from gotrace.kernel.host.features import reads_kernel_memory
from gotrace.kernel.kallsyms import KALLSYMS
from gotrace.proc.priority import SamplePriority

_LOCKDOWN = Path("/sys/kernel/security/lockdown")
_TRACEFS = (Path("/sys/kernel/tracing/events"), Path("/sys/kernel/debug/tracing/events"))
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h


def system() -> Check:
    """Whether gotrace supports this machine at all."""
    machine = f"{platform.system()} {platform.release()} on {platform.machine()}"
    ok = platform.system() == "Linux" and platform.machine() == "x86_64"
    return Check("linux/amd64", True, ok, machine, "" if ok else "run gotrace on an x86-64 Linux host")


def proc() -> Check:
    """Whether /proc numbers the processes as the kernel does for us."""
    try:
        ourselves = os.readlink("/proc/self")
    except OSError as error:
        return Check("/proc", True, False, f"/proc/self: {error.strerror}", "mount -t proc proc /proc")
    if ourselves != str(os.getpid()):
        return Check(
            "/proc", True, False, f"it belongs to another PID namespace: we are {os.getpid()} and {ourselves} there",
            "mount -t proc proc /proc (unshare --mount-proc), or nsenter --pid into the namespace that /proc shows",
        )
    return Check("/proc", True, True, "shows this PID namespace")


def clock() -> Check:
    """Whether our CLOCK_MONOTONIC is the one that BPF programs read: we are in no time namespace (time_namespaces(7))."""
    try:
        lines = [line.split() for line in Path("/proc/self/timens_offsets").read_text().splitlines()]
    except OSError:
        lines = []  # a kernel without time namespaces
    if any(fields[0] == "monotonic" and fields[1:] != ["0", "0"] for fields in lines):
        return Check("clock", True, False, "our clock is that of a time namespace, BPF programs read the host's",
                     "sudo nsenter --time=/proc/1/ns/time gotrace ...")
    return Check("clock", True, True, "ours is the one that BPF programs read")


def optional(usable: bool) -> list[Check]:
    """Settings that decide how much a trace shows, or that may be suspected to cause trouble. `usable`: BPF works."""
    return [
        privileges.seccomp(), _pid_namespace(), _hidepid(), *((_locked_memory(), _lockdown()) if usable else ()),
        _unprivileged_bpf(), _paranoia(), _kernel_symbols(), _tracefs(), _kcore(), _priority(),
    ]


def _pid_namespace() -> Check:
    inode = os.stat("/proc/self/ns/pid").st_ino if os.path.exists("/proc/self/ns/pid") else 0
    if inode == _INITIAL_PID_NAMESPACE:
        return Check("PID namespace", False, True, "the first: every process of the host can be traced")
    return Check(
        "PID namespace", False, True, "not the first: processes inside it can be traced, those outside not",
        "for the host's processes: docker run --pid=host",
    )


def _hidepid() -> Check:
    try:
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    except OSError:
        mounts = []
    # Of several mounts at one place the last one is seen; its own options are the last field.
    options = next((fields[-1] for fields in reversed(mounts) if fields[4] == "/proc"), "")
    setting = next((word for word in options.split(",") if word.startswith("hidepid=")), "")
    visible = os.path.exists("/proc/1/stat")
    if visible:
        return Check("hidepid", False, True, f"{setting or 'not set'}: processes of others are visible")
    return Check("hidepid", False, False, f"{setting or 'process 1 is not visible'}: processes of others are hidden",
                 "CAP_SYS_PTRACE, or sudo mount -o remount,hidepid=0 /proc")


def _locked_memory() -> Check:
    """Kernels before 5.11 count maps as locked memory; newer ones count them in the cgroup."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    shown = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard >> 10} kB"
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, hard))
        try:
            os.close(create_map(MapType.ARRAY, 4, 1 << 12, 1 << 8, "locked"))
        finally:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
    except BpfError as error:
        if hard == resource.RLIM_INFINITY:
            return Check("memlock limit", False, True, f"{shown}; this kernel counts maps as locked memory")
        return Check(
            "memlock limit", False, False, f"{shown}, and this kernel counts maps as locked memory ({error.strerror})",
            "ulimit -l unlimited; systemd: LimitMEMLOCK=infinity; docker: --ulimit memlock=-1",
        )
    except (OSError, ValueError) as error:
        return Check("memlock limit", False, True, f"{shown}; not tried: {error}")
    return Check("memlock limit", False, True, f"{shown}; this kernel does not count maps as locked memory")


def _lockdown() -> Check:
    try:
        mode = "mode " + _LOCKDOWN.read_text().split("[")[-1].split("]")[0]
    except OSError:
        mode = "mode not shown (securityfs is not mounted)"
    try:
        reads_kernel_memory()
    except BpfError:
        return Check("lockdown", False, "confidentiality" not in mode, f"{mode}; BPF may not read the kernel's memory",
                     "boot without lockdown=confidentiality" if "confidentiality" in mode else "")
    return Check("lockdown", False, True, f"{mode}; BPF may read the kernel's memory")


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", name.replace(".", "/")).read_text().strip()
    except OSError:
        return "not there"


def _unprivileged_bpf() -> Check:
    return Check("unprivileged BPF", False, True,
                 f"kernel.unprivileged_bpf_disabled={_sysctl('kernel.unprivileged_bpf_disabled')}: of no matter to those with CAP_BPF")


def _paranoia() -> Check:
    level = _sysctl("kernel.perf_event_paranoid")
    return Check(
        "perf paranoia", False, True, f"kernel.perf_event_paranoid={level}: whether it is in the way, the check of uprobes tried"
    )


def _priority() -> Check:
    if SamplePriority().allowed():
        return Check("real-time priority", False, True, "samples of --mode sample get a CPU at once")
    return Check(
        "real-time priority", False, False,
        "refused: where all CPUs are busy, samples of --mode sample come late and find too few goroutines running",
        "CAP_SYS_NICE; in a container: --cap-add SYS_NICE",
    )


def _kernel_symbols() -> Check:
    setting = f"kernel.kptr_restrict={_sysctl('kernel.kptr_restrict')}"
    try:
        with KALLSYMS.open("rb") as file:
            shown = any(int(line[:16], 16) for _, line in zip(range(1000), file, strict=False))
    except (OSError, ValueError) as error:
        return Check("kernel symbols", False, False, f"{KALLSYMS} can't be read ({error}): kernel frames have no names",
                     "a kernel with CONFIG_KALLSYMS")
    if shown:
        return Check("kernel symbols", False, True, f"{KALLSYMS} shows addresses ({setting})")
    return Check("kernel symbols", False, False, f"{KALLSYMS} hides addresses ({setting}): kernel frames have no names",
                 "CAP_SYSLOG, and sysctl kernel.kptr_restrict=1 or less")


def _tracefs() -> Check:
    there = any(path.is_dir() for path in _TRACEFS)
    return Check("tracefs", False, there, "mounted; gotrace never needs it" if there else "not mounted: gotrace never needs it")


def _kcore() -> Check:
    there = os.access("/proc/kcore", os.R_OK)
    return Check("/proc/kcore", False, there, ("readable" if there else "not readable") + "; gotrace never needs it")
