"""The priority that looks have, and that nothing else keeps it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gotrace.proc.priority import LONGEST_NS, SamplePriority


def policy() -> int:
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK


@pytest.fixture
def promptness() -> SamplePriority:
    found = SamplePriority()
    if not found.allowed():
        pytest.skip("no real-time priority may be taken here: run it as root, or with CAP_SYS_NICE")
    return found


def test_it_is_taken_and_given_back(promptness: SamplePriority) -> None:
    assert policy() == os.SCHED_OTHER
    promptness.take()
    try:
        assert policy() == os.SCHED_FIFO and os.sched_getparam(0).sched_priority == 1
        asked = "import os; print(os.sched_getscheduler(0))"
        assert int(subprocess.check_output([sys.executable, "-c", asked])) == os.SCHED_OTHER
    finally:
        promptness.give_back()
    assert policy() == os.SCHED_OTHER


def test_a_look_that_takes_long_gives_it_back(promptness: SamplePriority, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000
    monkeypatch.setattr("gotrace.proc.priority.time.monotonic_ns", lambda: now)
    promptness.take()
    try:
        promptness.begin()
        now += LONGEST_NS
        promptness.check()
        assert policy() == os.SCHED_FIFO
        now += 1
        promptness.check()
        assert policy() == os.SCHED_OTHER
    finally:
        promptness.give_back()


def asked_as(preparation: str) -> list[str]:
    code = f"import os, resource; {preparation}; from gotrace.proc.priority import SamplePriority as P; p = P(); print(p.allowed(), os.sched_getscheduler(0) & 0xFF)"
    return subprocess.check_output([sys.executable, "-c", code], text=True).split()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody: run it with sudo")
def test_who_may_not_have_it_goes_on_without() -> None:
    nobody = "resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0)); os.setresuid(65534, 65534, 65534)"
    # gotrace is imported only then: the checkout may be out of nobody's sight.
    assert asked_as(f"from gotrace.proc import priority as promptness; {nobody}") == ["False", "0"]


def test_another_policy_is_kept(promptness: SamplePriority) -> None:
    batch = "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))"
    assert asked_as(batch) == ["True", str(os.SCHED_BATCH)]
    idle = "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))"
    assert asked_as(idle) == ["False", str(os.SCHED_IDLE)]
