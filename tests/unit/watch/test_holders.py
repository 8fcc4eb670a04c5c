"""How the time in which goroutines waited for a lock is divided among those who held it."""

from __future__ import annotations

import pytest

from gotrace.common.vocabulary import FrameKind, Part, StartKind, State
from gotrace.kernel.history import PartRecord
from gotrace.kernel.records import RawStack, RowKey
from gotrace.kernel.waited import Reasons
from gotrace.profile.things import Waited
from gotrace.profile.types import Distribution, Frame, StackStat
from gotrace.watch.inprogress.cutoff import CutOff, Parked
from gotrace.watch.requests import holders as module
from gotrace.watch.requests.holders import Holders
from gotrace.watch.requests.timelines import Timelines

REASON = 5
MS = 1_000_000
LOCK = Waited("mutex", 0xC000010000)
WHAT = StartKind.PARK << 2 | REASON << 10 | Part.MAIN << 18
ASLEEP = StartKind.SYSCALL << 2


def stack(waker: str, waited: Waited | None = LOCK, reason: str = "sync.Mutex.Lock") -> StackStat:
    frames = (Frame(waker, kind=FrameKind.WAKER), Frame("sync.(*Mutex).Unlock", kind=FrameKind.WAKER), Frame("main.wait"))
    return StackStat(frames if waker else (Frame("main.slow"),), State.WAITING, reason, Distribution(), waited=waited)


class World:
    """Rows 1 and 2 are waits for the lock that main.one and main.two end, row 3 a system call."""

    def __init__(self) -> None:
        self.timelines = Timelines(0)
        self.stacks = {1: stack("main.one"), 2: stack("main.two"), 3: stack("", None, "fsync")}
        self.holders = Holders(
            1, self.timelines, Reasons(0, 0, 1 << REASON, 0),
            lambda row: RowKey(1, 0, row, LOCK.address, 0, 0, REASON, 0, 0, 0) if row in self.stacks else None, self.stacks.get,
        )

    def told(self, *parts: PartRecord, end: int = 1000 * MS) -> tuple[int, int, dict[str, tuple[int, int]]]:
        self.timelines.end(parts)
        self.holders.finish(parts, end)
        found, = self.holders.found()
        assert found.waited == LOCK
        return found.contended_ns // MS, found.explained_ns // MS, {
            one.place: (one.held_ns // MS, one.sure_ns // MS) for one in found.holders
        }


def wait(goid: int, start: int, end: int, waker: int, row: int) -> PartRecord:
    return PartRecord(start * MS, (end - start) * MS, goid, waker, row, WHAT)


def pending(world: World, *waits: PartRecord) -> None:
    """As if read from the rings."""
    class Read:
        until_ns = max(part.start_ns + part.duration_ns for part in waits)

        def parts_of(self, whats: frozenset[int]) -> list[PartRecord]:
            assert all(part.what in whats for part in waits)
            return list(waits)

    world.holders.take(Read())


def test_the_first_waiter_finds_the_holder() -> None:
    world = World()
    pending(world, wait(10, 100, 140, 7, 1))
    assert world.told() == (40, 40, {"main.one": (40, 40)})


def test_a_chain_of_handoffs_is_certain_and_a_stranger_is_not() -> None:
    world = World()
    # 10 gets it from 7, hands it on to 11; 12 gets it from 8, who nobody woke.
    pending(world, wait(10, 100, 140, 7, 1), wait(11, 110, 170, 10, 2), wait(12, 120, 200, 8, 1))
    assert world.told() == (100, 100, {"main.one": (70, 40), "main.two": (30, 30)})


