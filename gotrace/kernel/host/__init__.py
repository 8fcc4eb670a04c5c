"""What this host offers: every capability that gotrace needs or can use, found by trying it, and how to get it. All differences
between kernels, containers and privileges are handled here and nowhere else."""

from __future__ import annotations

from gotrace.common.errors import Refused
from gotrace.kernel.host import features, privileges, settings, toolchain
from gotrace.kernel.host.check import Check
from gotrace.kernel.host.privileges import WithoutRoot, without_root
from gotrace.kernel.host.syscalls import SyscallSource, choose_syscall_source

__all__ = ["Check", "SyscallSource", "WithoutRoot", "choose_syscall_source", "examine", "preflight", "without_root"]


def preflight() -> None:
    """Makes the checks that cost almost nothing; raises Refused with all findings at once if attach could not work."""
    failed = [check for check in _required() if not check.ok]
    if failed:
        raise Refused(
            "this host can't be used for tracing: " + "; ".join(f"{check.name}: {check.why}" for check in failed),
            failed[0].fix if len(failed) == 1 else "gotrace doctor lists what to do about each",
        )


def examine() -> list[Check]:
    """Makes all checks, including those that compile, load and run small BPF programs (some seconds). Nothing stays attached.

    If a requirement is missing, checks that depend on it are not made: they would fail for that reason, and report another.
    """
    required = _required()
    usable = all(check.ok for check in required)
    return required + (toolchain.costly() + features.optional() if usable else []) + settings.optional(usable)


def _required() -> list[Check]:
    """What attach can't do without."""
    checks = [settings.system(), privileges.capabilities(), settings.proc(), settings.clock(), toolchain.bcc_installed()]
    # Without the capabilities everything else is refused too: the cause is reported, not its consequences.
    return checks + (features.required() if all(check.ok for check in checks[:2]) else [])
