"""Critical paths: who was waited for in the end, moment by moment."""

from __future__ import annotations

from dataclasses import dataclass

from histories import check_covers, created, part, timelines
from hypothesis import given, settings
from hypothesis import strategies as st

from gotrace.common.vocabulary import Part, StartKind
from gotrace.kernel.history import PartRecord
from gotrace.kernel.records import WorldPause
from gotrace.watch.requests.path import How, Step, follow, with_stops

REQUEST = 7


def told(steps: list[Step]) -> list[tuple[int, int, int, How]]:
    """Goroutine, start, end and what it did, the earliest first."""
    return [(step.goid, step.start_ns, step.start_ns + step.duration_ns, step.how) for step in reversed(steps)]


def test_without_waits_it_ran_to_the_end() -> None:
    assert follow(timelines(), REQUEST, 10, 50) == [Step(REQUEST, 10, 40, How.RAN_TO_THE_END, 0, 0)]


def test_an_empty_request_has_an_empty_path() -> None:
    assert follow(timelines(part(REQUEST, 0, 100)), REQUEST, 50, 50) == []


def test_waits_that_no_goroutine_ended_are_its_own() -> None:
    sleep = part(REQUEST, 20, 30)
    ready = part(REQUEST, 30, 32, of=Part.RUNNABLE)
    steps = follow(timelines(sleep, ready), REQUEST, 10, 50)
    assert steps == [
        Step(REQUEST, 32, 18, How.RAN_TO_THE_END, 0, 0),
        Step(REQUEST, 30, 2, How.WAITED, ready.row, 0, ready.what),
        Step(REQUEST, 20, 10, How.WAITED, sleep.row, 0, sleep.what),
        Step(REQUEST, 10, 10, How.RAN_UNTIL_WAIT, sleep.row, 0),
    ]


def test_a_wait_is_what_the_one_who_ended_it_did() -> None:
    wait = part(REQUEST, 10, 40, waker=8)
    sleep = part(8, 5, 30)
    steps = follow(timelines(wait, sleep, part(8, 45, 60)), REQUEST, 0, 50)
    check_covers(steps, 0, 50)
    assert steps == [
        Step(REQUEST, 40, 10, How.RAN_TO_THE_END, 0, 0),
        Step(8, 30, 10, How.RAN_UNTIL_WAKE, wait.row, wait.row),
        Step(8, 10, 20, How.WAITED, sleep.row, wait.row, sleep.what),
        Step(REQUEST, 0, 10, How.RAN_UNTIL_WAIT, wait.row, 0),
    ]


def test_what_it_runs_up_to_inside_another_goroutine() -> None:
    """8 runs, sleeps, runs, and ends the wait: the first run leads to its sleep, the second to the wake-up."""
    wait, sleep = part(REQUEST, 10, 40, waker=8), part(8, 20, 30)
    assert follow(timelines(wait, sleep), REQUEST, 10, 40) == [
        Step(8, 30, 10, How.RAN_UNTIL_WAKE, wait.row, wait.row),
        Step(8, 20, 10, How.WAITED, sleep.row, wait.row, sleep.what),
        Step(8, 10, 10, How.RAN_UNTIL_WAIT, sleep.row, wait.row),
    ]


def test_a_chain_is_charged_to_its_end() -> None:
    wait, middle, last = part(REQUEST, 10, 90, waker=8), part(8, 10, 88, waker=9), part(9, 12, 80)
    steps = follow(timelines(wait, middle, last), REQUEST, 10, 92)
    assert told(steps) == [
        (9, 10, 12, How.RAN_UNTIL_WAIT), (9, 12, 80, How.WAITED), (9, 80, 88, How.RAN_UNTIL_WAKE), (8, 88, 90, How.RAN_UNTIL_WAKE),
        (REQUEST, 90, 92, How.RAN_TO_THE_END),
    ]
    # Why the request waited is told of all that lies inside its wait, however deep.
    assert {step.via for step in steps} == {wait.row, 0}


