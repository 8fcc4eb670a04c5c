"""Our privileges, which ones would be enough, and how to give a process just these."""

from __future__ import annotations

import ctypes as ct
import errno
import os
import shlex
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from gotrace.kernel.host.check import Check
from gotrace.kernel.perf_event import uprobe_errno
from gotrace.kernel.uprobes import link_obstacle

_SYS_CAPSET, _CAPABILITY_VERSION_3 = 126, 0x20080522
_NUMBERS = {"CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
NEEDED = ("CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE")


def capabilities() -> Check:
    """Whether we have what attach needs. CAP_SYS_ADMIN implies the first two (capabilities(7))."""
    effective = _effective()
    admin = effective >> _NUMBERS["CAP_SYS_ADMIN"] & 1
    missing = [name for name in NEEDED if not (effective >> _NUMBERS[name] & 1 or admin and name != "CAP_SYS_PTRACE")]
    who = f"uid {os.geteuid()}"
    if missing:
        return Check(
            "privileges", True, False, f"{who} lacks {', '.join(missing)}", "sudo gotrace ..., or see below what is enough without root"
        )
    return Check("privileges", True, True, f"{who} has {', '.join(NEEDED[:-1])} and {NEEDED[-1]}")


def _effective() -> int:
    return int(_status("CapEff") or "0", 16)


def _status(field: str) -> str:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field + ":")), "")


def seccomp_hint(call: str) -> str:
    """What to do about a filter of system calls, "" if this process has none."""
    if _status("Seccomp") != "2":
        return ""
    return (
        f"a seccomp filter is on this process: let {call} through it; "
        "Docker's own does with --cap-add BPF --cap-add PERFMON --cap-add SYS_PTRACE, else --security-opt seccomp=FILE"
    )


def seccomp() -> Check:
    """Whether this process has a filter. The checks of each feature find what it forbids."""
    filtered = _status("Seccomp") == "2"
    return Check("seccomp", False, True, "a filter is on this process: what it forbids is listed above" if filtered else "no filter")


def _sufficient() -> tuple[str, ...] | None:
    """The capabilities that suffice to place uprobes on this kernel, tried in a child process that has given up all others; None if our
    own do not suffice to try."""
    return next((names for names in (NEEDED, (*NEEDED, "CAP_SYS_ADMIN")) if _works_with(names)), None)


def _works_with(names: tuple[str, ...]) -> bool:
    child = os.fork()
    if child == 0:
        try:
            link_obstacle.cache_clear()
            possible = _restrict(names) and (uprobe_errno() not in (errno.EACCES, errno.EPERM) or link_obstacle() == "")
            os._exit(0 if possible else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


def _restrict(names: tuple[str, ...]) -> bool:
    mask = sum(1 << _NUMBERS[name] for name in names)
    header = ct.create_string_buffer(struct.pack("<Ii", _CAPABILITY_VERSION_3, 0), 8)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = ct.create_string_buffer(struct.pack("<6I", low, low, 0, high, high, 0), 24)
    result: int = ct.CDLL(None).syscall(_SYS_CAPSET, header, data)
    return result == 0


@dataclass(frozen=True)
class WithoutRoot:
    """How to run gotrace with `capabilities` and nothing else; `recipes` are commands or settings, by tool. `tried`: they are known to be
    enough here; otherwise CAP_SYS_ADMIN may be needed too."""

    capabilities: tuple[str, ...]
    tried: bool
    more: str
    recipes: dict[str, str]


def without_root() -> WithoutRoot:
    """What is enough on this kernel, and how to give a process just that."""
    found = _sufficient()
    names = found or NEEDED
    short = [name.removeprefix("CAP_") for name in names]
    plus = ",".join("+" + name.lower() for name in short)
    own = shlex.quote(os.path.join(os.path.dirname(sys.executable), "python-for-gotrace"))
    return WithoutRoot(
        names,
        found is not None,
        "CAP_DAC_READ_SEARCH adds the open files of other users' processes and the calls that they were blocked in before, "
        "CAP_SYSLOG the names of kernel functions, CAP_SYS_NICE samples that are in time, CAP_SYS_ADMIN the time that the programs"
        " themselves take",
        {
            "setpriv": (
                f"sudo setpriv --reuid=$(id -u) --regid=$(id -g) --init-groups --inh-caps={plus} --ambient-caps={plus} "
                "gotrace attach PID"
            ),
            "setcap": (
                f"cp {shlex.quote(os.path.realpath(sys.executable))} {own} && chmod 750 {own}"
                f" && sudo setcap {','.join(n.lower() for n in names)}=ep {own} && {own} -m gotrace attach PID"
            ),
            "docker": " ".join(f"--cap-add={name}" for name in short) + " --pid=host (or --pid=container:NAME)",
            "kubernetes": f"hostPID: true; securityContext: {{capabilities: {{add: [{', '.join(short)}]}}}}",
            "systemd": f"AmbientCapabilities={' '.join(names)}",
        },
    )
