"""What lies below and behind a wait: kernel stacks, files and sockets, wakers, the wait for a P and for a CPU, on a program
that knows the answers; and the books: a goroutine's time is running, or in some state, and nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from attach import Attached
from gobuild import GO_VERSIONS, build
from workload import Workload

from gotrace.session import AttachOptions, Session

pytestmark = pytest.mark.bpf

BUILDS = [(version, "stripped") for version in GO_VERSIONS] + [(GO_VERSIONS[0], "cgo"), (GO_VERSIONS[-1], "cgo"), (GO_VERSIONS[-1], "pie")]


# A thread is stopped anywhere, also where its goroutine's stack can't be read: counted.
OF_THREADS = ("stack_in_transit", "thread_stack_unreadable")


def run_delay_ns(pid: int) -> int:
    """How long the threads have waited for a CPU, as the kernel's scheduler accounts it (Documentation/scheduler)."""
    files = (task / "schedstat" for task in Path(f"/proc/{pid}/task").iterdir())
    return sum(int(file.read_text().split()[1]) for file in files if file.exists())


@pytest.fixture(scope="module", params=BUILDS, ids=lambda p: f"go{p[0]}-{p[1]}")
def traced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict, int]:
    """(what the program says of itself, by scenario; what gotrace says of it; its threads' waits for a CPU)."""
    folder = tmp_path_factory.mktemp("stages")
    with Workload(build("stages", *request.param), undisturbed=True) as workload:
        before = run_delay_ns(workload.pid)
        with Attached(workload.pid, "-d", "0", "--json", "-o", folder / "stages.gotrace") as trace:
            workload.send("go")
            own = {scenario["name"]: scenario for scenario in workload.read_json(60)}
            delay = run_delay_ns(workload.pid) - before
            summary = trace.end_json()
        assert workload.finish()[0] == 0
    return own, summary, delay


def names(stack: dict, *kinds: str) -> list[str]:
    return [frame["name"] for frame in stack["frames"] if not kinds or frame["kind"] in kinds]


def at(summary: dict, *functions: str, state: str = "") -> list[dict]:
    """The stacks that have all of `functions` among the goroutine's own frames."""
    return [
        stack for stack in summary["stacks"]
        if set(functions) <= set(names(stack, "go", "runtime")) and (not state or stack["state"] == state)
    ]


def total_ns(stacks: list[dict]) -> int:
    return sum(stack["total_ns"] for stack in stacks)


def count(stacks: list[dict]) -> int:
    return sum(stack["count"] for stack in stacks)


@pytest.mark.parametrize(
    ("scenario", "functions", "reason", "in_kernel", "boundary"),
    [
        ("pipe", ("main.pipeRead", "main.readPipe"), "read", "pipe_read", "→ pipe)"),
        ("nanosleep", ("main.sleepInKernel",), "nanosleep", "nanosleep", "nanosleep"),
    ],
)
def test_a_blocking_system_call_shows_the_kernel_beneath(
    traced: tuple, scenario: str, functions: tuple, reason: str, in_kernel: str, boundary: str
) -> None:
    own, summary, _ = traced
    stacks = at(summary, *functions, state="syscall")
    assert {stack["reason"] for stack in stacks} == {reason}
    # A call that Go's preemption signal wakes goes to sleep again: now and then one blocks twice.
    # And one in a thousand was seen to be missing here: not understood, its time is then allowed for below.
    missing = max(0, own[scenario]["count"] - count(stacks))
    assert missing <= 1 and count(stacks) <= own[scenario]["count"] + 4
    for stack in stacks:
        kernel, (call,) = names(stack, "kernel"), names(stack, "syscall")
        assert any(in_kernel in name for name in kernel) and "do_syscall_64" in kernel
        assert call.startswith(reason) and call.endswith(boundary)
        # Leaf to root: the kernel, the boundary, the goroutine.
        kinds = [frame["kind"] for frame in stack["frames"]]
        assert kinds == sorted(kinds, key=lambda kind: {"kernel": 0, "syscall": 1}.get(kind, 2))
        assert names(stack)[-1] == "runtime.goexit"
    # The program's clock starts before the call and ends when it is back on a P and a CPU.
    spent = total_ns(at(summary, *functions))
    allowed = 0.01 + missing / own[scenario]["count"]
    assert abs(spent - own[scenario]["total_ns"]) <= allowed * own[scenario]["total_ns"]


def test_a_system_call_that_outlasts_the_window(traced: tuple) -> None:
    _, summary, _ = traced
    forever = [stack for stack in at(summary, "main.readPipe", state="syscall") if "main.pipeRead" not in names(stack)]
    (stack,) = forever
    assert (stack["count"], stack["in_progress"], stack["reason"]) == (1, 1, "read")
    assert stack["total_ns"] == summary["window"]["duration_ns"]
    assert names(stack, "syscall")[0].endswith("→ pipe)")
    assert any("pipe_read" in name for name in names(stack, "kernel"))


