"""First it hangs, then one attaches: goroutines that are blocked in the kernel, whether Go knows of that or not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attach import Attached
from gobuild import build
from summaries import at, count, names, total_ns
from workload import Workload

pytestmark = pytest.mark.bpf

VERSIONS = ("1.21.13", "1.27.3")
# The way in, and what it is a wait for.
KINDS = {"raw": ("main.readRaw", "read"), "fault": ("main.touch", "page fault"), "asked": ("main.readAsked", "read")}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without -o gotrace writes into the current folder."""
    monkeypatch.chdir(tmp_path)


def stuck(kind: str, version: str = "1.27.3", variant: str = "stripped") -> Workload:
    return Workload(build("stuck", version, variant), kind)


def begin(workload: Workload) -> None:
    workload.send("b")
    assert workload.read_line(20) == "begun"


def end(workload: Workload) -> int:
    workload.send("e")
    word, nanoseconds = workload.read_line(20).split()
    assert word == "took"
    return int(nanoseconds)


def runs_no_more_than_it_can(summary: dict) -> None:
    totals = summary["totals"]
    assert summary["losses"]["running_unknown"] == 0
    assert totals["running_ns"] <= 1.1 * totals["cpu_ns"] + 50_000_000


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_blocked_all_the_time(kind: str, version: str) -> None:
    """It waits since before the window and after it: one wait, as long as the window, with the kernel's frames and the goroutine's."""
    function, reason = KINDS[kind]
    with stuck(kind, version) as workload:
        begin(workload)
        with Attached(workload.pid, "-d", "1500ms", "--json") as trace:
            summary = trace.result_json()
        assert workload.running
        end(workload)
    [wait] = at(summary, function, state="syscall")
    window = summary["window"]["duration_ns"]
    assert (wait["reason"], wait["count"], wait["in_progress"], wait["goroutines"]) == (reason, 1, 1, 1)
    assert 0.97 * window <= wait["total_ns"] <= window
    assert wait["max_ns"] == wait["p50_ns"] or wait["max_ns"] >= 0.97 * window
    assert names(wait, "kernel")
    assert names(wait, "go", "runtime")[-1] == "runtime.goexit"
    runs_no_more_than_it_can(summary)
    assert summary["totals"]["running_ns"] < 500_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_pid_namespace_hides_is_told(kind: str) -> None:
    """gotrace beside the process in a PID namespace: the thread's number is not the kernel's."""
    inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", str(build("stuck", "1.27.3", "stripped")), kind]
    with Workload(*inside) as workload:
        begin(workload)
        child = Path(f"/proc/{workload.pid}/task/{workload.pid}/children").read_text().split()[0]
        found = subprocess.run(
            ["nsenter", "-t", child, "--pid", "--mount", sys.executable, "-m", "gotrace", "attach", "1", "-d", "1s", "--json"],
            capture_output=True, text=True, timeout=100, check=False,
        )
        assert found.returncode == 0, found.stderr
        end(workload)
    summary = json.loads(found.stdout)
    told = [missing for missing in summary["missing"] if missing["stage"] == "threads blocked before the window"]
    assert at(summary, KINDS[kind][0], state="syscall") or told
    assert "MISSING threads blocked before the window: gotrace runs in a PID namespace" in found.stderr
    # What is not told is right.
    assert summary["totals"]["running_ns"] is None or summary["totals"]["running_ns"] <= 1.1 * summary["totals"]["cpu_ns"] + 50_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_blocked_until_the_midst_of_the_window(kind: str) -> None:
    function, reason = KINDS[kind]
    with stuck(kind) as workload:
        begin(workload)
        with Attached(workload.pid, "-d", "0", "--json") as trace:
            time.sleep(1)
            end(workload)
            ended = time.monotonic()
            time.sleep(1)
            after = time.monotonic() - ended
            summary = trace.end_json()
    [wait] = [stack for stack in at(summary, function, state="syscall") if stack["reason"] == reason]
    assert wait["count"] == 1
    assert wait["in_progress"] or kind == "fault"  # the runtime may just have preempted it: then it faults again, within the window
    assert wait["total_ns"] <= summary["window"]["duration_ns"] - 0.9e9 * min(after, 1)
    assert wait["total_ns"] >= 0.9e9
    runs_no_more_than_it_can(summary)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_blocked_within_the_window_is_one_wait(kind: str, version: str) -> None:
    """However many signals the thread gets meanwhile: those of the runtime, which takes the goroutine for running, every 10 ms."""
    function, reason = KINDS[kind]
    with stuck(kind, version) as workload:
        with Attached(workload.pid, "-d", "0", "--json") as trace:
            time.sleep(0.2)
            begin(workload)
            time.sleep(1)
            took = end(workload)
            time.sleep(0.2)
            summary = trace.end_json()
    waits = [stack for stack in at(summary, function, state="syscall") if stack["reason"] == reason]
    assert count(waits) == 1, [(names(stack), stack["count"], stack["total_ns"]) for stack in waits]
    [wait] = waits
    assert abs(wait["total_ns"] - took) < 0.05 * took
    assert wait["max_ns"] == wait["total_ns"] and wait["p99_ns"] > 0.9 * wait["total_ns"]
    assert not wait["in_progress"]
    runs_no_more_than_it_can(summary)


