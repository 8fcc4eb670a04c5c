"""The addresses of what parked goroutines wait for, without what these things are: `gotrace.live.objects` reads that, too."""

from __future__ import annotations

from gotrace.gobin.binary import GoBinary
from gotrace.live.channels import sudogs_with_channels
from gotrace.live.conds import Conds
from gotrace.live.goroutines import Goroutine
from gotrace.live.pages import Pages
from gotrace.live.semaphores import waiters
from gotrace.proc.memory import Memory

_STACK = 1024
"""Bytes of the stack that are searched for a Cond."""


def parked_on(memory: Memory, binary: GoBinary, bias: int, kinds: dict[str, list[Goroutine]]) -> dict[int, tuple[int, ...]]:
    """By the address of its g, the addresses of what each goroutine waits for, as of now: one, or those of a select's channels in the
    runtime's order. `kinds` are goroutines that wait for a ``chan``, a ``select``, a ``semaphore``, a ``cond``. Those for which it is not
    known are left out.

    Raises:
        ProcessLookupError, PermissionError: the memory can't be read.
    """
    pages, layout = Pages(memory), binary.wait_layout
    found: dict[int, tuple[int, ...]] = {}
    gs = [one.address for kind in ("chan", "select") for one in kinds.get(kind, ())]
    if gs and layout.knows_channels and layout.g_waiting is not None:
        raws = memory.read_many([(g + layout.g_waiting, 8) for g in gs])
        waiting = {g: int.from_bytes(raw, "little") for g, raw in zip(gs, raws, strict=True) if raw is not None}
        lists = sudogs_with_channels(pages, layout, waiting)[0]
        found |= {g: tuple(channel for _, channel in sudogs) for g, sudogs in lists.items()}
    if kinds.get("semaphore") and binary.semtable is not None:
        at = waiters(memory, pages, binary.semtable + bias, layout)
        found |= {one.address: (at[one.address],) for one in kinds["semaphore"] if one.address in at}
    conds, at_conds = Conds(pages), kinds.get("cond", [])
    raws = memory.read_many([(one.sp, min(_STACK, max(8, one.stack_hi - one.sp))) for one in at_conds])
    for one, raw in zip(at_conds, raws, strict=True):
        cond = conds.of(one.address, raw) if raw is not None else None
        if cond is not None:
            found[one.address] = (cond.address,)
    return found
