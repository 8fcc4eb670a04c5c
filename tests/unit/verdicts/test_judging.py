"""Verdicts on dumps that were made up: what is wrong is named, what only resembles it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gotrace.dump.objects import objects_of
from gotrace.dump.types import Dump, GoroutineState, Operation, Prospects, Situation, Verdict, WaitedObject
from gotrace.profile.types import Frame, Target
from gotrace.verdicts.judge import judge, judge_series

TARGET = Target(1, "/bin/x", "x", "go1.27.3", "build info", "", True, False, False, "amd64")
LOCKED = {"locked": True, "starving": False, "waiters": 1}


def goroutine(goid: int, waited: WaitedObject | None = None, *functions: str, **more: object) -> GoroutineState:
    fields: dict[str, object] = {
        "state": "waiting", "reason": "sync.Mutex.Lock", "created_by": "main.main", "created_at": "x.go:1",
        "start_function": "main.run", "locked_to_thread": False, "labels": {},
    }
    frames = tuple(Frame(name) for name in ("runtime.gopark", *(functions or ("main.work",)), "runtime.goexit"))
    waited_ns = more.pop("wait_ns", None)
    return GoroutineState(goid, Situation(frames=frames, **(fields | more)), waited_ns, 1, waited)  # type: ignore[arg-type]


def mutex(address: int, **detail: object) -> WaitedObject:
    return WaitedObject("mutex", f"{address:#x}", LOCKED | detail)


def channel(address: int, op: str, **detail: object) -> WaitedObject:
    return WaitedObject("chan", f"{address:#x}", {"op": op, "len": 0, "cap": 0, "closed": False, "elem": "int", "elem_size": 8, **detail})


def will(what: str, address: int, frame: int = 0, deferred: bool = True, sure: bool = True) -> Operation:
    return Operation(what, address, frame, "main.work", deferred, sure)


def dump(*goroutines: GoroutineState, ahead: dict[int, tuple[Operation, ...]] | None = None, still: set[int] | None = None,
         **more: object) -> Dump:
    ids = frozenset(one.id for one in goroutines) if still is None else frozenset(still)
    prospects = Prospects(ahead or {}, ids, 200_000_000, len(goroutines), **more)  # type: ignore[arg-type]
    made = Dump("0", TARGET, list(goroutines), {}, [], objects_of(goroutines))
    made.prospects = prospects
    return made


CROSSED = {1: (will("unlock", 0xA),), 2: (will("unlock", 0xB),)}


def crossed(**more: object) -> Dump:
    return dump(goroutine(1, mutex(0xB)), goroutine(2, mutex(0xA)), **({"ahead": CROSSED} | more))  # type: ignore[arg-type]


def kinds(found: list[Verdict]) -> list[tuple[str, bool]]:
    return [(one.kind, one.certain) for one in found]


def test_two_locks_in_opposite_order() -> None:
    verdict, = judge(crossed())
    assert (verdict.kind, verdict.certain, verdict.goroutines) == ("deadlock", True, [1, 2])
    assert verdict.text == (
        "goroutine 1 waits to get mutex 0xb, which goroutine 2 has to unlock (in main.work); "
        "goroutine 2 waits to get mutex 0xa, which goroutine 1 has to unlock (in main.work)"
    )


@pytest.mark.parametrize("ahead, certain", [
    ({1: (will("unlock", 0xA),), 2: (will("unlock", 0xB, sure=False, deferred=False),)}, False),
    ({1: (will("unlock", 0xA),), 2: (will("unlock", 0xB),), 3: (will("unlock", 0xB),)}, None),
    ({1: (will("unlock", 0xA),)}, None),
    ({1: (will("unlock", 0xA),), 2: (will("unlock", 0xC),)}, None),
    ({1: (will("rlock", 0xA),), 2: (will("unlock", 0xB),)}, None),
])
def test_what_weakens_or_ends_a_cycle(ahead: dict[int, tuple[Operation, ...]], certain: bool | None) -> None:
    """The unlock is only possible; a third goroutine that runs may unlock; nobody is known; another lock; a lock instead of an unlock."""
    found = judge(dump(goroutine(1, mutex(0xB)), goroutine(2, mutex(0xA)), goroutine(3, None, state="running"), ahead=ahead))
    assert kinds(found) == ([] if certain is None else [("deadlock", certain)])


def test_goroutines_that_move_are_in_no_deadlock() -> None:
    assert judge(crossed(still={1})) == [] and judge(crossed(still=set())) == []


def test_a_lock_that_is_free_makes_no_certain_cycle() -> None:
    found = judge(dump(goroutine(1, mutex(0xB, locked=False)), goroutine(2, mutex(0xA)), ahead=CROSSED))
    assert kinds(found) == [("deadlock", False)]


def test_the_lock_for_which_a_goroutine_waits_is_not_one_that_it_has() -> None:
    waits = goroutine(1, mutex(0xA))
    assert judge(dump(waits, ahead={1: (will("unlock", 0xA, deferred=False),)})) == []
    assert kinds(judge(dump(waits, ahead={1: (will("unlock", 0xA, frame=1, deferred=False),)}))) == [("deadlock", True)]
    assert kinds(judge(dump(waits, ahead={1: (will("unlock", 0xA),)}))) == [("deadlock", True)]


def test_a_wait_behind_a_cycle_is_part_of_its_evidence() -> None:
    found = dump(goroutine(1, mutex(0xB)), goroutine(2, mutex(0xA)), goroutine(3, mutex(0xA)), ahead=CROSSED)
    verdict, = judge(found)
    assert verdict.goroutines == [1, 2] and verdict.evidence["behind"] == [3]


def test_channels_alone_make_no_deadlock() -> None:
    """Which of two goroutines that hand things to each other is next is not known from one moment."""
    ahead = {1: (will("send", 0xB, deferred=False),), 2: (will("send", 0xA, deferred=False),)}
    assert judge(dump(goroutine(1, channel(0xA, "receive")), goroutine(2, channel(0xB, "receive")), ahead=ahead)) == []


def test_a_channel_with_a_lock_held_is_likely_one() -> None:
    ahead = {1: (will("unlock", 0xB),), 2: (will("receive", 0xA, deferred=False),)}
    both = goroutine(1, channel(0xA, "send"), reason="chan send"), goroutine(2, mutex(0xB))
    assert kinds(judge(dump(*both, ahead=ahead))) == [("deadlock", False)]
    assert judge(dump(*both, goroutine(3, None, state="running"), ahead=ahead | {3: (will("receive", 0xA, deferred=False),)})) == []
    timed = goroutine(1, channel(0xA, "send", due_in_ns=5), reason="chan send")
    assert judge(dump(timed, both[1], ahead=ahead)) == []


def test_a_select_with_a_way_out_is_no_deadlock() -> None:
    def select(*cases: dict[str, object]) -> WaitedObject:
        return WaitedObject("select", None, {"cases": list(cases)})

    stuck = {"address": "0xa", "op": "send", "len": 0, "cap": 0, "closed": False, "elem": "", "elem_size": 8}
    ahead = {1: (will("unlock", 0xB),), 2: (will("receive", 0xA, deferred=False),)}
    other = goroutine(2, mutex(0xB))
    assert kinds(judge(dump(goroutine(1, select(stuck), reason="select"), other, ahead=ahead))) == [("deadlock", False)]
    for way_out in (stuck | {"address": "0xc", "op": "receive"}, stuck | {"op": "receive", "due_in_ns": 1}):
        assert judge(dump(goroutine(1, select(stuck, way_out), reason="select"), other, ahead=ahead)) == []


def test_a_recursive_read_lock() -> None:
    def state(op: str, writer: str = "waiting") -> WaitedObject:
        return WaitedObject("rwmutex", "0xa", {"op": op, "readers": 1, "readers_waiting": 1, "writer": writer})

    ahead = {1: (will("runlock", 0xA, frame=1),)}
    both = goroutine(1, state("RLock")), goroutine(2, state("Lock"))
    verdict, = judge(dump(*both, ahead=ahead))
    assert (verdict.kind, verdict.certain) == ("recursive read lock", True)
    assert judge(dump(*both, ahead={3: (will("runlock", 0xA, frame=1),)})) == []


@pytest.mark.parametrize("counter, certain", [(1, True), (2, False)])
def test_a_waitgroup_whose_workers_wait_forever(counter: int, certain: bool) -> None:
    group = WaitedObject("waitgroup", "0xa", {"counter": counter, "waiters": 1})
    nil = WaitedObject("chan", None, {"op": "send", "nil": True})
    found = dump(goroutine(1, group), goroutine(2, nil, reason="chan send (nil chan)"), ahead={2: (will("done", 0xA),)})
    assert sorted(kinds(judge(found))) == sorted([("deadlock", True), ("deadlock", certain)])


def test_main_may_wait_forever() -> None:
    nothing = WaitedObject("select", None)
    served = goroutine(1, nothing, "command.run", "main.main", "runtime.main", reason="select (no cases)")
    assert judge(dump(served)) == []
    assert kinds(judge(dump(replace(served, id=2)))) == [("deadlock", True)]


def test_a_convoy_is_many_and_names_a_candidate() -> None:
    waiting = [goroutine(goid, mutex(0xA)) for goid in range(10, 42)]
    verdict, = judge(dump(*waiting, goroutine(1, None, reason="IO wait"), ahead={1: (will("unlock", 0xA),)}))
    assert (verdict.kind, verdict.certain, len(verdict.goroutines)) == ("convoy", False, 32)
    assert "candidate for who has it: goroutine 1 (in main.work)" in verdict.text
    assert judge(dump(*waiting[:31])) == []


@pytest.mark.parametrize("function, reason, found", [
    ("database/sql.(*DB).conn", "select", True), ("database/sql.(*DB).conn", "IO wait", False),
    ("github.com/jackc/puddle/v2.(*Pool[go.shape.*uint8]).acquire", "select", True),
    ("github.com/jackc/pgx/v5/pgxpool.(*Pool).Acquire", "select", True),
    ("golang.org/x/sync/semaphore.(*Weighted).Acquire", "select", True),
    ("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).waitTurn", "select", True), ("main.(*Pool).Acquire", "select", False),
])
def test_pools_are_known_by_their_functions(function: str, reason: str, found: bool) -> None:
    waits = goroutine(1, None, function, "main.query", reason=reason)
    assert kinds(judge(dump(waits))) == ([("pool exhausted", False)] if found else [])
    assert judge(dump(waits, still=set())) == []


def test_goroutines_that_wait_for_a_dial_are_no_exhausted_pool() -> None:
    waiting = [goroutine(goid, None, "net/http.(*Transport).getConn", "main.get", reason="select") for goid in (1, 2, 3)]
    dials = [goroutine(goid, None, "net.dial", "net/http.(*Transport).dialConnFor", reason="IO wait") for goid in (4, 5)]
    assert judge(dump(*waiting, *dials)) == []
    assert kinds(judge(dump(*waiting))) == [("pool exhausted", False)]


def test_what_does_not_run() -> None:
    ready, late = goroutine(1, state="runnable", reason=""), goroutine(2, WaitedObject("timer", None, {"due_in_ns": -500_000_000}))
    assert kinds(judge(dump(ready, late))) == [("starved", True), ("late timers", True)]
    assert judge(dump(ready, late, still=set())) == [] and judge(dump(ready, late, stopped=True)) == []
    assert judge(dump(goroutine(2, WaitedObject("timer", None, {"due_in_ns": -50_000_000})))) == []


def test_procs_and_threads() -> None:
    assert kinds(judge(dump(gomaxprocs=16, cpu_quota=2.0))) == [("gomaxprocs", True)]
    assert judge(dump(gomaxprocs=4, cpu_quota=2.0)) == judge(dump(gomaxprocs=1, cpu_quota=0.1)) == judge(dump(gomaxprocs=64)) == []
    assert kinds(judge(dump(threads=9000))) == [("threads", True)] and judge(dump(threads=500)) == []


def series(*counts: int, first: int = 0, **more: object) -> list[Dump]:
    def one(goid: int) -> GoroutineState:
        return goroutine(goid, channel(goid, "send"), "main.answer", reason="chan send", **more)

    return [dump(*(one(first * number + goid) for goid in range(1, 1 + count))) for number, count in enumerate(counts)]


def test_a_leak_grows_every_time_and_keeps_what_it_has() -> None:
    verdict, = judge_series(series(5, 8, 12))
    assert (verdict.kind, verdict.certain, verdict.evidence["counts"]) == ("leak", False, [5, 8, 12])
    for steady in (series(5, 8), series(5, 8, 8), series(5, 9, 8), series(5, 8, 12, first=1000)):
        assert judge_series(steady) == []


def test_goroutines_of_connections_are_no_leak() -> None:
    found = series(5, 8, 12)
    for number, each in enumerate(found):
        each.goroutines += [goroutine(900 + goid, None, "net.read", reason="IO wait") for goid in range(3 * number)]
    assert judge_series(found) == []
