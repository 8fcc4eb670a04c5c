"""Many goroutines that wait for one lock, and pools of which everything is in use."""

from __future__ import annotations

from gotrace.dump.groups import described
from gotrace.dump.objects import several_waiters
from gotrace.dump.pools import Pool, PoolsWaitedFor
from gotrace.dump.types import Dump, GoroutineState, Verdict
from gotrace.live.ahead import READ_UNLOCK, UNLOCK, WRITE_UNLOCK
from gotrace.profile.frames import plain_name
from gotrace.render.text import format_duration

CONVOY, POOL = "convoy", "pool exhausted"
_CROWD = 32
_RELEASES = (UNLOCK, READ_UNLOCK, WRITE_UNLOCK)


def convoys(dump: Dump, dead: frozenset[int]) -> list[Verdict]:
    """Locks for which at least 32 goroutines wait; those of goroutines in `dead`, which have a verdict of their own, are left out."""
    found = []
    for one in several_waiters(dump.objects):
        if one.kind not in ("mutex", "rwmutex") or one.waiters < _CROWD or dead & set(one.goroutines):
            continue
        waiting = set(one.goroutines)
        holders = {
            str(goid): plain_name(operation.function) for goid, operations in dump.prospects.ahead.items() for operation in operations
            if goid not in waiting and operation.what in _RELEASES and f"{operation.address:#x}" == one.address
        }
        text = f"{one.waiters:,} goroutines wait for {described(one.kind, one.address, one.detail)}"
        text += f", the oldest for about {format_duration(one.oldest_wait_ns)}" if one.oldest_wait_ns is not None else ""
        if holders:
            goid, function = next(iter(holders.items()))
            text += f"; candidate for who has it: goroutine {goid} (in {function})"
        found.append(Verdict(CONVOY, text, one.goroutines, {"kind": one.kind, "address": one.address, "candidates": holders}, False))
    return found


def exhausted_pools(dump: Dump) -> list[Verdict]:
    """Pools for a part of which goroutines wait that have not moved for a while."""
    waiting: dict[Pool, list[GoroutineState]] = {}
    pools = PoolsWaitedFor()
    for one in dump.goroutines:
        pool = pools.of(one)
        if pool is not None and one.id in dump.prospects.still:
            waiting.setdefault(pool, []).append(one)
    found = []
    for pool, members in waiting.items():
        making = sum(any(pool.makes.match(frame.name) for frame in one.frames) for one in dump.goroutines) if pool.makes is not None else 0
        if len(members) <= making or pool.makes is not None and len(members) - making < 2:
            continue
        count = len(members) - making
        ids = {one.id for one in members}
        users = [one.id for one in dump.goroutines if one.id not in ids and pool.user is not None and any(
            pool.user.match(frame.name) for frame in one.frames)]
        text = f"{'1 goroutine waits' if count == 1 else f'{count:,} goroutines wait'} for {pool.what}: all are in use"
        if pool.user is not None and not users:
            text += ", and no other goroutine is in the package now: who has them may be waiting here"
        found.append(Verdict(
            POOL, text, [one.id for one in members], {"pool": pool.name, "waiting": count, "users": users,
                                                      "still_ns": dump.prospects.still_ns}, False,
        ))
    return found
