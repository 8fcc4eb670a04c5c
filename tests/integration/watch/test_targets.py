"""Targets that are not plain: replaced executables, containers, several processes, programs that are not ours."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from attach import Attached, probes_of
from etcd import running_etcd
from gobuild import GO_VERSIONS, build
from summaries import OF_THREADS
from workload import Workload

from gotrace.common.vocabulary import CONTINUED

pytestmark = pytest.mark.bpf

IN_TRANSIT = "[its stack was being copied or switched]"


def trace_sleeps(workload: Workload, pid: int, tmp_path: Path) -> dict:
    with Attached(pid, "-d", "0", "--json", "-o", tmp_path / f"{pid}.gotrace") as trace:
        workload.send("go")
        workload.read_json(30)
        return trace.end_json()


def sleeps(summary: dict) -> int:
    return sum(
        stack["count"] for stack in summary["stacks"]
        if stack["reason"] == "sleep" and any(frame["name"] == "main.sleepOnce" for frame in stack["frames"])
    )


@pytest.mark.parametrize("what", ["deleted", "replaced"])
def test_an_executable_that_is_gone(tmp_path: Path, what: str) -> None:
    program = tmp_path / "program"
    shutil.copy(build("selftimed", "1.27.3", "stripped"), program)
    with Workload(program, "-scenarios", "sleep") as workload:
        program.unlink()
        if what == "replaced":
            shutil.copy(build("selftimed", "1.21.13", "stripped"), program)
        summary = trace_sleeps(workload, workload.pid, tmp_path)
    assert sleeps(summary) == 40
    assert summary["target"]["go_version"] == "go1.27.3"


def test_a_container(tmp_path: Path) -> None:
    """Own mount and PID namespaces, an executable that no path here leads to."""
    binary = build("selftimed", "1.27.3", "pie")
    inside = f"mount -t tmpfs none /mnt && cp {binary} /mnt/program && exec /mnt/program -scenarios sleep"
    with Workload("/usr/bin/unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", inside) as workload:
        child = int(Path(f"/proc/{workload.pid}/task/{workload.pid}/children").read_text().split()[0])
        assert not Path("/mnt/program").exists()
        summary = trace_sleeps(workload, child, tmp_path)
    assert sleeps(summary) == 40
    assert summary["target"]["exe"] == "/mnt/program"


def test_several_processes(tmp_path: Path) -> None:
    with Workload(build("selftimed", "1.27.3", "stripped"), "-scenarios", "sleep") as first:
        # The same executable twice and another: a probe in a shared file must not mix them up.
        with Workload(build("selftimed", "1.27.3", "stripped"), "-scenarios", "sleep,timer") as second:
            with Workload(build("selftimed", "1.19", "pie"), "-scenarios", "timer") as third:
                pids = [w.pid for w in (first, second, third)]
                with Attached(*pids, "-d", "0", "--json", "-o", tmp_path / "x.gotrace") as trace:
                    for workload in (first, second, third):
                        workload.send("go")
                    for workload in (first, second, third):
                        workload.read_json(30)
                    summary = trace.end_json()
    assert [target["pid"] for target in summary["targets"]] == pids
    counts = {}
    for stack in summary["stacks"]:
        for name in ("main.sleepOnce", "main.timerOnce"):
            if stack["state"] == "waiting" and any(frame["name"] == name for frame in stack["frames"]):
                counts[stack["pid"], name] = counts.get((stack["pid"], name), 0) + stack["count"]
    assert counts == {
        (pids[0], "main.sleepOnce"): 40, (pids[1], "main.sleepOnce"): 40, (pids[1], "main.timerOnce"): 40,
        (pids[2], "main.timerOnce"): 40,
    }


def test_already_parked_and_still_parked(tmp_path: Path) -> None:
    """The main goroutine waits for a line all the time: no probe ever sees it, its time is counted all the same."""
    with Workload(build("selftimed", "1.27.3", "stripped")) as workload:
        with Attached(workload.pid, "-d", "700ms", "--json", "-o", tmp_path / "x.gotrace") as trace:
            out, _ = trace.process.communicate(timeout=30)
    summary = json.loads(out)
    window = summary["window"]["duration_ns"]
    idle = [stack for stack in summary["stacks"] if stack["reason"] in ("force gc (idle)", "finalizer wait", "cleanup wait")]
    assert idle
    for stack in idle:
        assert (stack["count"], stack["in_progress"], stack["total_ns"], stack["goroutines"]) == (1, 1, window, 1)
        assert stack["frames"][-1]["name"] == "runtime.goexit"


@pytest.mark.full
def test_filters_and_single_intervals(tmp_path: Path) -> None:
    import sqlite3

    binary = build("selftimed", "1.27.3", "stripped")

    def run(*flags: str) -> dict:
        with Workload(binary, "-scenarios", "sleep,chan-receive,mutex") as workload:
            capture = tmp_path / "x.gotrace"
            with Attached(workload.pid, "-d", "0", "--json", "--force", "-o", capture, *flags) as trace:
                workload.send("go")
                workload.read_json(30)
                return trace.end_json()

    assert set(run("--reason", "sleep")["totals"]["by_reason"]) == {"sleep"}
    assert set(run("--state", "waiting")["totals"]["by_state"]) == {"waiting"}
    matched = run("--match", r"main\.receiveOnce")["stacks"]
    assert matched and all(any(f["name"] == "main.receiveOnce" for f in stack["frames"]) for stack in matched)
    long = run("--min-block", "4ms")["stacks"]
    began = [stack for stack in long if stack["reason"] not in CONTINUED]
    assert sum(s["count"] for s in began if any(f["name"] == "main.sleepOnce" for f in s["frames"])) == 40
    # Whole intervals are compared: their later parts are shorter, and take a little from the first.
    assert min(s["total_ns"] / s["count"] for s in began) >= 3_000_000
    apart = run("--per-goroutine")
    with sqlite3.connect(tmp_path / "x.gotrace") as db:
        rows = db.execute(
            "SELECT interval.goid, count(*), sum(duration_ns), min(start_ns) FROM interval"
            " JOIN stack ON stack.id = interval.stack WHERE stack.goid IS NOT interval.goid GROUP BY 1"
        ).fetchall()
        assert rows == []
        streamed, = db.execute("SELECT count(*) FROM interval").fetchone()
    closed = sum(stack["count"] for stack in apart["stacks"]) - sum(
        stack["in_progress"] for stack in apart["stacks"]
    )
    assert closed <= streamed <= closed + sum(stack["in_progress"] for stack in apart["stacks"])
    goid = next(
        int(g) for g, in sqlite3.connect(tmp_path / "x.gotrace").execute(
            "SELECT goid FROM stack WHERE reason = 'sync.Mutex.Lock' ORDER BY total_ns DESC"
        )
    )
    assert goid > 0


@pytest.mark.full
def test_sampling_is_unbiased(tmp_path: Path) -> None:
    """With a period far above the waits, most are left out; the weighted totals still agree with the exact ones."""
    binary = build("churn", "1.27.3", "stripped")
    with Workload(binary) as workload:
        totals = {}
        for name, flags in (("exact", ()), ("sampled", ("--sample-period", "20ms"))):
            with Attached(workload.pid, "-d", "4s", "--json", "-o", tmp_path / f"{name}.gotrace", *flags) as trace:
                out, errors = trace.process.communicate(timeout=180)
                assert trace.process.returncode == 0, errors
            summary = json.loads(out)
            stacks = [
                s for s in summary["stacks"] if s["reason"] == "sleep" and any(f["name"] == "main.sum" for f in s["frames"])
            ]
            totals[name] = (sum(s["total_ns"] for s in stacks) / summary["window"]["duration_ns"], summary["overhead"])
        code, _ = workload.finish()
        assert code == 0
    # Sleepers: 16 goroutines at most; the load is the program's own, so the two windows differ as well. The same window's truth is
    # what test_governor.py compares with.
    assert totals["sampled"][0] == pytest.approx(totals["exact"][0], rel=0.35)
    assert totals["sampled"][1]["traps_per_interval"] > 5 * totals["exact"][1]["traps_per_interval"]


@pytest.mark.full
def test_a_real_server(tmp_path: Path) -> None:
    """Debian's etcd under its own client's load."""
    with running_etcd(tmp_path) as etcd:
        with etcd.load(), Attached(etcd.pid, "-d", "5s", "--json", "-o", tmp_path / "etcd.gotrace") as trace:
            out, errors = trace.process.communicate(timeout=180)
            assert trace.process.returncode == 0, errors
        assert etcd.process.poll() is None
        assert etcd.ask("get", "k").stdout == "k\nv\n"
    summary = json.loads(out)
    assert summary["target"]["go_version"].startswith("go1.") and summary["target"]["stripped"]
    assert summary["totals"]["intervals"] > 1000
    assert {name: count for name, count in summary["losses"].items() if count and name not in OF_THREADS} == {}
    assert summary["losses"]["stack_in_transit"] < summary["totals"]["intervals"] // 100
    assert {"IO wait", "select", "chan receive"} <= set(summary["totals"]["by_reason"])
    lost = [s for s in summary["stacks"] if s["frames"][-1]["kind"] == "lost" and s["frames"][-1]["name"] != IN_TRANSIT]
    # A thread may stop in a function's first instructions, or in a write barrier (to Go 1.20): their callers are not to be found. It says so.
    assert all(s["state"] in ("runqueue", "syscall") for s in lost), lost
    unread = summary["losses"]["thread_stack_unreadable"]
    assert sum(s["count"] for s in lost if not s["reason"].startswith("thread woken")) <= unread
    assert unread < 0.01 * sum(summary["totals"]["by_state"][state]["count"] for state in ("runqueue", "syscall"))
    for stack in summary["stacks"]:
        assert stack in lost or stack["frames"][-1]["name"] in ("runtime.goexit", "runtime.mstart", IN_TRANSIT), stack
    names = {frame["name"] for stack in summary["stacks"] for frame in stack["frames"]}
    # Its raft loop, its gRPC transport and its backend: where an etcd under load is known to wait.
    assert any(".(*raftNode).start" in name for name in names)
    assert any("grpc/internal/transport.(*loopyWriter).run" in name for name in names)
    # An etcd spends its time in I/O waits and selects, not preempted.
    by_state = summary["totals"]["by_state"]
    assert by_state["waiting"]["total_ns"] > 0.9 * summary["totals"]["off_cpu_ns"]


def test_more_goroutines_than_are_read_before_the_probes_go(tmp_path: Path) -> None:
    number = 25_000
    with Workload(build("parked", GO_VERSIONS[-1], "stripped"), "-goroutines", str(number), "-places", "5") as workload:
        with Attached(workload.pid, "-d", "0", "--json", "-o", tmp_path / "x.gotrace") as trace:
            time.sleep(0.5)
            summary = trace.end_json()
        assert not probes_of(workload.pid)
    parked = [stack for stack in summary["stacks"] if any(frame["name"] == "main.wait" for frame in stack["frames"])]
    window = summary["window"]["duration_ns"]
    # One in a hundred wakes up now and then, the others wait all the time, at five depths.
    assert sum(stack["count"] for stack in parked) == sum(stack["in_progress"] for stack in parked) == number * 99 // 100
    assert sum(stack["total_ns"] for stack in parked) == window * (number * 99 // 100)
    assert len(parked) == 5 and summary["totals"]["goroutines"] >= number
    assert {name: count for name, count in summary["losses"].items() if count and name not in OF_THREADS} == {}