@pytest.mark.parametrize("kind", KINDS)
def test_looks_from_without(kind: str, gotrace) -> None:
    """`--mode sample` and `dump` ask the threads as well."""
    function, reason = KINDS[kind]
    with stuck(kind) as workload:
        begin(workload)
        result = gotrace("attach", workload.pid, "-d", "1s", "--json", "-q", "--mode", "sample")
        for _ in range(5):  # it may just have been preempted, or moved while its thread was asked
            dumped = json.loads(gotrace("dump", workload.pid, "--json").stdout)
            blocked = [one for one in dumped["goroutines"] if any(frame["name"] == function for frame in one["frames"])]
            if any((one["state"], one["reason"]) == ("syscall", reason) for one in blocked):
                break
        end(workload)
    summary = json.loads(result.stdout)
    waits = at(summary, function, state="syscall")
    assert waits and {wait["reason"] for wait in waits} == {reason}
    # The runtime preempts who does not seem to come back, every 10 ms: a look may meet it there.
    assert count(waits) <= 5
    assert 0.7 * summary["window"]["duration_ns"] <= total_ns(waits) <= summary["window"]["duration_ns"]
    assert any(names(wait, "kernel") for wait in waits)
    runs_no_more_than_it_can(summary)
    [found] = blocked
    assert (found["state"], found["reason"]) == ("syscall", reason)
    assert found["frames"][-1]["name"] == "runtime.goexit"


@pytest.mark.parametrize("before", [True, False], ids=["before", "within"])
def test_stopped(before: bool) -> None:
    """A stop is no page fault: neither one that began before the window nor one within; and the waits that it lengthened say so."""
    with stuck("spin") as workload:
        begin(workload)
        if before:
            os.kill(workload.pid, signal.SIGSTOP)
        try:
            with Attached(workload.pid, "-d", "0", "--json") as trace:
                time.sleep(0.3)
                os.kill(workload.pid, signal.SIGSTOP)
                stopped = time.monotonic()
                time.sleep(1)
                os.kill(workload.pid, signal.SIGCONT)
                stopped = time.monotonic() - stopped
                time.sleep(0.3)
                summary = trace.end_json()
        finally:
            os.kill(workload.pid, signal.SIGCONT)
    assert not any(stack["reason"] == "page fault" for stack in summary["stacks"])
    waits = [stack for stack in at(summary, "main.spin") if stack["reason"] == "stopped"]
    assert count(waits) == 1
    length = total_ns(waits)
    assert 0.95e9 <= length <= (stopped + (1.0 if before else 0.1)) * 1e9
    assert sum(stack["in_progress"] for stack in waits) == before
    sleeps = [stack for stack in summary["stacks"] if stack["reason"] == "sleep" and "main.main.func" in " ".join(names(stack, "go"))]
    assert sleeps and all(stack["halted_ns"] <= stack["total_ns"] for stack in sleeps)
    assert sum(stack["halted_ns"] for stack in sleeps) > 0.8 * length
    runs_no_more_than_it_can(summary)
    assert summary["totals"]["running_ns"] < summary["window"]["duration_ns"] - 0.9e9


def test_stopped_throughout(gotrace) -> None:
    with stuck("spin") as workload:
        begin(workload)
        os.kill(workload.pid, signal.SIGSTOP)
        try:
            for mode in ("exact", "sample"):
                summary = json.loads(gotrace("attach", workload.pid, "-d", "500ms", "--json", "-q", "--mode", mode).stdout)
                [wait] = at(summary, "main.spin")
                assert (wait["state"], wait["reason"], wait["count"]) == ("syscall", "stopped", 1)
                assert summary["totals"]["running_ns"] < 10_000_000
                assert any("stopped" in note for note in summary["notes"])
            assert "syscall: stopped" in gotrace("dump", workload.pid).stdout
        finally:
            os.kill(workload.pid, signal.SIGCONT)


def test_min_block_sees_a_wait_that_signals_cut() -> None:
    """Each piece is shorter than the filter; the wait is not."""
    with stuck("raw") as workload:
        with Attached(workload.pid, "-d", "0", "--json", "--min-block", "100ms") as trace:
            begin(workload)
            time.sleep(0.5)
            took = end(workload)
            time.sleep(0.1)
            summary = trace.end_json()
    [wait] = at(summary, "main.readRaw", state="syscall")
    assert wait["count"] == 1 and abs(wait["total_ns"] - took) < 0.1 * took
