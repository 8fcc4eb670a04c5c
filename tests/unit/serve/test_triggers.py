"""Triggers, evaluated on what was measured."""

from __future__ import annotations

import pytest
from profiles import durations

from gotrace.common.vocabulary import FrameKind, Loss, State
from gotrace.profile.requests import SpanBucket
from gotrace.profile.types import Distribution, Frame, GovernorReport, Pause, StackStat
from gotrace.sched.types import Goroutines, Snapshot
from gotrace.serve.expressions import parse
from gotrace.serve.steps import Calls, Step, Wait
from gotrace.serve.triggers import Deadlock, Growth, Judge, Now

S = 1_000_000_000
MS = 1_000_000
LOCK = StackStat(
    (Frame("sync.(*Mutex).Lock"), Frame("main.take"), Frame("main.hold", kind=FrameKind.WAKER)), State.WAITING, "sync.Mutex.Lock",
    Distribution(), pid=7,
)
READY = StackStat((Frame("main.run"),), State.RUNNABLE, "ready", Distribution(), pid=7)
IDLE = StackStat(
    (Frame("runtime.gopark", kind=FrameKind.RUNTIME), Frame("time.Sleep"), Frame("main.tick")), State.WAITING, "sleep", Distribution(), pid=7
)


def step(second: int, *waits: tuple[StackStat, list[int]]) -> Step:
    found = [Wait(stack, durations(lengths), (0, 0, 0, 0), 0, None) for stack, lengths in waits]
    return Step(second * S, (second + 1) * S, 0, found, attached_ns=S, cpu_ns=S // 2)


def fired(text: str, *steps: Step, ongoing: list[StackStat] = [], **named: object) -> list[str]:  # noqa: B006
    now = Now(steps[-1].end_ns, steps, ongoing, **named)  # type: ignore[arg-type]
    return [one.reason for one in Judge([parse(text)], 0).judge(now)]


def lasting(stack: StackStat, ns: int) -> StackStat:
    return StackStat(stack.frames, stack.state, stack.reason, durations([ns]), in_progress=1, pid=7)


@pytest.mark.parametrize(("text", "fires"), [
    ("max > 700ms", True),
    ("max > 900ms", False),
    ("max(state=runnable) > 20ms", True),
    ("max(state=runnable) > 100ms", False),
    ("max(reason~Mutex) > 700ms", True),
    ("max(reason=sleep) > 3s", True),
    ("max(place=main.take) > 700ms", True),
    ("max(place=main.hold) > 1ms", False),
    ("p50(reason~Mutex) > 200ms", False),
    ("p99(reason~Mutex) > 700ms", True),
    ("p99(reason=nothing) < 1h", False),
    ("rate(reason~Mutex) > 0.9", True),
    ("rate(reason~Mutex) > 1.1", False),
    ("max(reason~Mutex) > 700ms and max(state=runnable) > 20ms", True),
    ("max(reason~Mutex) > 700ms and max(state=runnable) > 100ms", False),
])
def test_waits(text: str, fires: bool) -> None:
    steps = [step(number, (LOCK, [MS]), (READY, [50 * MS]), (IDLE, [5 * S])) for number in range(9)]
    steps.append(step(9, (LOCK, [800 * MS])))
    assert bool(fired(text, *steps)) is fires


def test_waits_that_still_last() -> None:
    waits = [lasting(LOCK, 3 * S), lasting(IDLE, 60 * S)]
    assert fired("max(reason~Mutex) > 2s", step(0), ongoing=waits) == ["max(reason~Mutex) > 2s (it is 3.00 s)"]
    assert fired("stalled > 2s", step(0), ongoing=waits) and not fired("stalled > 4s", step(0), ongoing=waits)
    assert fired("stalled(place=main.tick) > 30s", step(0), ongoing=waits)


def test_the_stretch_can_be_chosen() -> None:
    steps = [step(0, (LOCK, [800 * MS])), *(step(number, (LOCK, [MS])) for number in range(1, 20))]
    assert not fired("max(reason~Mutex) > 700ms", *steps) and fired("max(reason~Mutex) over 30s > 700ms", *steps)


def test_requests() -> None:
    one = step(0)
    one.calls = [Calls("net/http.serverHandler.ServeHTTP", durations([10 * MS] * 99 + [2 * S]), {0: SpanBucket()})]
    assert fired("max(request~ServeHTTP) > 1s", one) and not fired("p50(request~ServeHTTP) > 1s", one)
    assert fired("rate(request~ServeHTTP) over 1s > 99", one) and not fired("max(request~grpc) > 1ms", one)


def test_other_figures() -> None:
    one = step(0)
    one.pauses = [Pause("GC mark termination", 0, 7 * MS, 7)]
    one.losses = {Loss.STACK_UNREADABLE: 3, Loss.GOROUTINE_SET_FULL: 10}
    one.governor = GovernorReport(0.01, cost_ns=30 * MS)
    assert fired("stopped > 5ms", one) == ["stopped > 5ms (it is 7.00 ms)"] and not fired("stopped > 8ms", one)
    assert fired("losses > 2", one) and not fired("losses > 3", one)
    assert fired("overhead > 2.9%", one) == ["overhead > 2.9% (it is 3 %)"] and not fired("overhead > 3.1%", one)
    sched = Snapshot("", goroutines=Goroutines(1000, 4, 70, 920, 6))
    assert fired("goroutines > 999", one, sched=sched) and fired("goroutines(state=runnable) > 64", one, sched=sched)
    assert not fired("goroutines(state=runnable) > 70", one, sched=sched) and not fired("goroutines < 5", one)
    throttled = [(-10 * S, 0), (-9 * S, 0), (S, 3 * S)]
    assert fired("throttled > 29%", one, throttled=throttled) and not fired("throttled > 31%", one, throttled=throttled)
    assert not fired("throttled > 0%", one) and not fired("overhead > 0%", step(0))


def test_deadlocks() -> None:
    found = Deadlock(2, "goroutine 5 waits")
    assert fired("deadlock", step(0), deadlock=found) == ["deadlock (it is 2: goroutine 5 waits)"]
    assert fired("deadlock > 2", step(0), deadlock=found) == [] and fired("deadlock", step(0)) == []
    assert fired("deadlock and losses > 0", step(0), deadlock=found) == []


def test_growth_is_by_whole_minutes() -> None:
    growth = Growth()
    for second in range(0, 600, 10):  # it sinks for some seconds of each minute, and yet grows
        growth.add(second * S, 1000 + second - (200 if second % 60 == 30 else 0))
    assert growth.ns == 8 * 60 * S
    growth.add(600 * S, 1)
    growth.add(660 * S, 5000)
    assert growth.ns == 0


def test_for_and_cooldown() -> None:
    judge = Judge([parse("goroutines > 10 for 3s")], 20 * S)

    def at(second: int, number: int) -> bool:
        return bool(judge.judge(Now(second * S, [], [], Snapshot("", goroutines=Goroutines(total=number)))))

    assert [at(second, 11) for second in range(5)] == [False, False, False, True, False]
    assert [at(5, 9), at(6, 11), at(8, 11), at(9, 11)] == [False] * 4  # it began again, and is quiet
    assert not at(22, 11) and at(23, 11)