def test_the_holders_of_a_lock_one_after_the_other() -> None:
    """8 holds it until 30, hands it to 9, that until 60, then the request has it. Each sleeps with it."""
    steps = follow(
        timelines(part(REQUEST, 10, 60, waker=9), part(9, 5, 30, waker=8), part(9, 31, 59), part(8, 8, 29)), REQUEST, 10, 60,
    )
    assert told(steps) == [
        (8, 10, 29, How.WAITED), (8, 29, 30, How.RAN_UNTIL_WAKE), (9, 30, 31, How.RAN_UNTIL_WAIT), (9, 31, 59, How.WAITED),
        (9, 59, 60, How.RAN_UNTIL_WAKE),
    ]


def test_waits_are_cut_to_the_request() -> None:
    wait, sleep = part(REQUEST, 10, 90, waker=8), part(8, 0, 89)
    assert told(follow(timelines(wait, sleep), REQUEST, 30, 70)) == [(8, 30, 70, How.WAITED)]


def test_two_that_wake_each_other_make_no_circle() -> None:
    steps = follow(timelines(part(REQUEST, 10, 50, waker=8), part(8, 20, 40, waker=REQUEST)), REQUEST, 0, 60)
    check_covers(steps, 0, 60)
    assert told(steps) == [
        (REQUEST, 0, 10, How.RAN_UNTIL_WAIT), (8, 10, 20, How.RAN_UNTIL_WAIT), (8, 20, 40, How.WAITED), (8, 40, 50, How.RAN_UNTIL_WAKE),
        (REQUEST, 50, 60, How.RAN_TO_THE_END),
    ]


def test_nor_do_five() -> None:
    circle = [part(goid, 10, 50, waker=goid % 5 + 1) for goid in range(1, 6)]
    assert told(follow(timelines(*circle), 1, 10, 50)) == [(5, 10, 50, How.WAITED)]


def test_one_that_wakes_itself_waits() -> None:
    assert told(follow(timelines(part(REQUEST, 10, 50, waker=REQUEST)), REQUEST, 10, 50)) == [(REQUEST, 10, 50, How.WAITED)]


def test_before_a_goroutine_was_created_its_creator_ran() -> None:
    """The request waits for 8, which 9 creates at 30, after it has slept; 8 has its first turn at 35 and sleeps as well."""
    first = created(8, 30, 35, creator=9)
    steps = follow(timelines(part(REQUEST, 10, 60, waker=8), first, part(8, 40, 55), part(9, 15, 25)), REQUEST, 10, 60)
    assert told(steps) == [
        (9, 10, 15, How.RAN_UNTIL_WAIT), (9, 15, 25, How.WAITED), (9, 25, 30, How.RAN_UNTIL_WAKE), (8, 30, 35, How.WAITED),
        (8, 35, 40, How.RAN_UNTIL_WAIT), (8, 40, 55, How.WAITED), (8, 55, 60, How.RAN_UNTIL_WAKE),
    ]
    ran = next(step for step in steps if step.start_ns == 25)
    assert ran.row == first.row  # which has the stack of who created it


def test_a_goroutine_that_the_request_has_created() -> None:
    """It is still waiting for its first turn when the request waits for it: that is no wait for the request."""
    steps = follow(timelines(created(8, 9, 14, creator=REQUEST), part(8, 20, 28), part(REQUEST, 10, 30, waker=8)), REQUEST, 0, 30)
    assert told(steps) == [
        (REQUEST, 0, 10, How.RAN_UNTIL_WAIT), (8, 10, 14, How.WAITED), (8, 14, 20, How.RAN_UNTIL_WAIT), (8, 20, 28, How.WAITED),
        (8, 28, 30, How.RAN_UNTIL_WAKE),
    ]


