"""What the goroutines of a dump will do to locks and channels once they go on, and which of them do not move."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import cast

from gotrace.dump.found import Found, FoundGoroutines
from gotrace.dump.pools import PoolsWaitedFor
from gotrace.dump.types import AllBut, GoroutineState, Operation, Prospects
from gotrace.live.ahead import Ahead
from gotrace.live.goroutines import Goroutine
from gotrace.live.pages import Pages
from gotrace.live.procs import number_of_procs
from gotrace.live.scan import Snapshot
from gotrace.live.world import World
from gotrace.model.kernelstacks import STOPS
from gotrace.proc.cgroups import groups_of, quota_of
from gotrace.proc.process import read_short
from gotrace.proc.stopped import stopped
from gotrace.watch.inprogress.blocked import thread_numbers
from gotrace.watch.target import OpenTarget

_BUDGET_S = 0.6
_MOST = 4096
_FEW = 16
_STILL_S, _CHECK_S = 0.2, 0.01
_LOCKS = frozenset(("mutex", "rwmutex", "waitgroup", "cond", "chan", "select"))


def prospects(target: OpenTarget, found: FoundGoroutines) -> Prospects:
    """Follows the code of some goroutines of each place first, of those that wait for locks and channels before others, for less than a
    second; of none if nothing is suspicious.

    Raises:
        ProcessLookupError, PermissionError: the memory can't be read.
    """
    pid = target.process.pid
    allp = target.binary.globals.allp
    quota = quota_of(groups_of(pid))
    about = Prospects(
        stopped=_is_stopped(pid), threads=len(thread_numbers(pid)), cpu_quota=quota.cpus if quota is not None else None,
        gomaxprocs=number_of_procs(target.memory, allp + target.bias if allp is not None else None),
    )
    layout = target.binary.sched_layout
    world = World(target.memory, target.binary.globals, layout, target.bias)
    pools = PoolsWaitedFor()
    begun = time.monotonic()
    late = world.late()
    if not late and not any(_may_be_stuck(one, pools) for one in found.states):
        return about
    ahead, followed = _ahead(target, found)
    # Often, so that no two stops are taken for one.
    while time.monotonic() < begun + _STILL_S:
        time.sleep(_CHECK_S)
        late = late and late & world.late()
    still = AllBut({found.states[position].id for position in found.moved()})
    running = {address for _, address in late}
    return replace(
        about, ahead=ahead, still=still, still_ns=round((time.monotonic() - begun) * 1e9), followed=followed,
        holding_up=frozenset(one.id for position, one in enumerate(found.states) if found.address(position) in running) if running else
        frozenset(),
    )


def _is_stopped(pid: int) -> bool:
    """Whether a signal, a debugger or a freezer has stopped it: then nothing moves. Where the freezer's files are out of reach, the stack
    of its main thread tells."""
    inside = read_short(f"/proc/{pid}/stack", 4096)  # only root may read it
    return stopped(pid) is not None or any(name.encode() in inside for name in STOPS)


def _may_be_stuck(one: GoroutineState, pools: PoolsWaitedFor) -> bool:
    waited = one.object
    return one.state == "runnable" or waited is not None and (
        waited.kind in ("mutex", "rwmutex", "waitgroup") or waited.kind in ("chan", "select") and waited.at is None
        or waited.kind == "timer" and cast(int, waited.detail.get("due_in_ns", 0)) < 0 or one.reason.startswith("sync.Mutex")
        or pools.of(one) is not None
    )


def _ahead(target: OpenTarget, found: FoundGoroutines) -> tuple[dict[int, tuple[Operation, ...]], int]:
    pages = Pages(target.memory)
    follower = Ahead(target.binary, target.bias, pages.word)
    ahead, followed, end = {}, 0, time.monotonic() + _BUDGET_S
    for one in islice(_in_order(found), _MOST):
        if time.monotonic() > end:
            break
        followed += 1
        if one.snapshot.pcs:
            operations = follower.operations(one.snapshot.pcs, one.snapshot.head.sp, one.address)
            if operations:
                ahead[one.state.id] = tuple(operations)
    return ahead, followed


def _in_order(found: FoundGoroutines) -> Iterator[Found]:
    """Some of each place first: a crowd at one lock does the same. Among these, who waits for locks and channels comes first."""
    places = list(found.places.items())
    start = 0
    while places:
        some = [(position, pcs) for pcs, positions in places for position in positions[start : start + _FEW]]
        some.sort(key=lambda each: _waits_elsewhere(found.states[each[0]]))
        yield from (found.whole(position, pcs) for position, pcs in some)
        start += _FEW
        places = [(pcs, positions) for pcs, positions in places if len(positions) > start]


def _waits_elsewhere(one: GoroutineState) -> bool:
    return one.object is None or one.object.kind not in _LOCKS


def same(now: Goroutine, snapshot: Snapshot) -> bool:
    """Whether it has not moved since."""
    head = snapshot.head
    return (now.goid, now.status, now.pc, now.sp, now.tick) == (head.goid, head.status, head.pc, head.sp, head.tick)
