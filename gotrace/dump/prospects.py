"""What the goroutines of a dump will do to locks and channels once they go on, and which of them do not move."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, cast

from gotrace.dump.pools import waits_in_pool
from gotrace.dump.types import GoroutineState, Operation, Prospects
from gotrace.live.ahead import Ahead
from gotrace.live.goroutines import Goroutine
from gotrace.live.pages import Pages
from gotrace.live.scan import Snapshot
from gotrace.model.kernelstacks import STOPS
from gotrace.proc.cgroups import groups_of, quota_of
from gotrace.proc.process import read_short
from gotrace.proc.stopped import stopped
from gotrace.watch.inprogress.blocked import thread_numbers
from gotrace.watch.target import OpenTarget

_BUDGET_S = 0.6
_MOST = 4096
_FEW = 16
_STILL_S = 0.2
_LOCKS = frozenset(("mutex", "rwmutex", "waitgroup", "cond", "chan", "select"))


class Found(NamedTuple):
    """A goroutine of the dump: the address of its g, what was read of it, and its record."""

    address: int
    snapshot: Snapshot
    state: GoroutineState


def prospects(target: OpenTarget, found: Sequence[Found]) -> Prospects:
    """Follows the code of some goroutines of each place first, of those that wait for locks and channels before others, for less than a
    second; of none if nothing is suspicious.

    Raises:
        ProcessLookupError, PermissionError: the memory can't be read.
    """
    pid = target.process.pid
    at = target.binary.gomaxprocs
    raw = target.memory.read(at + target.bias, 4) if at is not None else None
    quota = quota_of(groups_of(pid))
    about = Prospects(
        stopped=_is_stopped(pid), threads=len(thread_numbers(pid)), cpu_quota=quota.cpus if quota is not None else None,
        gomaxprocs=int.from_bytes(raw, "little") if raw is not None else None,
    )
    if not any(_may_be_stuck(one.state) for one in found):
        return about
    begun = time.monotonic()
    ahead, followed = _ahead(target, found)
    time.sleep(max(0.0, begun + _STILL_S - time.monotonic()))
    now = {each.address: each for each in target.reader.read([one.address for one in found])}
    still = frozenset(one.state.id for one in found if (each := now.get(one.address)) is not None and same(each, one.snapshot))
    return replace(about, ahead=ahead, still=still, still_ns=round((time.monotonic() - begun) * 1e9), followed=followed)


def _is_stopped(pid: int) -> bool:
    """Whether a signal, a debugger or a freezer has stopped it: then nothing moves. Where the freezer's files are out of reach, the stack
    of its main thread tells."""
    inside = read_short(f"/proc/{pid}/stack", 4096)  # only root may read it
    return stopped(pid) is not None or any(name.encode() in inside for name in STOPS)


def _may_be_stuck(one: GoroutineState) -> bool:
    waited = one.object
    return one.state == "runnable" or waited is not None and (
        waited.kind in ("mutex", "rwmutex", "waitgroup") or waited.kind in ("chan", "select") and waited.address is None
        or waited.kind == "timer" and cast(int, waited.detail.get("due_in_ns", 0)) < 0 or one.reason.startswith("sync.Mutex")
        or waits_in_pool(one) is not None
    )


def _ahead(target: OpenTarget, found: Sequence[Found]) -> tuple[dict[int, tuple[Operation, ...]], int]:
    pages = Pages(target.memory)
    follower = Ahead(target.binary, target.bias, pages.word)
    # One of each place first: a crowd at one lock does the same.
    places = Counter[tuple[int, ...] | None]()
    rank = {}
    for one in found:
        rank[one.address] = places[one.snapshot.pcs] // _FEW, one.state.object is None or one.state.object.kind not in _LOCKS
        places[one.snapshot.pcs] += 1
    order = sorted(found, key=lambda one: rank[one.address])
    ahead, followed, end = {}, 0, time.monotonic() + _BUDGET_S
    for one in order[:_MOST]:
        if time.monotonic() > end:
            break
        followed += 1
        if one.snapshot.pcs:
            operations = follower.operations(one.snapshot.pcs, one.snapshot.head.sp, one.address)
            if operations:
                ahead[one.state.id] = tuple(operations)
    return ahead, followed


def same(now: Goroutine, snapshot: Snapshot) -> bool:
    """Whether it has not moved since."""
    head = snapshot.head
    return (now.goid, now.status, now.pc, now.sp, now.tick) == (head.goid, head.status, head.pc, head.sp, head.tick)
