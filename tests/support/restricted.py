"""Runs `gotrace` with less than root has: as another user with a few capabilities, under a seccomp filter, in namespaces,
with low limits. Only what the kernel itself refuses is refused: nothing of gotrace is replaced."""

from __future__ import annotations

import ctypes as ct
import errno
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

NOBODY = 65534
NEEDED = "+bpf,+perfmon,+sys_ptrace"
SYS_BPF, SYS_PERF_EVENT_OPEN, SYS_PROCESS_VM_READV = 321, 298, 310
BPF_LINKS = (SYS_BPF, 28)
"""bpf(BPF_LINK_CREATE): without it, probes are perf events."""
CHECKOUT = Path(__file__).resolve().parents[2]
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_SECCOMP_RET_ERRNO, _SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000


def command(*arguments: object) -> list[str]:
    """The command line of gotrace; its code is found from every folder."""
    return [sys.executable, "-m", "gotrace", *map(str, arguments)]


def run(
    arguments: Iterable[object], before: Iterable[object] = (), prepare: Callable[[], None] | None = None,
    environment: dict[str, str] | None = None, timeout: float = 120, **options: object,
) -> subprocess.CompletedProcess[str]:
    """Runs it to its end, behind the command `before`, in a process that `prepare` has readied."""
    return subprocess.run(
        [*map(str, before), *command(*arguments)], capture_output=True, text=True, timeout=timeout, preexec_fn=prepare,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"} | (environment or {}), **options,
    )


def as_user(capabilities: str = NEEDED, uid: int = NOBODY) -> list[str]:
    """What to put before a command to run it as `uid` with just these capabilities, as setcap or systemd would."""
    user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return user + ([f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}"] if capabilities else [])


def forbid(*calls: int | tuple[int, int], error: int = errno.EPERM) -> Callable[[], None]:
    """Has the kernel refuse these system calls from now on, as a container's seccomp profile does: all, or those with a first
    argument. Filters that are put on one after the other add up."""
    # struct sock_filter, for each call: load the number; equal? load the first argument; equal? refuse. At the end: allow.
    program = []
    for call in calls:
        number, first = call if isinstance(call, tuple) else (call, None)
        if first is None:
            program += [(0x20, 0, 0, 0), (0x15, 0, 1, number)]
        else:
            program += [(0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 16), (0x15, 0, 1, first)]
        program.append((0x06, 0, 0, _SECCOMP_RET_ERRNO | error))
    program.append((0x06, 0, 0, _SECCOMP_RET_ALLOW))
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
    libc = ct.CDLL(None, use_errno=True)

    def install() -> None:
        buffer = ct.create_string_buffer(code, len(code))
        header = ct.create_string_buffer(struct.pack("<H6xQ", len(program), ct.addressof(buffer)), 16)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0):
            os._exit(97)

    return install


def limit(what: int, value: int) -> Callable[[], None]:
    """Lowers a limit of setrlimit(2)."""
    return lambda: resource.setrlimit(what, (value, value))
