"""Which processes are read to find deadlocks, and how often."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from profiles import durations

from gotrace.common.errors import Refused
from gotrace.common.vocabulary import State
from gotrace.host.choice import Wanted
from gotrace.profile.types import Distribution, Frame, StackStat
from gotrace.sched.types import Goroutines, Snapshot
from gotrace.serve import suspects
from gotrace.serve.options import ServeOptions
from gotrace.serve.suspects import MOST_GOROUTINES, Suspects, stuck_in
from gotrace.serve.totals import Totals
from gotrace.serve.tracing import Condition, Traced, identity_of
from gotrace.serve.triggers import Deadlock

S = 1_000_000_000


def waits(*lengths: int, reason: str = "sync.Mutex.Lock", state: State = State.WAITING) -> StackStat:
    return StackStat((Frame("main.take"),), state, reason, durations(list(lengths)) if lengths else Distribution())


def test_who_may_be_in_one() -> None:
    assert stuck_in([]) == 0
    assert stuck_in([waits(3 * S, 4 * S), waits(S), waits(5 * S, reason="chan receive")]) == 2
    assert stuck_in([waits(3 * S, reason=reason) for reason in ("semacquire", "chan send (nil chan)", "select (no cases)")]) == 3
    assert stuck_in([waits(3 * S, reason="sync.", state=State.SYSCALL)]) == 0


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    identity = identity_of(os.getpid())
    assert identity is not None
    one = Traced(identity, ServeOptions(Wanted(name="x"), folder=tmp_path), Totals(), lambda _traced, _fired: None)
    one.condition = Condition.TRACING
    one.recorder = SimpleNamespace(ongoing=[waits(3 * S)])  # type: ignore[assignment]
    return one


class Clock:
    """Time that goes on when it is told to, and what a reading costs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.cpu, self.cost = 1000.0, 0.0, 0.05
        self.reads: list[float] = []
        self.answer: Deadlock | Exception = Deadlock()
        monkeypatch.setattr(suspects, "time", SimpleNamespace(monotonic=lambda: self.now, thread_time=lambda: self.cpu))
        monkeypatch.setattr(suspects, "find", self.find)

    def find(self, _pid: int) -> Deadlock:
        self.reads.append(self.now)
        self.cpu += self.cost
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def run(self, found: Suspects, seconds: int) -> list[float]:
        self.reads.clear()
        for _ in range(seconds):
            found.step()
            self.now += 1
        return [round(at - self.now + seconds) for at in self.reads]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_it_is_read_more_and_more_seldom_until_something_changes(traced: Traced, clock: Clock) -> None:
    found = Suspects(lambda: [traced])
    assert clock.run(found, 1000) == [0, 10, 30, 70, 150, 310, 610, 910]
    traced.recorder.ongoing = [waits(3 * S, 3 * S)]  # type: ignore[union-attr]
    assert clock.run(found, 30) == [0, 20]
    traced.recorder.ongoing = []  # type: ignore[union-attr]
    assert clock.run(found, 100) == []
    assert found.counts == {"read": 10, "failed": 0, "left_out": 0} and found.cpu_s == pytest.approx(0.5)


def test_it_is_read_at_most_every_ten_seconds(traced: Traced, clock: Clock) -> None:
    found = Suspects(lambda: [traced])
    reads = 0
    for number in range(60):
        traced.recorder.ongoing = [waits(3 * S)] * (number % 2)  # type: ignore[union-attr]
        reads += len(clock.run(found, 1))
    assert reads <= 6


def test_it_takes_one_percent_of_a_cpu(traced: Traced, clock: Clock) -> None:
    clock.cost = 1.0
    clock.answer = Deadlock(2, "a text")
    found = Suspects(lambda: [traced])
    assert clock.run(found, 1000) == list(range(0, 1000, 100)) and traced.deadlock.goroutines == 2
    traced.recorder.ongoing = []  # type: ignore[union-attr]
    clock.run(found, 1)
    assert not traced.deadlock.goroutines


def test_what_can_t_be_read_or_is_too_large_is_counted(traced: Traced, clock: Clock) -> None:
    found = Suspects(lambda: [traced])
    for error in (Refused("no"), IndexError("its memory makes no sense")):
        clock.answer = error
        clock.run(found, 1)
        clock.now += 400
    assert found.counts == {"read": 0, "failed": 2, "left_out": 0}
    traced.scheduler.snapshot = Snapshot("", goroutines=Goroutines(MOST_GOROUTINES + 1, 0, 0, 0, 0))
    assert clock.run(found, 1) == [] and found.counts["left_out"] == 1


def test_those_that_ended_are_forgotten(traced: Traced, clock: Clock) -> None:
    everyone = [traced]
    found = Suspects(lambda: everyone)
    clock.run(found, 1)
    everyone.clear()
    clock.run(found, 1)
    assert not found._seen
