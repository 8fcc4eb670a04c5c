"""Who can end whose wait: the graph from which deadlocks are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from gotrace.dump.objects import addressed
from gotrace.dump.types import Dump, GoroutineState, Operation, WaitedObject
from gotrace.live.ahead import CLOSE, DONE, READ_UNLOCK, RECEIVE, SEND, SIGNAL, UNLOCK, WRITE_UNLOCK

_ENDS = {
    ("mutex", ""): (UNLOCK,), ("rwmutex", "RLock"): (WRITE_UNLOCK,), ("rwmutex", "Lock"): (READ_UNLOCK, WRITE_UNLOCK),
    ("waitgroup", ""): (DONE,), ("cond", ""): (SIGNAL,), ("chan", "receive"): (SEND, CLOSE), ("chan", "send"): (RECEIVE,),
}


@dataclass(frozen=True)
class Need:
    """One thing that would end a goroutine's wait. `enders` are the goroutines whose code does it once they go on, with the function that
    does. `complete`: the object's own state says that there are no others. `sure`: each does it in any case."""

    kind: str
    address: str
    op: str
    enders: dict[int, str] = field(hash=False)
    complete: bool = False
    sure: bool = False


def needs(dump: Dump) -> dict[int, list[Need]]:
    """What would end the waits of the goroutines that have not moved: any of the list. An empty list: nothing can. Goroutines that others,
    timers, the kernel or something unknown may wake have no entry."""
    ending: dict[tuple[str, str], dict[int, Operation]] = {}
    for goid, operations in dump.prospects.ahead.items():
        for operation in operations:
            known = ending.setdefault((operation.what, f"{operation.address:#x}"), {})
            if goid not in known or _outer(operation) > _outer(known[goid]):
                known[goid] = operation
    writers: dict[str, list[GoroutineState]] = {}
    for one in dump.goroutines:
        if one.object is not None and one.object.kind == "rwmutex" and one.object.detail.get("op") == "Lock":
            writers.setdefault(one.object.address or "", []).append(one)
    found = {}
    ended = {int(address, 16) for _, address in ending} | {int(address, 16) for address in writers if address}
    for one in dump.goroutines:
        if _may_be_known(one.object, ended) and one.id in dump.prospects.still and (asked := _needs(one, ending, writers)) is not None:
            found[one.id] = asked
    return found


def _may_be_known(waited: WaitedObject | None, ended: set[int]) -> bool:
    """Whether it is known what would end such a wait: to most objects no goroutine is known to do anything."""
    return waited is not None and (waited.at is None or waited.at in ended)


def waits_for_nothing(one: GoroutineState) -> bool:
    """Whether it waits for something that can't happen: a nil channel, or a select without cases."""
    waited = one.object
    if waited is None or waited.at is not None:
        return False
    return waited.kind == "chan" and bool(waited.detail.get("nil")) or waited.kind == "select" and not waited.cases


def _needs(
    one: GoroutineState, ending: dict[tuple[str, str], dict[int, Operation]], writers: dict[str, list[GoroutineState]]
) -> list[Need] | None:
    if waits_for_nothing(one):
        return []
    things = addressed(one.object)
    if not things:
        return None
    found = []
    for kind, address, detail in things:
        op = str(detail.get("op", ""))
        if "due_in_ns" in detail or (kind, op) not in _ENDS:
            return None
        enders: dict[int, str] = {}
        if (kind, op) == ("rwmutex", "RLock") and detail.get("writer") == "waiting":
            enders = {writer.id: _function(writer) for writer in writers.get(address, [])}
        sure = True
        for what in _ENDS[kind, op]:
            for goid, operation in ending.get((what, address), {}).items():
                # What the same function does next to the lock for which it waits tells only that it will have it.
                if goid not in enders and (goid != one.id or _outer(operation)[0] > 0):
                    enders[goid] = operation.function
                    sure = sure and operation.sure
        if not enders:
            return None
        found.append(Need(kind, address, op, enders, _is_complete(kind, op, detail, enders), sure))
    return found


def _outer(operation: Operation) -> tuple[int, bool]:
    """A deferred call is pending whichever function made it."""
    return max(operation.frame, 1) if operation.deferred else operation.frame, operation.sure


def _is_complete(kind: str, op: str, detail: dict[str, object], enders: dict[int, str]) -> bool:
    if kind == "mutex":
        return detail.get("locked") is True and len(enders) == 1
    if kind == "waitgroup":
        return detail.get("counter") == len(enders)
    if kind == "rwmutex" and op == "Lock":
        return detail.get("writer") == "waiting" and detail.get("readers") == len(enders)
    return kind == "rwmutex" and len(enders) == 1


def _function(one: GoroutineState) -> str:
    return next((frame.name for frame in one.frames if not frame.name.startswith(("runtime.", "sync.", "internal/sync."))), "")


def stuck(asked: dict[int, list[Need]]) -> dict[int, list[Need]]:
    """The goroutines that no goroutine outside the set can wake: the largest such set."""
    left = dict(asked)
    while True:
        free = [goid for goid, all_needs in left.items() if any(ender not in left for need in all_needs for ender in need.enders)]
        if not free:
            return left
        for goid in free:
            del left[goid]


def components(graph: dict[int, list[Need]]) -> list[list[int]]:
    """The sets of goroutines that all wait for one another, directly or indirectly; one that waits for itself is such a set."""
    reach = {goid: {ender for need in asked for ender in need.enders} for goid, asked in graph.items()}
    order: list[int] = []
    visited: set[int] = set()
    for start in sorted(graph):
        _walk(start, reach, visited, order)
    reverse: dict[int, set[int]] = {goid: set() for goid in graph}
    for goid, ends in reach.items():
        for end in ends:
            reverse.setdefault(end, set()).add(goid)
    found: list[list[int]] = []
    visited = set()
    for start in reversed(order):
        if start in visited:
            continue
        members: list[int] = []
        _walk(start, reverse, visited, members)
        if len(members) > 1 or start in reach[start]:
            found.append(sorted(members))
    return sorted(found)


def _walk(start: int, reach: dict[int, set[int]], visited: set[int], order: list[int]) -> None:
    """Adds what is reachable and not yet visited to `order`, in the order in which it is left (depth first)."""
    if start in visited:
        return
    visited.add(start)
    path = [(start, iter(sorted(reach.get(start, ()))))]
    while path:
        goid, following = path[-1]
        for following_goid in following:
            if following_goid not in visited and following_goid in reach:
                visited.add(following_goid)
                path.append((following_goid, iter(sorted(reach.get(following_goid, ())))))
                break
        else:
            order.append(goid)
            path.pop()
