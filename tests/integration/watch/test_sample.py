"""Real traces with --mode sample: totals within their stated margins, stacks those of exact, nothing in the target's code."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attach import Attached, probes_of
from gobuild import GO_VERSIONS, build, build_text
from selftimed import rest_of, stacks_at
from workload import Workload

from gotrace.capture.reader import read_capture
from gotrace.common.vocabulary import FrameKind, Loss, State

pytestmark = pytest.mark.bpf

VERSIONS = (GO_VERSIONS[0], GO_VERSIONS[-1])
QUIET = (
    "sleep", "chan-receive", "chan-send", "select", "mutex", "rwmutex-read", "rwmutex-write", "cond", "waitgroup", "semaphore",
    "net-read", "pipe-read", "timer", "locked-thread", "coroutine",
)
OWN = ("go", "runtime", "lost")


def waited(summary: dict, own: dict) -> tuple[int, float, int]:
    """(total, margin, distinct waits seen) of a scenario."""
    stacks, rest = stacks_at(summary, own), rest_of(summary, own)
    margin = sum(stack["margin_ns"] ** 2 for stack in stacks + rest) ** 0.5
    return sum(stack["total_ns"] for stack in stacks + rest), margin, sum(stack["count"] for stack in stacks)


@pytest.mark.parametrize("version", VERSIONS)
def test_totals_are_within_their_margin_of_the_program_s_clock(version: str, tmp_path: Path) -> None:
    with Workload(build("selftimed", version, "stripped"), "-rounds", "300", "-scenarios", ",".join(QUIET), undisturbed=True) as workload:
        with Attached(workload.pid, "-d", "0", "--json", "-o", tmp_path / "sample.gotrace", "--mode", "sample", "--sample-rate", "100") as trace:
            workload.send("go")
            scenarios = workload.read_json(60)
            summary = trace.end_json()
    assert summary["window"]["mode"] == "sample" and summary["window"]["samples"] > 10
    assert summary["overhead"]["hits"] == 0
    outside = {}
    for own in scenarios:
        total, margin, count = waited(summary, own)
        assert 0 < count <= own["count"] + 1, own["name"]
        if abs(total - own["total_ns"]) > margin:
            outside[own["name"]] = (own["total_ns"], total, margin)
    # 95 % of them are to be inside.
    assert len(outside) <= 2, outside


@pytest.mark.parametrize("version", VERSIONS)
def test_exact_and_sample_agree_on_the_same_run(version: str, tmp_path: Path) -> None:
    with Workload(build("selftimed", version, "stripped"), "-rounds", "300", "-scenarios", ",".join(QUIET), undisturbed=True) as workload:
        with Attached(workload.pid, "-d", "0", "--json", "-o", tmp_path / "exact.gotrace", "--no-kernel", "--no-wakers") as exact:
            with Attached(workload.pid, "-d", "0", "--json", "-o", tmp_path / "sample.gotrace", "--mode", "sample", "--sample-rate", "100") as sample:
                workload.send("go")
                scenarios = workload.read_json(60)
                looks = sample.end_json()
            events = exact.end_json()
    outside = {}
    for own in scenarios:
        total, margin, _ = waited(looks, own)
        truth = sum(stack["total_ns"] for stack in stacks_at(events, own) + rest_of(events, own))
        if abs(total - truth) > margin:
            outside[own["name"]] = (truth, total, margin)
    assert len(outside) <= 2, outside


@pytest.fixture
def two_cpus() -> Iterator[None]:
    """For this thread and what it starts."""
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(usual)[:2])
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)


@pytest.mark.full
def test_who_keeps_the_cpus_from_us_is_seen_as_often_as_the_rest(tmp_path: Path, two_cpus: None) -> None:
    """All CPUs are busy while one goroutine burns two milliseconds of five: looks that wait for a CPU would find it asleep."""
    with Workload(build("paced", GO_VERSIONS[-1], "stripped")) as workload:
        with Attached(workload.pid, "-d", "0", "--json", "-o", tmp_path / "sample.gotrace", "--mode", "sample", "--sample-rate", "200") as trace:
            workload.send("from here")
            workload.read_json(10)
            time.sleep(8)
            workload.send("to here")
            own = workload.read_json(10)
            summary = trace.end_json()
    window_ns = summary["window"]["duration_ns"]
    stacks = [stack for stack in summary["stacks"] if any(frame["name"] == "main.pace" for frame in stack["frames"])]
    off = sum(stack["total_ns"] for stack in stacks) / window_ns - own["slept_ns"] / own["wall_ns"]
    margin = sum(stack["margin_ns"] ** 2 for stack in stacks) ** 0.5 / window_ns
    # Looks without priority: off by 0.03 to 0.07, one of ten late. With it, some 0.013 with a deviation of 0.012.
    assert abs(off) < 2 * margin < 0.1
    assert summary["losses"]["look_late"] < 0.03 * summary["window"]["samples"]


def parked(summary: dict) -> dict:
    """Goroutines by state, reason and their own frames."""
    found: dict = {}
    for stack in summary["stacks"]:
        frames = tuple((f["name"], f["file"], f["line"], f["inlined"]) for f in stack["frames"] if f["kind"] in OWN)
        key = (stack["state"], stack["reason"], frames)
        found[key] = found.get(key, 0) + stack["goroutines"]
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_stacks_of_parked_goroutines_are_those_of_exact(gotrace: Callable, version: str, tmp_path: Path) -> None:
    with Workload(build("states", version, "stripped")) as workload:
        summaries = []
        for mode in ("exact", "sample"):
            done = gotrace("attach", workload.pid, "-d", "500ms", "--mode", mode, "--json", "-q", "-o", tmp_path / f"{mode}.gotrace")
            assert done.returncode == 0, done.stderr
            summaries.append(json.loads(done.stdout))
    exact, sample = map(parked, summaries)
    assert sample == exact
    assert len(sample) >= 18
    assert {stack["margin_ns"] for stack in summaries[1]["stacks"]} == {0}
    assert {stack["margin_ns"] for stack in summaries[0]["stacks"]} == {None}
    assert all(stack["total_ns"] == summaries[1]["window"]["duration_ns"] * stack["count"] for stack in summaries[1]["stacks"])


def test_nothing_is_placed_in_the_process(tmp_path: Path) -> None:
    with Workload(build("states", GO_VERSIONS[-1], "stripped")) as workload:
        with Attached(workload.pid, "-d", "0", "--json", "-o", tmp_path / "sample.gotrace", "--mode", "sample") as trace:
            assert not probes_of(workload.pid)
            trace.end()
        with Attached(workload.pid, "-d", "0", "--json", "-o", tmp_path / "exact.gotrace") as trace:
            assert probes_of(workload.pid)  # the question can be answered with yes
            trace.end()


@pytest.mark.full("1.27.3")
@pytest.mark.parametrize("version", VERSIONS)
def test_stacks_that_move_all_the_time_are_whole_or_counted_as_torn(version: str, tmp_path: Path) -> None:
    capture = tmp_path / "churn.gotrace"
    with Workload(build("churn", version, "stripped")) as workload:
        with Attached(workload.pid, "-d", "0", "--mode", "sample", "--sample-rate", "100", "-o", capture, "--per-goroutine") as trace:
            time.sleep(2)
            trace.end()
        code, said = workload.finish()
        assert code == 0 and "CORRUPT" not in said
    profile = read_capture(capture)
    torn = 0
    for stack in profile.stacks:
        last = stack.frames[-1]
        assert last.name == "runtime.goexit" or last.kind is FrameKind.LOST, stack.frames
        torn += stack.distribution.count if last.kind is FrameKind.LOST else 0
        names = [frame.name for frame in stack.frames]
        if "main.sum" in names and last.kind is not FrameKind.LOST:
            # What calls what here: nothing else may be in between.
            assert names[-3:] == ["main.worker", "main.main.func1.1.1", "runtime.goexit"], names
            first = names.index("main.sum")
            assert set(names[first:-3]) == {"main.sum"}, names
    assert torn <= profile.losses[Loss.STACK_TORN]
    assert any(frame.name == "main.sum" for stack in profile.stacks for frame in stack.frames)
    assert profile.timeline and all(0 <= i.start_ns <= profile.window.duration_ns for i in profile.timeline)


def test_the_target_s_end_is_the_end_of_the_trace(tmp_path: Path, gotrace: Callable) -> None:
    capture = tmp_path / "ends.gotrace"
    with Workload(build("states", GO_VERSIONS[-1], "stripped")) as workload:
        with Attached(workload.pid, "-d", "60s", "--json", "--mode", "sample", "-o", capture, "-o", tmp_path / "ends.html") as trace:
            time.sleep(0.5)
            workload.finish()
            out, err = trace.process.communicate(timeout=30)
    assert trace.process.returncode == 0, err
    summary = json.loads(out)
    naps = [stack for stack in summary["stacks"] if stack["reason"] == "sleep"]
    assert [stack["total_ns"] for stack in naps] == [summary["window"]["duration_ns"]]
    again = gotrace("report", capture, "--json")
    assert json.loads(again.stdout)["stacks"] == summary["stacks"]
    assert "mode sample" in gotrace("report", capture).stdout


def test_exec_ends_the_trace_and_nothing_of_the_new_program_is_counted(tmp_path: Path) -> None:
    with Workload(build("execer", GO_VERSIONS[-1], "stripped")) as workload:
        with Attached(workload.pid, "-d", "60s", "--json", "-o", tmp_path / "sample.gotrace", "--mode", "sample", "--sample-rate", "200") as trace:
            time.sleep(0.3)
            workload.send("go")
            assert workload.read_line(20) == "ready again"
            out, err = trace.process.communicate(timeout=30)
        assert trace.process.returncode == 0, err
        summary = json.loads(out)
    assert summary["losses"]["unknown_function"] == 0
    assert sum(stack["total_ns"] for stack in summary["stacks"] if stack["frames"][-1]["name"] == "runtime.goexit") > 0
    assert summary["window"]["duration_ns"] < 30e9


def test_syscalls_and_c_are_counted_only_while_they_block(tmp_path: Path) -> None:
    with Workload(build("stages", GO_VERSIONS[-1], "cgo"), "-burn", "1s") as workload:
        with Attached(workload.pid, "-d", "0", "--json", "-o", tmp_path / "sample.gotrace", "--mode", "sample", "--sample-rate", "50") as trace:
            workload.send("go")
            own = workload.read_json(60)
            summary = trace.end_json()
    burning = [
        stack for stack in summary["stacks"]
        if any(frame["name"] == "main.burn" for frame in stack["frames"]) and stack["state"] == State.WAITING.value
    ]
    assert not burning
    assert summary["totals"]["running_ns"] >= 0.5 * own[0]["total_ns"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--sample-period", "1ms"), "--sample-period is for probes"),
        (("--probes", "schedule"), "--probes is for probes"),
        (("--syscalls", "uprobes"), "--syscalls is for probes"),
        (("--min-block", "10ms"), "less than two samples"),
        (("--sample-rate", "0"), "--sample-rate"),
    ],
)
def test_what_makes_no_sense_is_refused(gotrace: Callable, arguments: tuple[str, ...], says: str) -> None:
    done = gotrace("attach", 1, "--mode", "sample", *arguments)
    assert done.returncode == 2
    assert says in done.stderr and "hint: " in done.stderr and not done.stdout


@pytest.mark.full
def test_filters_work_as_in_exact(gotrace: Callable, tmp_path: Path) -> None:
    with Workload(build("states", GO_VERSIONS[-1], "stripped")) as workload:
        def run(*arguments: object) -> dict:
            done = gotrace("attach", workload.pid, "-d", "300ms", "--mode", "sample", "--json", "-q", "--no-wakers", "-f",
                           "-o", tmp_path / "x.gotrace", *arguments)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        apart = run("--per-goroutine")
        goids = {stack["goid"] for stack in apart["stacks"]}
        assert len(goids) == len(apart["stacks"]) == apart["totals"]["goroutines"] > 15
        one = run("--goroutine", max(goids))
        assert one["totals"]["goroutines"] == 1
        assert {stack["reason"] for stack in run("--reason", "select")["stacks"]} == {"select"}
        calls = run("--state", "syscall")["stacks"]
        assert {stack["reason"] for stack in calls} == {"read"}
        assert run("--no-kernel", "--state", "syscall")["stacks"][0]["reason"] == "syscall"
        outputs = [tmp_path / name for name in ("a.html", "a.pb.gz", "a.pftrace", "a.svg", "a.speedscope.json")]
        run(*(argument for path in outputs for argument in ("-o", path)))
        assert all(path.stat().st_size for path in outputs)


@pytest.mark.full
def test_many_goroutines_are_looked_at_less_often(tmp_path: Path) -> None:
    """A look at 100,000 goroutines of which some move takes longer than a tenth of a period; who asks for a rate gets more."""
    with Workload(build("load", GO_VERSIONS[-1], "plain"), "work", "goroutines", "100000") as workload:
        rates = []
        for flags in ((), ("--sample-rate", "20")):
            workload.send("run 0s 6s")
            with Attached(workload.pid, "-d", "0", "--json", "-o", tmp_path / f"{len(rates)}.gotrace", "--mode", "sample", *flags) as trace:
                time.sleep(3)
                summary = trace.end_json()
            workload.read_json(30)
            rates.append(summary["window"]["samples"] * 1e9 / summary["window"]["duration_ns"])
            assert sum(stack["goroutines"] for stack in summary["stacks"]) > 100_000
    assert rates[0] < rates[1] / 1.5


BURNERS = """package main