def test_nobody_knows_what_a_goroutine_did_before_it_was_there() -> None:
    steps = follow(timelines(created(8, 20, 21, creator=0), part(REQUEST, 10, 30, waker=8)), REQUEST, 10, 30)
    assert told(steps) == [(8, 10, 20, How.UNKNOWN), (8, 20, 21, How.WAITED), (8, 21, 30, How.RAN_UNTIL_WAKE)]


def test_running_is_not_claimed_of_a_time_that_is_not_known() -> None:
    """That a goroutine ran is known only by there being nothing else."""
    wait, sleep = part(REQUEST, 10, 40, waker=8), part(8, 30, 35)
    steps = follow(timelines(wait, sleep, since=20), REQUEST, 5, 50)
    assert told(steps) == [
        (REQUEST, 5, 10, How.UNKNOWN), (8, 10, 20, How.UNKNOWN), (8, 20, 30, How.RAN_UNTIL_WAIT), (8, 30, 35, How.WAITED),
        (8, 35, 40, How.RAN_UNTIL_WAKE), (REQUEST, 40, 50, How.RAN_TO_THE_END),
    ]


def test_what_is_known_of_such_a_time_stays() -> None:
    assert told(follow(timelines(part(REQUEST, 10, 40), since=30), REQUEST, 10, 40)) == [(REQUEST, 10, 40, How.WAITED)]


def test_very_deep_chains_end_somewhere() -> None:
    chain = [part(goid, 10, 1000 - goid, waker=goid + 1) for goid in range(1, 200)]
    steps = follow(timelines(*chain), 1, 0, 1000)
    check_covers(steps, 0, 1000)
    deepest = max(steps, key=lambda step: step.duration_ns)
    assert deepest.how is How.WAITED and 20 < deepest.goid < 30


def test_very_long_paths_are_cut_off_and_still_cover_the_request() -> None:
    waits = [part(REQUEST, 10 * number, 10 * number + 5) for number in range(10_000)]
    steps = follow(timelines(*waits), REQUEST, 0, 100_000)
    check_covers(steps, 0, 100_000)
    assert len(steps) < 5000
    assert steps[-1].how is How.UNKNOWN


# Whatever comes in ----------------------------------------------------------------------------------------------------

_GOIDS = st.integers(1, 5)
_ANYTHING = st.builds(
    part, _GOIDS, st.integers(0, 100), st.just(0), st.integers(0, 5), st.integers(1, 9),
    st.sampled_from([StartKind.CREATED, StartKind.PARK]), st.sampled_from([Part.MAIN, Part.MAIN, Part.RUNNABLE]),
).flatmap(lambda made: st.integers(0, 60).map(lambda length: made._replace(duration_ns=length)))


@settings(max_examples=400)
@given(st.lists(_ANYTHING, min_size=3, max_size=40), st.integers(0, 60), st.integers(0, 160), st.integers(0, 60))
def test_a_path_covers_the_request_whatever_was_recorded(records: list[PartRecord], start: int, length: int, since: int) -> None:
    check_covers(follow(timelines(*records, since=since), 1, start, start + length), start, start + length)


