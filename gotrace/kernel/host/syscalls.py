"""Where system calls can be seen on this host."""

from __future__ import annotations

from enum import Enum

from gotrace.common.errors import Refused
from gotrace.kernel.host.features import raw_tracepoints, reads_kernel_memory
from gotrace.kernel.offsets import kernel_offsets


class SyscallSource(str, Enum):
    """Where system calls are seen: by the kernel's tracepoints, by probes on the Go side of them, or nowhere."""

    TRACEPOINTS = "tracepoints"
    UPROBES = "uprobes"
    NONE = "none"


def choose_syscall_source(wanted: str) -> tuple[SyscallSource, dict[str, int], str]:
    """(source, offsets in the kernel's structs, why it is not the best source) for ``auto`` or the value of a SyscallSource.

    Raises:
        Refused: tracepoints were requested and are not available.
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
    try:
        reads_kernel_memory()
    except OSError as error:
        # Files and sockets are read from the kernel's structs: without this, nothing from BTF can be used.
        offsets = {}
        if wanted == SyscallSource.TRACEPOINTS.value:
            raise Refused(f"the kernel refuses {error.strerror}", "gotrace attach --syscalls uprobes") from None
        obstacle = obstacle or f"the kernel refuses {error.strerror}"
    if wanted == SyscallSource.UPROBES.value:
        return SyscallSource.UPROBES, offsets, ""
    try:
        raw_tracepoints()
    except OSError as error:
        if wanted == SyscallSource.TRACEPOINTS.value:
            raise Refused(f"the kernel refuses {error.strerror}", "gotrace attach --syscalls uprobes") from None
        obstacle = obstacle or f"the kernel refuses {error.strerror}"
    return (SyscallSource.UPROBES if obstacle else SyscallSource.TRACEPOINTS), offsets, obstacle
