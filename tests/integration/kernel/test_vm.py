"""What must hold on every kernel, also on an emulated CPU that is 20 times slower: `scripts/vm test` runs these. Counts and
stacks are exact; times are only compared with the program's own clock, and generously."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest
from attach import Attached, probes_of
from gobuild import GO_VERSIONS, build
from kernelsymbols import NO_ARRIVALS, has_symbol, sees_arrivals
from requestload import traced_load
from summaries import OF_THREADS, at, count, names, total_ns
from workload import Workload

from gotrace.capture.reader import read_capture

pytestmark = [pytest.mark.bpf, pytest.mark.vm]

@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """(what the program says of itself, by scenario; what gotrace says of it)."""
    folder = tmp_path_factory.mktemp("vm")
    with Workload(build("stages", GO_VERSIONS[-1], "stripped"), undisturbed=True) as workload:
        with Attached(workload.pid, "-d", "0", "--json", "-o", folder / "stages.gotrace", "-o", folder / "stages.html") as trace:
            workload.send("go")
            own = {scenario["name"]: scenario for scenario in workload.read_json(120)}
            summary = trace.end_json()
        assert not probes_of(workload.pid)
        assert workload.finish()[0] == 0
    assert (folder / "stages.html").stat().st_size > 1000
    return own, summary


def agrees(stacks: list[dict], scenario: dict) -> bool:
    """The program's clock starts before the wait and ends after it: its own figure is the larger one, by much where the
    machine's CPUs are others'. That they agree closely is test_stages.py's and test_offcputime.py's business."""
    return 0.5 * scenario["total_ns"] <= total_ns(stacks) <= 1.01 * scenario["total_ns"]


def test_doctor_tells_the_truth(gotrace) -> None:
    result = gotrace("doctor", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    answer = json.loads(result.stdout)
    assert answer["attach_possible"] is True
    checks = {check["name"]: check for check in answer["checks"]}
    assert [check for check in checks.values() if check["needed"] and not check["ok"]] == []
    assert os.uname().release in checks["linux/amd64"]["why"]
    assert checks["kprobes"]["ok"] == has_symbol("register_kprobe")
    assert checks["BTF"]["ok"] == Path("/sys/kernel/btf/vmlinux").exists()


@pytest.mark.parametrize(
    ("scenario", "functions", "reason", "in_kernel", "boundary"),
    [
        ("pipe", ("main.pipeRead", "main.readPipe"), "read", "pipe_read", "→ pipe)"),
        ("nanosleep", ("main.sleepInKernel",), "nanosleep", "nanosleep", "nanosleep"),
    ],
)
def test_the_kernel_beneath_a_blocking_call(
    traced: tuple, scenario: str, functions: tuple, reason: str, in_kernel: str, boundary: str
) -> None:
    own, summary = traced
    stacks = at(summary, *functions, state="syscall")
    # A call that Go's preemption signal wakes goes to sleep again: now and then one blocks twice.
    assert own[scenario]["count"] <= count(stacks) + 1 and count(stacks) <= own[scenario]["count"] + 4
    for stack in stacks:
        assert stack["reason"] == reason
        kernel, (call,) = names(stack, "kernel"), names(stack, "syscall")
        assert any(in_kernel in name for name in kernel) and "do_syscall_64" in kernel
        assert call.startswith(reason) and call.endswith(boundary)
        kinds = [frame["kind"] for frame in stack["frames"]]
        assert kinds == sorted(kinds, key=lambda kind: {"kernel": 0, "syscall": 1}.get(kind, 2))
        assert names(stack)[-1] == "runtime.goexit"
    assert agrees(at(summary, *functions), own[scenario])


def test_a_call_that_outlasts_the_window(traced: tuple) -> None:
    _, summary = traced
    (stack,) = (s for s in at(summary, "main.readPipe", state="syscall") if "main.pipeRead" not in names(s))
    assert (stack["count"], stack["in_progress"], stack["reason"]) == (1, 1, "read")
    assert stack["total_ns"] == summary["window"]["duration_ns"]
    assert any("pipe_read" in name for name in names(stack, "kernel"))


def test_a_network_wait_names_its_peer(traced: tuple) -> None:
    own, summary = traced
    stacks = at(summary, "main.awaitReply")
    waiting = [stack for stack in stacks if stack["state"] == "waiting"]
    assert count(waiting) == own["network"]["count"]
    for stack in waiting:
        (boundary,) = names(stack, "syscall")
        assert boundary.startswith("netpoll(fd ")
        assert boundary.endswith(f"tcp {own['network']['local']}→{own['network']['peer']})")
    assert agrees(stacks, own["network"])


def test_the_kernel_had_the_data_before_the_netpoller(traced: tuple) -> None:
    own, summary = traced
    if not sees_arrivals():
        pytest.skip(NO_ARRIVALS)
    stacks = at(summary, "main.awaitReply", state="netpoll")
    # The socket is known from its first wait on.
    assert own["network"]["count"] - 1 <= count(stacks) <= own["network"]["count"]


@pytest.mark.parametrize(
    ("scenario", "waits", "waker"),
    [("channel", "main.awaitChannel", "main.wakeByChannel"), ("mutex", "main.awaitMutex", "main.wakeByUnlock")],
)
def test_a_wait_names_its_waker(traced: tuple, scenario: str, waits: str, waker: str) -> None:
    own, summary = traced
    stacks = at(summary, waits)
    waiting = [stack for stack in stacks if stack["state"] == "waiting"]
    assert count(waiting) == own[scenario]["count"]
    assert count([stack for stack in waiting if waker in names(stack, "waker")]) == own[scenario]["count"]
    assert agrees(stacks, own[scenario])


# (the program's own functions, leaf first; state; reason; what the boundary names; the waker's own first function): how often.
ON_EVERY_KERNEL = {
    (("main.awaitChannel", "main.channel", "main.main"), "waiting", "chan receive", None, "main.wakeByChannel"): 40,
    (("main.awaitMutex", "main.mutex", "main.main"), "waiting", "sync.Mutex.Lock", None, "main.wakeByUnlock"): 40,
    (("main.awaitReply", "main.network", "main.main"), "waiting", "IO wait", "netpoll", None): 40,
    (("main.awaitReply", "main.network", "main.main"), "netpoll", "netpoll", "netpoll", None): 40,
    (("main.awaitUnixReply", "main.unixSocket", "main.main"), "waiting", "IO wait", "netpoll", None): 40,
    (("main.awaitUnixReply", "main.unixSocket", "main.main"), "netpoll", "netpoll", "netpoll", None): 40,
    (("main.awaitFirstReply", "main.firstWaits", "main.main"), "waiting", "IO wait", "netpoll", None): 20,
    (("main.awaitFirstReply", "main.firstWaits", "main.main"), "netpoll", "netpoll", "netpoll", None): 20,
    (("main.awaitOnStarvedPoller", "main.starvedPoller", "main.main"), "waiting", "IO wait", "netpoll", None): 20,
    (("main.awaitOnStarvedPoller", "main.starvedPoller", "main.main"), "netpoll", "netpoll", "netpoll", None): 20,
    (("main.awaitForever",), "waiting", "IO wait", "netpoll", None): 1,
    (("main.readPipe", "main.pipeRead", "main.main"), "syscall", "read", "read", None): 40,
    (("main.readPipe",), "syscall", "read", "read", None): 1,
    (("main.sleepInKernel", "main.nanosleep", "main.main"), "syscall", "nanosleep", "nanosleep", None): 40,
    (("main.sleepLocked", "main.locked.func1"), "waiting", "sleep", None, None): 40,
}


def test_the_profile_is_the_same_on_every_kernel(traced: tuple) -> None:
    """This kernel's tracepoints, another's kprobes: one and the same table."""
    _, summary = traced
    # Where the kernel can't tell when data came, that state alone is missing.
    expected = {row: times for row, times in ON_EVERY_KERNEL.items() if row[1] != "netpoll" or sees_arrivals()}
    found: Counter[tuple] = Counter()
    leaves = {chain[0] for chain, *_ in ON_EVERY_KERNEL}
    for stack in summary["stacks"]:
        chain = tuple(name for name in names(stack, "go") if name.startswith("main."))
        if leaves & set(chain[:1]) and stack["state"] in ("waiting", "netpoll", "syscall"):
            call = [name.partition("(")[0] for name in names(stack, "syscall")]
            waker = [name for name in names(stack, "waker") if name.startswith("main.")]
            if call in (["page fault"], ["futex"]):
                continue  # memory that the kernel had to find first, a lock of the runtime: not the program's doing
            found[chain, stack["state"], stack["reason"], call[0] if call else None, waker[-1] if waker else None] += stack["count"]
    assert found.keys() == expected.keys(), (found.keys() - expected.keys(), expected.keys() - found.keys())
    for row, times in expected.items():
        # A call that Go's preemption signal wakes goes to sleep again, one that is woken before its thread has left the CPU has
        # not slept; the arrival for a socket's first wait may come before the socket is known.
        fewer, more = (1, 4) if row[1] == "syscall" else (1, 0) if row[1] == "netpoll" else (0, 0)
        assert times - fewer <= found[row] <= times + more, (row, found[row])


def test_nothing_is_lost(traced: tuple) -> None:
    _, summary = traced
    assert {name: number for name, number in summary["losses"].items() if number and name not in OF_THREADS} == {}


def test_requests_and_their_causes(tmp_path: Path) -> None:
    traced = traced_load(build("requests", GO_VERSIONS[-1], "stripped"), tmp_path, "sleep:10:20,worker:20:20,panic:5:4")
    span = traced.span()
    assert span["count"] == len(traced.account.requests) == 44 and span["in_progress"] == 0
    for band in span["bands"]:
        assert band["cpu_ns"] + sum(band["by_state"].values()) == pytest.approx(band["total_ns"], rel=0.01, abs=1000)
    causes = {cause["cause"] for band in span["bands"] for cause in band["causes"]}
    assert any(text.startswith("sleep in main.worker, in goroutine main.worker, waited for by chan receive") for text in causes), causes


def test_the_target_s_exit_ends_the_trace(tmp_path: Path) -> None:
    capture = tmp_path / "x.gotrace"
    with Workload(build("selftimed", GO_VERSIONS[-1], "stripped"), "-scenarios", "sleep") as workload:
        with Attached(workload.pid, "-d", "0", "-o", capture) as trace:
            workload.send("go")
            workload.read_json(120)
            workload.finish()
            assert trace.process.wait(120) == 0
    profile = read_capture(capture)
    assert profile.complete
    sleeps = [stack for stack in profile.stacks if stack.reason == "sleep" and any(f.name == "main.sleepOnce" for f in stack.frames)]
    assert sum(stack.distribution.count for stack in sleeps) == 40


def test_exec_ends_the_trace(tmp_path: Path) -> None:
    capture = tmp_path / "x.gotrace"
    with Workload(build("execer", GO_VERSIONS[-1], "stripped")) as workload:
        with Attached(workload.pid, "-d", "0", "-o", capture) as trace:
            workload.send("exec")
            assert trace.process.wait(120) == 0
        assert read_capture(capture).complete
        # The new program is the same executable: probes left in the file would be hit there.
        assert workload.read_line(60).startswith("ready again")
        assert not probes_of(workload.pid)


def test_the_clock_is_stepped(tmp_path: Path) -> None:
    """CLOCK_REALTIME goes forward and backward by an hour while waits are timed: no duration is of that clock."""
    if not os.path.ismount("/run/gotrace-vm"):
        pytest.skip("the clock is that of the whole machine (remedy: sudo ./scripts/vm test)")
    capture, truth = tmp_path / "x.gotrace", time.time_ns() - time.monotonic_ns()
    with Workload(build("selftimed", GO_VERSIONS[-1], "stripped"), "-scenarios", "sleep") as workload:
        try:
            with Attached(workload.pid, "-d", "0", "--json", "-o", capture) as trace:
                began = time.monotonic_ns()
                workload.send("go")
                for hours in (1, -1, 0):
                    time.clock_settime_ns(time.CLOCK_REALTIME, truth + time.monotonic_ns() + hours * 3600 * 10**9)
                    time.sleep(0.3)
                own, = workload.read_json(120)
                time.clock_settime_ns(time.CLOCK_REALTIME, truth + time.monotonic_ns() - 3600 * 10**9)
                summary = json.loads(trace.end(timeout=240))
                took = time.monotonic_ns() - began
        finally:
            time.clock_settime_ns(time.CLOCK_REALTIME, truth + time.monotonic_ns())
        assert not probes_of(workload.pid)
        assert workload.finish()[0] == 0
    # The window was open a little before `began`.
    assert own["total_ns"] <= summary["window"]["duration_ns"] <= took + 60 * 10**9
    sleeps = at(summary, "main.sleepOnce", state="waiting")
    assert count(sleeps) == own["count"] == 40
    assert 0 < total_ns(sleeps) <= 1.01 * own["total_ns"]
    profile = read_capture(capture)
    assert profile.complete
    assert all(0 <= stack.distribution.max_ns <= profile.window.duration_ns for stack in profile.stacks)
    assert abs(datetime.fromisoformat(profile.window.start).timestamp() * 10**9 - truth - began) < 3600 * 10**9 // 2