import (
	"fmt"
	"os"
	"runtime"
)

func burn() {
	for {
	}
}

func main() {
	runtime.GOMAXPROCS(6)
	for i := 0; i < 5; i++ {
		go burn()
	}
	fmt.Println("ready")
	os.Stdin.Read(make([]byte, 1))
	os.Exit(0)
}
"""


@pytest.mark.full
@pytest.mark.parametrize("name", ["churn", "reused"])
def test_with_one_p_no_two_goroutines_run_at_a_time(name: str, tmp_path: Path) -> None:
    """They move on while a sample is taken: who ran as it began has stopped as it ends, and another one runs."""
    with Workload("env", "GOMAXPROCS=1", str(build(name, "1.27.3", "stripped"))) as workload:
        with Attached(workload.pid, "-d", "4s", "--mode", "sample", "--sample-rate", "100", "--json", "-o", tmp_path / "x.gotrace") as trace:
            summary = trace.result_json()
    running, cpu = summary["totals"]["running_ns"], summary["totals"]["cpu_ns"]
    assert running is not None and 0.6 * cpu <= running <= 1.05 * cpu, (running, cpu, summary["losses"])


def test_threads_that_wait_for_a_cpu_do_not_run(tmp_path: Path) -> None:
    """Five threads share a CPU: Go takes all of their goroutines for running."""
    program = build_text("burners", "example.com/burners", BURNERS, GO_VERSIONS[-1], "stripped")
    with Workload("/usr/bin/taskset", "-c", "0", str(program)) as workload:
        with Attached(workload.pid, "-d", "3s", "--json", "--mode", "sample", "-o", tmp_path / "x.gotrace") as trace:
            summary = trace.result_json()
    totals = summary["totals"]
    assert summary["losses"]["running_unknown"] == 0, (totals, summary["window"], summary["losses"])
    assert 0.5 * totals["cpu_ns"] < totals["running_ns"] < 1.15 * totals["cpu_ns"]
    (note,) = summary["notes"]
    assert int(re.search(r"waited for a CPU for (\d+)%", note).group(1)) >= 70