def test_a_network_wait_names_its_peer_and_its_stages(traced: tuple) -> None:
    own, summary, _ = traced
    scenario = own["network"]
    stacks = at(summary, "main.awaitReply")
    waiting = [stack for stack in stacks if stack["state"] == "waiting"]
    assert count(waiting) == scenario["count"]
    for stack in waiting:
        (boundary,) = names(stack, "syscall")
        assert boundary.startswith("netpoll(fd ") and boundary.endswith(f"tcp {scenario['local']}→{scenario['peer']})")
    assert abs(total_ns(stacks) - scenario["total_ns"]) <= 0.01 * scenario["total_ns"]
    # The socket is known from its first wait on.
    assert count([stack for stack in stacks if stack["state"] == "netpoll"]) >= scenario["count"] - 1
    assert count([stack for stack in stacks if stack["state"] == "runnable"]) >= scenario["count"] - 1


@pytest.mark.parametrize(
    ("scenario", "waits", "waker"),
    [("channel", "main.awaitChannel", "main.wakeByChannel"), ("mutex", "main.awaitMutex", "main.wakeByUnlock")],
)
def test_a_wait_names_its_waker(traced: tuple, scenario: str, waits: str, waker: str) -> None:
    own, summary, _ = traced
    stacks = at(summary, waits)
    waiting = [stack for stack in stacks if stack["state"] == "waiting"]
    assert count(waiting) == own[scenario]["count"]
    assert count([stack for stack in waiting if waker in names(stack, "waker")]) == own[scenario]["count"]
    for stack in waiting:
        # The waker's stack stands on its head, above the wait: leaf first, its root comes first.
        assert names(stack)[0] == "runtime.goexit" and stack["frames"][0]["kind"] == "waker"
    assert abs(total_ns(stacks) - own[scenario]["total_ns"]) <= 0.01 * own[scenario]["total_ns"]


def test_a_sleeper_is_woken_by_its_timer(traced: tuple) -> None:
    _, summary, _ = traced
    sleeping = at(summary, "time.Sleep", "main.channel.func1", state="waiting")
    assert sleeping
    for stack in sleeping:
        assert any("timer" in name.lower() for name in names(stack, "waker")), names(stack)


def test_more_goroutines_than_ps_wait_for_a_p(traced: tuple) -> None:
    own, summary, _ = traced
    goroutines, length = own["starved"]["count"], own["starved"]["total_ns"]
    waited = total_ns(at(summary, "main.starvedBurner", state="preempted") + at(summary, "main.starvedBurner", state="runnable"))
    # One runs, the others wait; the wait for their first turn is before they exist for us: at most a slice for each.
    expected = (goroutines - 1) * length
    assert 0.7 * expected <= waited <= 1.01 * expected


def test_more_ps_than_cpus_wait_for_a_cpu(traced: tuple) -> None:
    own, summary, delay = traced
    waited = total_ns([stack for stack in summary["stacks"] if stack["state"] == "runqueue"])
    # The kernel also counts threads without a goroutine: idle ones that are woken, the scheduler's own.
    assert 0.85 * delay <= waited <= 1.01 * delay
    if os.cpu_count() < own["crowded"]["count"]:
        crowded = total_ns(at(summary, "main.crowdedBurner", state="runqueue"))
        assert crowded > 0.5 * own["crowded"]["total_ns"] * (own["crowded"]["count"] - os.cpu_count())


def test_nothing_is_lost(traced: tuple) -> None:
    _, summary, _ = traced
    assert {name: number for name, number in summary["losses"].items() if number and name not in OF_THREADS} == {}


def test_stages_can_be_left_out(tmp_path: Path) -> None:
    with Workload(build("stages", GO_VERSIONS[-1], "stripped")) as workload:
        with Attached(workload.pid, "-d", "0", "--json", "--no-kernel", "--no-wakers", "-o", tmp_path / "x.gotrace") as trace:
            workload.send("go")
            workload.read_json(60)
            summary = trace.end_json()
    assert {stack["state"] for stack in summary["stacks"]} <= {"waiting", "preempted", "runnable"}
    assert {frame["kind"] for stack in summary["stacks"] for frame in stack["frames"]} <= {"go", "runtime"}
    assert summary["totals"]["running_ns"] is None


@pytest.mark.parametrize(("name", "version"), [("churn", GO_VERSIONS[0]), ("churn", GO_VERSIONS[-1]), ("service", GO_VERSIONS[-1])])
def test_the_books_balance(name: str, version: str) -> None:
    with Workload(build(name, version, "stripped")) as workload:
        time.sleep(0.3)
        with Session(AttachOptions((workload.pid,), duration_ns=1_500_000_000, outputs=())) as session:
            session.prepare()
            profile = session.run()
            process = session.processes[0]
    window = process.end_ns - process.start_ns
    whole = [account for account in process.accounts if not account.born]
    assert len(whole) >= 8
    off = [account for account in whole if abs(account.run_ns + account.off_ns - window) > window // 1000]
    # Known and not understood: where both CPUs are saturated and threads lose them in the midst of our programs, now and
    # then one goroutine's books are off by up to a time slice.
    allowed = 1 if name == "churn" else 0
    assert len(off) <= allowed, (window, off, {loss: count for loss, count in profile.losses.items() if count})
    assert all(abs(account.run_ns + account.off_ns - window) <= window // 100 for account in off)
    # The rest of the process's CPU time is the runtime's own; reading the two clocks takes some microseconds.
    assert 0 < profile.running_ns <= profile.cpu_ns * 1.001