def test_the_woken_one_may_not_have_held_it_before_it_ran() -> None:
    world = World()
    pending(world, wait(10, 100, 140, 7, 1), wait(11, 110, 170, 10, 2))
    ready = PartRecord(140 * MS, 20 * MS, 10, 7, 4, StartKind.PARK << 2 | REASON << 10 | Part.RUNNABLE << 18)
    world.timelines.end([ready])
    world.holders.finish((), 1000 * MS)
    holders = {one.place: (one.held_ns // MS, one.sure_ns // MS) for one in world.holders.found()[0].holders}
    assert holders == {"main.one": (40, 40), "main.two": (30, 10)}


def test_what_lies_in_a_gap_belongs_to_nobody() -> None:
    world = World()
    pending(world, wait(10, 100, 140, 7, 1))
    world.timelines.lost(200 * MS)
    # 11 waited all the time; who had the lock between 140 and 200 is lost.
    pending(world, wait(11, 110, 230, 10, 2))
    assert world.told() == (70, 70, {"main.one": (40, 0), "main.two": (30, 0)})


def test_waits_that_are_left_out_are_a_gap() -> None:
    world = World()
    pending(world, *(wait(10 + n, n, n + 1, 7, 1) for n in range(6000)))
    pending(world, wait(7000, 2000, 7000, 7, 2))
    contended, explained, holders = world.told(end=9000 * MS)
    assert (contended, explained) == (6000, 6000) and holders == {"main.one": (5000, 2001), "main.two": (1000, 0)}


def test_a_wait_of_which_no_stack_is_kept_makes_nothing_sure() -> None:
    world = World()
    # It may have been for the same lock: then 10 had it for a while, and not 7.
    pending(world, wait(10, 100, 120, 7, 99), wait(11, 100, 140, 7, 1))
    assert world.told() == (40, 40, {"main.one": (40, 0)}) and world.holders.unfollowed == 1


def test_time_without_waiters_does_not_count() -> None:
    world = World()
    pending(world, wait(10, 100, 140, 7, 1), wait(11, 500, 510, 10, 2))
    assert world.told() == (50, 50, {"main.one": (40, 40), "main.two": (10, 10)})


def test_a_wait_without_a_waker_is_not_explained() -> None:
    world = World()
    pending(world, wait(10, 100, 140, 0, 1), wait(11, 130, 150, 7, 1))
    contended, explained, holders = world.told()
    assert (contended, explained, holders) == (50, 10, {"main.one": (10, 0)})


def test_what_has_not_ended_counts_as_wanted() -> None:
    world = World()
    pending(world, wait(10, 100, 140, 7, 1))
    cut = wait(11, 120, 130, 0, 1)
    assert world.told(cut, end=400 * MS) == (300, 40, {"main.one": (40, 40)})


def test_what_the_holder_did() -> None:
    world = World()
    asleep = PartRecord(105 * MS, 30 * MS, 7, 0, 3, ASLEEP)
    pending(world, wait(10, 100, 140, 7, 1))
    world.timelines.end([asleep])
    world.holders.finish((), 1000 * MS)
    holder, = world.holders.found()[0].holders
    assert [(did.text, did.total_ns // MS) for did in holder.waits] == [("fsync in main.slow", 30), ("running", 10)]


def test_what_was_overwritten_is_not_taken_for_running() -> None:
    world = World()
    pending(world, wait(10, 100, 140, 7, 1))
    world.timelines.lost(130 * MS)
    world.holders.finish((), 1000 * MS)
    holder, = world.holders.found()[0].holders
    assert [(did.text, did.total_ns // MS) for did in holder.waits] == [("not known", 30), ("running", 10)]


def test_too_many_waits_are_counted() -> None:
    world = World()
    pending(world, *(wait(10 + n, n, n + 1, 7, 1) for n in range(6000)))
    assert world.holders.unfollowed == 1000


def test_of_goroutines_that_are_parked_at_the_end_only_those_at_locks_are_kept_and_no_more_than_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MOST_IN_PROGRESS", 3)
    for waiting, sure in ((3, 40), (5, 0)):
        world = World()
        pending(world, wait(10, 100, 140, 7, 1))
        wants = world.holders.wanted()
        cut = CutOff(90 * MS, 1000 * MS, False, 0, 0, followed=lambda goid, stack, what: wants(what))
        for goid in range(100, 100 + waiting):
            cut.add_parked(Parked(goid, goid, REASON, RawStack((1,)), kind=StartKind.PARK), None)
            cut.add_parked(Parked(goid + 50, goid + 50, REASON + 1, RawStack((2,)), kind=StartKind.PARK), None)
        assert {part.goid for part, _ in cut.parts} == {100, 101, 102}
        # With waits left out somebody may have waited before goroutine 10 did.
        assert world.told() == (40, 40, {"main.one": (40, sure)})
        assert world.holders.unfollowed == waiting - 3