@dataclass
class World:
    """Goroutines that each do one thing at a time."""

    parts: list[PartRecord]
    since: int

    def at(self, goid: int, moment: int, chain: tuple[int, ...]) -> tuple[int, str, int]:
        """Who was waited for in the end, by goroutine `goid`, in [moment, moment + 1), as the definition of a critical path has it: the
        goroutine, whether it ran, and the row of its wait."""
        for found in (found for found in self.parts if found.goid == goid):
            if found.start_ns <= moment < found.start_ns + found.duration_ns:
                goes_on = found.waker_goid and found.kind != StartKind.CREATED and found.waker_goid not in chain
                return self.at(found.waker_goid, moment, (*chain, found.waker_goid)) if goes_on else (goid, "waited", found.row)
        birth = next((found for found in self.parts if found.goid == goid and found.kind == StartKind.CREATED), None)
        if birth is not None and moment < birth.start_ns:
            creator = birth.waker_goid
            return self.at(creator, moment, (*chain, creator)) if creator and creator not in chain else (goid, "unknown", 0)
        return (goid, "ran", 0) if moment >= self.since else (goid, "unknown", 0)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    parts = []
    for goid in range(1, 6):
        at, first = 0, goid > 1 and draw(st.booleans())  # the one of the request is there
        for _ in range(draw(st.integers(0, 6))):
            at += draw(st.integers(0, 12))
            end = at + draw(st.integers(1, 12))
            waker = draw(st.integers(0, 5).filter(lambda number, goid=goid: number != goid))
            parts.append(created(goid, at, end, waker) if first else part(goid, at, end, waker))
            at, first = end, False
    found = [each if _runs(parts, each) else each._replace(waker_goid=0) for each in parts]
    return World(draw(st.permutations(found)), draw(st.integers(0, 30)))


def _runs(parts: list[PartRecord], ended: PartRecord) -> bool:
    """Whether the waker, or the creator, was there at the moment at which it is said to have acted, and not off its CPU."""
    new = ended.kind == StartKind.CREATED
    moment = ended.start_ns if new else ended.start_ns + ended.duration_ns
    mine = [each for each in parts if each.goid == ended.waker_goid]
    born = not any(each.kind == StartKind.CREATED and each.start_ns >= moment for each in mine)
    return born and not any(each.start_ns < moment < each.start_ns + each.duration_ns for each in mine)


@settings(max_examples=400)
@given(worlds(), st.integers(0, 40), st.integers(0, 80))
def test_each_moment_goes_to_who_was_waited_for_then(world: World, start: int, length: int) -> None:
    # It ends where its goroutine runs, as requests do.
    end = start + length
    end = next((each.start_ns for each in world.parts if each.goid == 1 and 0 < end - each.start_ns < each.duration_ns), end)
    start = min(start, end)
    steps = follow(timelines(*world.parts, since=world.since), 1, start, end)
    check_covers(steps, start, end)
    names = {How.WAITED: "waited", How.UNKNOWN: "unknown"}
    for step in steps:
        row = step.row if step.how is How.WAITED else 0
        for moment in range(step.start_ns, step.start_ns + step.duration_ns):
            assert world.at(1, moment, (1,)) == (step.goid, names.get(step.how, "ran"), row)


def test_a_wait_for_a_p_while_the_world_was_stopped_is_the_stop_s() -> None:
    ready = part(1, 10, 90, row=7, of=Part.RUNNABLE)
    asleep = part(1, 100, 200, row=8)
    stops = [WorldPause(5, 10, 3), WorldPause(40, 20, 4), WorldPause(85, 50, 5)]
    steps = with_stops(follow(timelines(ready, asleep), 1, 0, 250), stops)
    check_covers(steps, 0, 250)
    found = [(step.start_ns, step.duration_ns, step.how, step.row) for step in steps if step.start_ns < 100]
    assert found == [
        (90, 10, How.RAN_UNTIL_WAIT, 8), (85, 5, How.STOPPED, 5), (60, 25, How.WAITED, 7), (40, 20, How.STOPPED, 4),
        (15, 25, How.WAITED, 7), (10, 5, How.STOPPED, 3), (0, 10, How.RAN_UNTIL_WAIT, 7),
    ]
    assert [step.how for step in steps if step.start_ns >= 100] == [How.RAN_TO_THE_END, How.WAITED]


@given(worlds(), st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20))))
def test_stops_leave_a_path_whole(world: World, stops: list[tuple[int, int]]) -> None:
    at, pauses = 0, []
    for gap, length in stops:
        pauses.append(WorldPause(at + gap, length, 1))
        at += gap + length
    check_covers(with_stops(follow(timelines(*world.parts, since=world.since), 1, 0, 80), pauses), 0, 80)
