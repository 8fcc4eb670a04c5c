"""Which descriptors goroutines wait for in the netpoller, read from the process: for waits whose start no probe saw."""

from __future__ import annotations

from typing import NamedTuple

from gotrace.gobin.layout import Layout
from gotrace.gobin.waitlayout import WaitLayout
from gotrace.proc.epoll import watched_descriptors
from gotrace.proc.memory import Memory

_PACKINGS = ((19, 3), (24, 9))
"""Bits of the tag, and how many low bits of the address are always 0: up to Go 1.24, and from Go 1.25 on (runtime/tagptr_64bit.go:
tagBits, tagAlignBits)."""

_LIMIT = 1 << 47
"""Where a process's addresses end."""


class Polled(NamedTuple):
    """A goroutine's wait in the netpoller: the descriptor, the address of its pollDesc, whether it waits to write, and the deadline as a
    moment of CLOCK_MONOTONIC: None if there is none or it is not known, -1 if it has passed."""

    fd: int
    address: int
    writes: bool
    deadline_ns: int | None


def waiting_for(pid: int, memory: Memory, layout: Layout) -> dict[int, int]:
    """Descriptors by g address, of the goroutines that are parked in a pollDesc now.

    Raises:
        ProcessLookupError: the process is gone.
    """
    return {g: wait.fd for g, wait in polled(pid, memory, layout).items()}


def polled(pid: int, memory: Memory, layout: Layout, more: WaitLayout | None = None) -> dict[int, Polled]:
    """The waits by g address; deadlines only with the layout `more`. Raises as `waiting_for`."""
    at_fd, at_rg, at_wg, at_self = layout.pd_fd, layout.pd_rg, layout.pd_wg, layout.pd_self
    if at_fd is None or at_rg is None or at_wg is None or at_self is None:
        return {}
    try:
        watched = watched_descriptors(pid)
    except FileNotFoundError:
        raise ProcessLookupError(f"process {pid} is gone") from None
    # The runtime gives epoll_ctl the address of its pollDesc, packed with a sequence number from Go 1.21 on
    # (runtime/netpoll_epoll.go: netpollopen). A true pollDesc among the candidates confirms itself.
    candidates = [(fd, pointer) for fd, data in watched for pointer in {data, *_unpacked(data)} if 0 < pointer < _LIMIT]
    at_rd, at_wd = (more.pd_rd, more.pd_wd) if more is not None else (None, None)
    size = max(at_fd, at_rg, at_wg, at_self, at_rd or 0, at_wd or 0) + 8
    found: dict[int, Polled] = {}
    raws = memory.read_many([(pointer, size) for _, pointer in candidates])
    for (fd, pointer), raw in zip(candidates, raws, strict=True):
        if raw is None or _word(raw, at_self) != pointer or _word(raw, at_fd) != fd:
            continue
        for offset, deadline in ((at_rg, at_rd), (at_wg, at_wd)):
            g = _word(raw, offset)
            if g > 2:  # runtime/netpoll.go: pdNil, pdReady, pdWait
                found[g] = Polled(fd, pointer, offset == at_wg, _deadline(raw, deadline))
    return found


def _deadline(raw: bytes, offset: int | None) -> int | None:
    """pollDesc.rd and wd are 0 for none and negative once they have passed (runtime/netpoll.go: poll_runtime_pollSetDeadline)."""
    value = int.from_bytes(raw[offset : offset + 8], "little", signed=True) if offset is not None else 0
    return None if not value else max(value, -1)


def _unpacked(data: int) -> list[int]:
    signed = data - (1 << 64) if data >> 63 else data
    return [(signed >> tag << aligned) & ((1 << 64) - 1) for tag, aligned in _PACKINGS]


def _word(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 8], "little")
