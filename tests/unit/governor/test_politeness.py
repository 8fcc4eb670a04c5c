"""Gotrace stands back behind the target as long as it is on time all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from gotrace.governor.niceness import Niceness
from gotrace.proc.priority import SamplePriority


class Clock:
    def __init__(self) -> None:
        self.now = time.monotonic()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("gotrace.watch.backoff.time.monotonic", lambda: found.now)
    return found


@pytest.fixture
def politeness() -> Iterator[Niceness]:
    usual = niceness()
    found = Niceness()
    found.stand_back()
    if niceness() != 19:
        pytest.skip("the way back from a niceness is barred here: run it as root, or with CAP_SYS_NICE")
    found.end()
    yield found
    found.end()
    assert niceness() == usual


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def test_it_stands_back_and_returns(politeness: Niceness) -> None:
    usual = niceness()
    politeness.stand_back()
    assert niceness() == 19
    politeness.end()
    assert niceness() == usual


def test_who_comes_late_pauses_longer_each_time(politeness: Niceness, clock: Clock) -> None:
    for pause_s in (2, 4, 8, 16, 32, 60, 60):
        politeness.stand_back()
        assert niceness() == 19
        politeness.came_late()
        clock.now += pause_s - 0.01
        politeness.stand_back()
        assert niceness() != 19
        clock.now += 0.02
    politeness.stand_back()
    clock.now += 61  # it was on time for long
    politeness.came_late()
    clock.now += 1.01
    politeness.stand_back()
    assert niceness() == 19


def test_the_priority_of_looks_leaves_it_as_it_is(politeness: Niceness) -> None:
    politeness.stand_back()
    promptness = SamplePriority()
    promptness.take()
    promptness.give_back()
    assert niceness() == 19


def test_late_without_standing_back_is_not_its_doing(politeness: Niceness) -> None:
    politeness.came_late()
    politeness.stand_back()
    assert niceness() == 19


def niceness_after(preparation: str) -> int:
    code = f"import os, resource; {preparation}; from gotrace.governor.niceness import Niceness as P; P().stand_back(); print(os.getpriority(0, 0))"
    return int(subprocess.check_output([sys.executable, "-c", code], text=True))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody: run it with sudo")
def test_who_can_t_return_does_not_go() -> None:
    barred = "resource.setrlimit(resource.RLIMIT_NICE, (0, 0)); os.setuid(65534)"
    assert niceness_after(barred) == niceness()
    assert niceness_after("os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))") == niceness()
