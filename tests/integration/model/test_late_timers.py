"""Sleeps that end late: how much of them lies after the moment at which they were due to end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from attach import Attached
from gobuild import build
from summaries import at, count, total_ns
from workload import Workload

pytestmark = pytest.mark.bpf

MS = 1_000_000


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without -o gotrace writes into the current folder."""
    monkeypatch.chdir(tmp_path)


def start(*arguments: int, version: str = "1.27.3", variant: str = "stripped") -> Workload:
    return Workload(build("oversleep", version, variant), *map(str, arguments))


def sleeps(workload: Workload) -> tuple[int, int]:
    """How often it has slept, and how late it was in all."""
    word, times, late_ns = workload.read_line(60).split()
    assert word == "slept"
    return int(times), int(late_ns)


def late_ns(stacks: list[dict]) -> int:
    return sum(stack["late_ns"] for stack in stacks)


@pytest.mark.full("options0")
@pytest.mark.parametrize(("version", "variant", "options"), [
    ("1.23.9", "stripped", ()), ("1.27.3", "plain", ()), ("1.27.3", "stripped", ("--mode", "lean")), ("1.27.3", "stripped", ("--no-wakers",)),
])
def test_no_thread_is_free_to_run_timers(version: str, variant: str, options: tuple[str, ...]) -> None:
    """All Ps compute: timers run when one of them is preempted. What is late is what is longer than was asked for."""
    asked_ns = 2 * MS
    with start(4, 10, 10, asked_ns // 1000, version=version, variant=variant) as workload:
        with Attached(workload.pid, "-d", "0", "--json", *options) as trace:
            workload.send("go")
            times, own_ns = sleeps(workload)
            summary = trace.end_json()
    waits = at(summary, "main.nap", state="waiting")
    assert {stack["reason"] for stack in waits} == {"sleep"} and count(waits) == times
    found_ns, total = late_ns(waits), total_ns(waits)
    # A wait begins a little after the program has looked at the clock for when it is to end.
    assert 0 <= found_ns - (total - times * asked_ns) <= 0.05 * total
    queued_ns = total_ns(at(summary, "main.nap", state="runnable"))
    assert (queued_ns > 0) == (not options)
    assert 0.8 * own_ns <= found_ns + queued_ns <= own_ns
    assert found_ns >= 0.1 * total
    assert summary["totals"]["late_ns"] == late_ns(summary["stacks"]) >= found_ns
    assert all(0 <= stack["late_ns"] <= stack["total_ns"] for stack in summary["stacks"])
    assert not any(stack["late_ns"] for stack in summary["stacks"] if stack["reason"] != "sleep")


def test_a_stopped_process_runs_no_timers() -> None:
    """Sleeps of which the end passes while the process is stopped."""
    with start(0, 2, 1, 700_000) as workload:
        with Attached(workload.pid, "-d", "0", "--json") as trace:
            workload.send("go")
            time.sleep(0.1)
            os.kill(workload.pid, signal.SIGSTOP)
            time.sleep(1.5)
            os.kill(workload.pid, signal.SIGCONT)
            times, own_ns = sleeps(workload)
            summary = trace.end_json()
    waits = at(summary, "main.nap", state="waiting")
    assert times == count(waits) == 2
    assert 0.9 * own_ns <= late_ns(waits) <= own_ns


def test_sleeps_that_were_due_before_the_window() -> None:
    """All of them that lies in the window is late."""
    with start(0, 3, 1, 300_000) as workload:
        workload.send("go")
        time.sleep(0.1)
        os.kill(workload.pid, signal.SIGSTOP)
        time.sleep(1)
        with Attached(workload.pid, "-d", "0", "--json") as trace:
            time.sleep(0.5)
            os.kill(workload.pid, signal.SIGCONT)
            sleeps(workload)
            summary = trace.end_json()
    waits = at(summary, "main.nap", state="waiting")
    assert count(waits) == 3
    assert late_ns(waits) == total_ns(waits) > 3 * 400 * MS


def test_the_summary_says_so() -> None:
    with start(4, 10, 10, 1000) as workload:
        with Attached(workload.pid, "-d", "0") as trace:
            workload.send("go")
            sleeps(workload)
            out = trace.end()
    assert "of it after the timers were due" in out


def test_versions_that_do_not_keep_the_moment() -> None:
    with start(4, 5, 5, 1000, version="1.21.13") as workload:
        with Attached(workload.pid, "-d", "0", "--json") as trace:
            workload.send("go")
            times, _own_ns = sleeps(workload)
            summary = trace.end_json()
    assert count(at(summary, "main.nap", state="waiting")) == times
    assert late_ns(summary["stacks"]) == summary["totals"]["late_ns"] == 0
