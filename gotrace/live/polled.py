"""Which descriptors goroutines wait for in the netpoller, read from the process: for waits whose start no probe saw."""

from __future__ import annotations

from gotrace.gobin.layout import Layout
from gotrace.proc.epoll import watched_descriptors
from gotrace.proc.memory import Memory

_PACKINGS = ((19, 3), (24, 9))
"""Bits of the tag, and how many low bits of the address are always 0: up to Go 1.24, and from Go 1.25 on (runtime/tagptr_64bit.go:
tagBits, tagAlignBits)."""


def waiting_for(pid: int, memory: Memory, layout: Layout) -> dict[int, int]:
    """Descriptors by g address, of the goroutines that are parked in a pollDesc now.

    Raises:
        ProcessLookupError: the process is gone.
    """
    at_fd, at_rg, at_wg, at_self = layout.pd_fd, layout.pd_rg, layout.pd_wg, layout.pd_self
    if at_fd is None or at_rg is None or at_wg is None or at_self is None:
        return {}
    try:
        watched = watched_descriptors(pid)
    except FileNotFoundError:
        raise ProcessLookupError(f"process {pid} is gone") from None
    # The runtime gives epoll_ctl the address of its pollDesc, packed with a sequence number from Go 1.21 on
    # (runtime/netpoll_epoll.go: netpollopen). A true pollDesc among the candidates confirms itself.
    candidates = [(fd, pointer) for fd, data in watched for pointer in {data, *_unpacked(data)} if pointer]
    size = max(at_fd, at_rg, at_wg, at_self) + 8
    found: dict[int, int] = {}
    raws = memory.read_many([(pointer, size) for _, pointer in candidates])
    for (fd, pointer), raw in zip(candidates, raws, strict=True):
        if raw is None or _word(raw, at_self) != pointer or _word(raw, at_fd) != fd:
            continue
        for offset in (at_rg, at_wg):
            g = _word(raw, offset)
            if g > 2:  # runtime/netpoll.go: pdNil, pdReady, pdWait
                found[g] = fd
    return found


def _unpacked(data: int) -> list[int]:
    signed = data - (1 << 64) if data >> 63 else data
    return [(signed >> tag << aligned) & ((1 << 64) - 1) for tag, aligned in _PACKINGS]


def _word(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 8], "little")
