"""What the labels of an exported stack say beyond its state and reason: system call, peer, waker."""

from __future__ import annotations

from gotrace.common.vocabulary import FrameKind
from gotrace.model.kernelstacks import PAGE_FAULT, STOPPED
from gotrace.model.stacks import IN_KERNEL, VFORK
from gotrace.profile.types import StackStat
from gotrace.render.frames import waker_of

NETPOLL_BOUNDARY = "netpoll"
"""The boundary of a wait for the netpoller: not a system call."""
NO_CALLS = frozenset((NETPOLL_BOUNDARY, PAGE_FAULT, STOPPED, IN_KERNEL))
"""All boundaries that are not system calls."""


def split_boundary(name: str) -> tuple[str, str]:
    """The two parts of a boundary frame's name, call and object: ``("read", "fd 7 → pipe")``, ``("clone(vfork)", "")``."""
    if name.endswith(VFORK):
        return name, ""
    call, bracket, rest = name.partition("(")
    return (call, rest.removesuffix(")")) if bracket else (name, "")


def boundary_labels(stack: StackStat) -> tuple[str, str]:
    """The system call and the peer that a stack waits for, each "" if there is none.

    The peer of a connection is its remote end without our own port, ``tcp 127.0.0.1:6379``; for another descriptor it is the file. The
    descriptor's number is left out: it changes from run to run.
    """
    boundary = next((frame for frame in stack.frames if frame.kind is FrameKind.SYSCALL), None)
    if boundary is None:
        return "", ""
    call, thing = split_boundary(boundary.name)
    what = thing.partition(" → ")[2]
    protocol, _, ends = what.partition(" ")
    if protocol in ("tcp", "udp", "ip") and "→" in ends:
        what = f"{protocol} {ends.rpartition('→')[2]}"
    return "" if call in NO_CALLS else call.removesuffix(VFORK), what


def waker_label(stack: StackStat) -> str:
    """The function that made the goroutines runnable, "" if it is not known."""
    waker = waker_of(stack.frames)
    return waker[-1].name if waker else ""
