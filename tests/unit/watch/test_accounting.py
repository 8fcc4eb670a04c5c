"""For how long goroutines can have run."""

from __future__ import annotations

import os
import time

import pytest

from gotrace.common.vocabulary import Loss
from gotrace.proc.machine import stolen_ns
from gotrace.watch import accounting


def busy(s: float) -> None:
    until = time.thread_time() + s
    while time.thread_time() < until:
        pass


@pytest.mark.parametrize(("stolen", "possible"), [(0, False), (200_000_000, False), (400_000_000, True)])
def test_what_a_hypervisor_takes_is_in_running_time_and_not_in_cpu_time(
    monkeypatch: pytest.MonkeyPatch, stolen: int, possible: bool
) -> None:
    """The hypervisor is played; the CPU time is this process's own."""
    told = iter([7_000_000_000, 7_000_000_000 + stolen])
    monkeypatch.setattr(accounting, "stolen_ns", lambda: next(told))
    losses: dict[Loss, int] = {}
    running = accounting.RunningTime(os.getpid(), losses)
    running.cpu.begin()
    busy(0.05)
    running.end()
    running.end()  # asked once only
    used = running.cpu.used_ns()
    running.settle(used + 400_000_000)
    assert running.running_ns == (used + 400_000_000 if possible else None)
    assert losses == ({} if possible else {Loss.RUNNING_UNKNOWN: 1})


def test_stolen_time_is_the_kernel_s_figure() -> None:
    before = stolen_ns()
    with open("/proc/stat") as file:
        told = int(file.readline().split()[8])
    assert before <= told * 1_000_000_000 // os.sysconf("SC_CLK_TCK") <= stolen_ns()
