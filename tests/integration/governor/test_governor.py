"""Real traces with a cap on their cost: the cap is held, what is found stays right, and what was given up is said."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attach import Attached, probes_of
from gobuild import GO_VERSIONS, build
from selftimed import LOSSES_THAT_MUST_BE_ZERO
from workload import Workload

from gotrace.capture.reader import read_capture
from gotrace.common.errors import TargetGone
from gotrace.common.vocabulary import Part, Stage, Stat
from gotrace.governor.policy import SAMPLE_NS
from gotrace.kernel.compilation import Compilation
from gotrace.kernel.offsets import kernel_offsets
from gotrace.kernel.program import Options
from gotrace.profile.types import StackStat
from gotrace.run.options import AttachOptions
from gotrace.run.session import Session
from gotrace.watch.probed import ProbedProcess
from gotrace.watch.sampled import SampleOptions

pytestmark = pytest.mark.bpf

VERSIONS = (GO_VERSIONS[0], GO_VERSIONS[-1])
CAP = 5
NEWEST = GO_VERSIONS[-1]


def rounds(workload: Workload, number: int) -> list[int]:
    """ns per round trip, of so many stretches of 300 ms."""
    workload.send("go\n" * (number - 1) + "go")
    return [int(workload.read_line(60)) for _ in range(number)]


def losses(summary: dict) -> dict:
    """Without goroutines that moved between two looks at them, at the end of a short window: of those there are few."""
    lost = {name: summary["losses"][name] for name in LOSSES_THAT_MUST_BE_ZERO if summary["losses"][name]}
    assert lost.pop("parked_unread", 0) <= summary["overhead"]["governor"]["windows"]
    return lost


def total_of(summary: dict, function: str, reason: str) -> tuple[int, int]:
    """(ns, intervals) of stacks with that function and wait reason."""
    stacks = [
        stack for stack in summary["stacks"]
        if stack["reason"] == reason and any(frame["name"] == function for frame in stack["frames"])
    ]
    return sum(stack["total_ns"] for stack in stacks), sum(stack["count"] for stack in stacks)


@pytest.mark.complete("1.27.3")
@pytest.mark.full("1.27.3")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_worst_case_stays_under_the_cap(version: str, tmp_path: Path) -> None:
    capture = tmp_path / "x.gotrace"
    with Workload(build("pingpong", version, "stripped")) as workload:
        untraced = statistics.median(rounds(workload, 5))
        with Attached(workload.pid, "-d", "0", "--json", "--max-overhead", CAP, "-o", capture) as trace:
            rounds(workload, 4)  # until it is under control
            governed = statistics.median(rounds(workload, 15))
            summary = trace.end_json()
        assert not probes_of(workload.pid)
        assert workload.finish()[0] == 0
    report, window = summary["overhead"]["governor"], summary["window"]
    # Without a cap a round trip takes 20 to 40 times as long.
    assert governed < 2 * untraced
    assert report["share"] < 2 * report["max_overhead"] == 2 * CAP / 100
    assert [step["rung"] for step in report["steps"]][-1] == "continuity"
    assert window["attached_ns"] == window["duration_ns"] - report["paused_ns"] < 0.5 * window["duration_ns"]
    assert report["windows"] > 2 and report["unlooked_windows"] == 0
    assert not losses(summary)
    # It is all in the capture.
    profile = read_capture(capture)
    assert profile.governor.windows == report["windows"] and len(profile.governor.steps) == len(report["steps"])
    assert "in short windows" in trace.said


@pytest.mark.full
def test_a_burst_is_under_control_within_a_second_and_detail_comes_back(tmp_path: Path) -> None:
    with Workload(build("pingpong", NEWEST, "stripped")) as workload:
        untraced = statistics.median(rounds(workload, 3))
        with Attached(workload.pid, "-d", "0", "--json", "--max-overhead", 20, "-o", tmp_path / "x.gotrace") as trace:
            opened = time.monotonic()
            time.sleep(1)
            burst = time.monotonic() - opened
            rounds(workload, 4)
            later = statistics.median(rounds(workload, 10))
            time.sleep(12)
            summary = trace.end_json()
    steps = summary["overhead"]["governor"]["steps"]
    met = next(step for step in steps if step["rung"] == "continuity")
    assert met["at_ns"] / 1e9 - burst < 1
    assert all(step["at_ns"] / 1e9 > burst - 0.5 for step in steps)  # and none before
    assert later < 3 * untraced
    # Quiet again: all the time with one probe, then with two, then every interval.
    after = [step["rung"] for step in steps if step["at_ns"] > met["at_ns"]]
    assert after[:3] == ["starts", "single", "kernel"]
    assert summary["window"]["attached_ns"] > 5e9
    assert not losses(summary)


def test_a_target_that_idles_is_traced_completely(tmp_path: Path) -> None:
    with Workload(build("states", NEWEST, "stripped")) as workload:
        with Attached(workload.pid, "-d", "0", "--json", "--max-overhead", CAP, "-o", tmp_path / "x.gotrace") as trace:
            time.sleep(3)
            summary = trace.end_json()
    report, window = summary["overhead"]["governor"], summary["window"]
    assert report["steps"] == [] and report["windows"] == 1 and report["standard_error_ns"] is None
    assert (report["wakers_off_ns"], report["kernel_off_ns"], report["sampled_ns"], report["paused_ns"]) == (0, 0, 0, 0)
    assert window["attached_ns"] == window["duration_ns"]
    assert summary["totals"]["running_ns"] is not None
    assert "governor" not in trace.said


def test_a_short_trace_without_a_capture_knows_its_cost() -> None:
    with Workload(build("paced", NEWEST, "stripped")) as workload:
        with Session(AttachOptions((workload.pid,), duration_ns=500_000_000, max_overhead=1e6)) as session:
            session.prepare()
            profile = session.run()
    assert profile.governor.share > 0.1 and profile.governor.cost_ns > 10_000_000 and not profile.governor.acted
    assert profile.overhead.target_cpu_fraction_estimate > 0.05


def test_no_cap_is_no_governor(gotrace: Callable, tmp_path: Path) -> None:
    with Workload(build("states", NEWEST, "stripped")) as workload:
        done = gotrace("attach", workload.pid, "-d", "200ms", "--max-overhead", "0", "--json", "-q", "-o", tmp_path / "x.gotrace")
        assert json.loads(done.stdout)["overhead"]["governor"] is None
        assert gotrace("attach", workload.pid, "--max-overhead", "-1").returncode == 2


@pytest.mark.complete("1.27.3")
@pytest.mark.full("1.27.3")
@pytest.mark.parametrize("version", VERSIONS)
def test_totals_inside_the_windows_are_the_program_s_own(version: str, tmp_path: Path) -> None:
    with Workload(build("paced", version, "stripped")) as workload:
        with Attached(
            workload.pid, "-d", "0", "--json", "--max-overhead", 20, "--per-goroutine", "-o", tmp_path / "x.gotrace"
        ) as trace:
            time.sleep(1)
            workload.send("from here")
            workload.read_json(10)
            time.sleep(6)
            workload.send("to here")
            own = workload.read_json(10)
            summary = trace.end_json()
    window, report = summary["window"], summary["overhead"]["governor"]
    assert report["windows"] > 5 and window["attached_ns"] < 0.8 * window["duration_ns"]
    # What lasts all the time has the length of the windows, not more and not less, and is counted in each.
    assert total_of(summary, "main.waitForEver", "chan receive") == (window["attached_ns"], report["windows"])
    # The sleeper sleeps as large a part of the windows as of all the time; they begin and end anywhere in its turns of 5 ms.
    total, count = total_of(summary, "main.pace", "sleep")
    assert total / window["attached_ns"] == pytest.approx(own["slept_ns"] / own["wall_ns"], rel=0.15)
    assert own["sleeps"] / own["wall_ns"] * window["attached_ns"] == pytest.approx(count - report["windows"] / 2, rel=0.3)
    # Before the governor acts, single intervals may come faster than a busy host lets us read: those are counted.
    assert losses(summary).keys() <= {"ring_full"}
    timeline = read_capture(tmp_path / "x.gotrace").timeline
    assert timeline and all(0 <= i.start_ns <= window["duration_ns"] and i.duration_ns <= window["attached_ns"] for i in timeline)


@pytest.mark.full
def test_of_very_many_goroutines_only_those_that_moved_are_looked_at(tmp_path: Path) -> None:
    waiting = 5000
    with Workload(build("paced", NEWEST, "stripped"), "-waiting", str(waiting)) as workload:
        with Attached(workload.pid, "-d", "0", "--json", "--max-overhead", 20, "-o", tmp_path / "x.gotrace") as trace:
            time.sleep(4)
            summary = trace.end_json()
    window, report = summary["window"], summary["overhead"]["governor"]
    assert 0 < report["unlooked_windows"] <= report["windows"] and report["paused_ns"] > 0
    assert "too many goroutines to read" in " ".join(trace.said.split())
    # The others are there for the windows at whose ends there was time.
    assert total_of(summary, "main.waitForEver", "chan receive")[0] < waiting * window["attached_ns"]
    total, _ = total_of(summary, "main.pace", "sleep")
    assert 0.3 < total / window["attached_ns"] < 0.9
    assert not losses(summary)


@pytest.mark.full
@pytest.mark.parametrize("arguments", [("--mode", "lean"), ("--probes", "schedule")])
def test_where_there_are_no_windows_the_probes_are_given_up(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with Workload(build("pingpong", NEWEST, "stripped")) as workload:
        untraced = statistics.median(rounds(workload, 3))
        with Attached(workload.pid, "-d", "0", "--json", "--max-overhead", CAP, *arguments, "-o", tmp_path / "x.gotrace") as trace:
            rounds(workload, 4)
            governed = statistics.median(rounds(workload, 15))
            summary = trace.end_json()
    report, window = summary["overhead"]["governor"], summary["window"]
    assert "probes" in [step["rung"] for step in report["steps"]]
    assert governed < 2 * untraced
    assert report["looked_ns"] > 0.5 * window["attached_ns"] and window["samples"] > 5
    assert report["share"] < 0.3
    # The scheduler's ways that this set does not see: as without a cap (scripts/compare-probes).
    unseen = {"end_while_running", "start_while_stopped", "start_unseen"} if "schedule" in arguments else set()
    assert losses(summary).keys() <= unseen


@pytest.mark.full
def test_a_cap_that_no_window_can_keep_is_kept_by_looks(tmp_path: Path) -> None:
    with Workload(build("pingpong", NEWEST, "stripped")) as workload:
        with Attached(workload.pid, "-d", "0", "--json", "--max-overhead", "0.01", "-o", tmp_path / "x.gotrace") as trace:
            rounds(workload, 85)
            summary = trace.end_json()
        assert not probes_of(workload.pid)
    report, window = summary["overhead"]["governor"], summary["window"]
    assert "probes" in [step["rung"] for step in report["steps"]]
    assert report["looked_ns"] > 1e9
    assert window["attached_ns"] == window["duration_ns"] - report["paused_ns"] > report["looked_ns"]
    assert not losses(summary)


@pytest.mark.full
def test_the_target_s_end_and_ours_in_the_midst_of_windows(tmp_path: Path, gotrace: Callable) -> None:
    capture = tmp_path / "x.gotrace"
    with Workload(build("paced", NEWEST, "stripped")) as workload:
        with Attached(workload.pid, "-d", "60s", "--max-overhead", 10, "-o", capture) as trace:
            time.sleep(2.2)
            trace.process.kill()
            trace.process.wait()
        deadline = time.monotonic() + 5
        while probes_of(workload.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not probes_of(workload.pid)
        cut_off = read_capture(capture)
        assert not cut_off.complete and cut_off.governor.acted and 0 < cut_off.window.attached_ns < cut_off.window.duration_ns
        with Attached(workload.pid, "-d", "60s", "--json", "--max-overhead", 10, "-f", "-o", capture) as trace:
            time.sleep(2)
            workload.finish()
            out, err = trace.process.communicate(timeout=30)
            assert trace.process.returncode == 0, err
    summary = json.loads(out)
    assert summary["window"]["attached_ns"] < summary["window"]["duration_ns"] < 10e9
    report = json.loads(gotrace("report", capture, "--json").stdout)
    assert report["overhead"] == summary["overhead"] and report["window"] == summary["window"]
    assert sorted(map(str, report["stacks"])) == sorted(map(str, summary["stacks"]))


# -- the parts by themselves -------------------------------------------------------------------------------------------


@pytest.fixture
def traced(request: pytest.FixtureRequest) -> Iterator[tuple[Workload, ProbedProcess]]:
    """A traced process of the fixture program that the test names, to be opened with `begin`."""
    with Workload(build(request.param, NEWEST, "stripped")) as workload:
        process = ProbedProcess.prepare(workload.pid)
        try:
            process.load(Options(governed=True), Compilation().result(), kernel_offsets())
            process.attach()
            yield workload, process
        finally:
            process.close()


@pytest.mark.full
@pytest.mark.parametrize("traced", ["pingpong"], indirect=True)
def test_sampling_that_begins_in_the_midst_of_a_trace_is_unbiased(traced: tuple[Workload, ProbedProcess]) -> None:
    """Each goroutine's time in closed intervals is summed up in the kernel before it is decided which to keep, and intervals are
    counted: so the truth of the same run is known."""
    workload, process = traced
    process.begin()
    process.steering.leave_out(frozenset((Stage.WAKERS, Stage.KERNEL)))
    process.steering.sample(SAMPLE_NS)
    tracer = process.tracer

    def sums() -> tuple[int, int, float, float, float]:
        tracer.tables._seen.clear()
        rows = tracer.tables.read_rows()
        stats = tracer.tables.read_stats()
        return (
            sum(entry.off_ns for entry in tracer.tables.read_running()), stats[Stat.INTERVALS] + stats[Stat.SAMPLED_OUT],
            sum(row.total_ns for row in rows), sum(row.count for row in rows if row.key.part == Part.MAIN),
            sum(row.variance for row in rows) * 65536,
        )

    deviations, kept, truths = [], [], []
    before = sums()
    for _ in range(16):
        rounds(workload, 1)
        now = sums()
        off, intervals, total, count, variance = (new - old for new, old in zip(now, before))
        before = now
        # A row's length is known to 256 ns of the weighted sum; both are of one stretch with thousands of intervals.
        deviations.append((total - off) / math.sqrt(variance))
        kept.append(count / intervals)
        truths.append(total / off)
    assert before[1] > 50_000 and tracer.tables.read_stats()[Stat.SAMPLED_OUT] > 0.5 * before[1]
    # Sixteen draws of a standard normal distribution: 1 in 100,000 for each bound.
    assert abs(sum(deviations)) / 4 < 4.4, deviations
    assert 2 < sum(z * z for z in deviations) < 53, deviations
    assert statistics.mean(truths) == pytest.approx(1, abs=0.03)
    assert statistics.mean(kept) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("traced", ["paced"], indirect=True)
def test_pauses_leave_nothing_behind(traced: tuple[Workload, ProbedProcess]) -> None:
    workload, process = traced
    process.begin()
    time.sleep(0.2)
    for turn in range(5):
        process.steering.pause()
        assert process.steering.paused and not probes_of(workload.pid)
        hits = process.counters()[Stat.HITS_START]
        assert hits > 100
        time.sleep(0.1)
        assert process.counters()[Stat.HITS_START] == hits
        process.steering.resume(30_000_000)
        assert not process.steering.paused and probes_of(workload.pid)
        time.sleep(0.06)  # the window is over before it is closed
    process.finish()
    assert process.window.count == 6 and not probes_of(workload.pid)
    counters = process.counters()
    assert counters[Stat.END_WHILE_RUNNING] == counters[Stat.START_WHILE_STOPPED] == counters[Stat.INTERVAL_LOST] == 0
    attached = process.end_ns - process.start_ns - process.paused_ns
    assert attached < process.end_ns - process.start_ns - 5 * 0.1e9
    waits = [stat for stat in process.stacks() if any(frame.name == "main.waitForEver" for frame in stat.frames)]
    assert [stat.distribution.total_ns for stat in waits] == [attached]
    assert process.running_ns is None


@pytest.mark.full
@pytest.mark.parametrize("traced", ["paced"], indirect=True)
def test_totals_are_the_program_s_own_with_one_probe_and_with_none(traced: tuple[Workload, ProbedProcess]) -> None:
    """The same goroutine sleeps as large a part of the time as it says, whichever way it is watched."""
    workload, process = traced

    def share() -> tuple[int, int]:
        return sum(s.distribution.total_ns for s in sleeps_seen()), sum(s.distribution.count for s in sleeps_seen())

    def sleeps_seen() -> list[StackStat]:
        process.read()
        return [s for s in process.stacks() if s.reason == "sleep" and any(f.name == "main.pace" for f in s.frames)]

    def margin() -> int:
        return sum(s.margin_ns or 0 for s in sleeps_seen())

    def stretch(seconds: float) -> tuple[int, int, int, int]:
        """How long it slept, by our account and by its own, our count and its own."""
        before, count = share()
        workload.send("from here")
        workload.read_json(10)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            wait = process.tick()
            if process.priority is None:
                time.sleep(wait)
            else:  # as the session does
                process.priority.give_back()
                process.priority.take()
                time.sleep(wait)
        if process.priority is not None:
            process.priority.give_back()
        workload.send("to here")
        own = workload.read_json(10)
        after, counted = share()
        return after - before, own["slept_ns"], counted - count, own["sleeps"]

    process.begin()
    process.steering.leave_out(frozenset((Stage.WAKERS, Stage.KERNEL)))
    process.steering.pause()
    process.steering.resume(0, lean=True)
    assert process.tracer.probes.stages == {Stage.CORE} and len(process.tracer.programs()) > len(process.plan.probes)
    starts = process.counters()[Stat.HITS_START]
    seen, own, count, sleeps = stretch(2)
    assert process.counters()[Stat.HITS_START] == starts  # not one
    assert seen == pytest.approx(own, rel=0.05) and count == pytest.approx(sleeps, rel=0.05)
    process.steering.pause()
    process.steering.detached.start_sampling(SampleOptions(rate_hz=100))
    assert not probes_of(workload.pid)
    hits = process.counters()[Stat.HITS_END]
    by_lean = margin()
    looked, own, *_ = stretch(4)
    assert abs(looked - own) < 2 * (margin() - by_lean) < 1.5e9
    process.steering.detached.stop_sampling()
    assert process.counters()[Stat.HITS_END] == hits
    process.steering.resume(0)  # and back to both
    time.sleep(0.5)
    assert process.counters()[Stat.HITS_START] > starts
    process.finish()
    waits = [stat for stat in process.stacks() if any(frame.name == "main.waitForEver" for frame in stat.frames)]
    attached = process.end_ns - process.start_ns - process.paused_ns
    assert sum(stat.distribution.total_ns for stat in waits) == pytest.approx(attached, rel=0.001)
    assert process.goroutines >= 3 and not probes_of(workload.pid)
    counters = process.counters()
    assert counters[Stat.END_WHILE_RUNNING] == counters[Stat.START_WHILE_STOPPED] == counters[Stat.INTERVAL_LOST] == 0


@pytest.mark.parametrize("traced", ["execer"], indirect=True)
def test_what_a_process_becomes_in_a_pause_is_not_traced(traced: tuple[Workload, ProbedProcess]) -> None:
    workload, process = traced
    process.begin()
    time.sleep(0.1)
    process.steering.pause()
    workload.send("go")
    assert workload.read_line(20) == "ready again"
    hits = process.counters()[Stat.HITS_START]
    with pytest.raises(TargetGone, match="called exec in a pause"):
        process.steering.resume(50_000_000)
    assert process.steering.paused and not probes_of(workload.pid)
    time.sleep(0.1)
    process.finish()
    assert process.counters()[Stat.HITS_START] == hits > 10
    assert process.end_ns - process.start_ns - process.paused_ns < 0.5e9


@pytest.mark.parametrize("traced", ["stages"], indirect=True)
def test_open_waits_of_threads_end_where_the_tracepoints_are_left_out(traced: tuple[Workload, ProbedProcess]) -> None:
    workload, process = traced
    process.begin()
    time.sleep(0.5)  # the program reads its input: in a system call
    left = time.monotonic_ns()
    process.steering.leave_out(frozenset((Stage.KERNEL,)))
    assert process.tracer.probes.stages == {Stage.CORE, Stage.WAKERS}
    assert not process.tracer.tables.read_open_threads()
    time.sleep(0.5)
    process.steering.take_up(frozenset((Stage.KERNEL,)))
    assert process.tracer.probes.stages == {Stage.CORE, Stage.WAKERS, Stage.KERNEL}
    process.finish()
    reads = [stat for stat in process.stacks() if stat.reason == "read"]
    longest = max(stat.distribution.max_ns for stat in reads)
    assert longest == pytest.approx(left - process.start_ns, abs=50_000_000)
    assert process.running_ns is None


@pytest.mark.parametrize("traced", ["churn"], indirect=True)
def test_goroutines_born_while_creation_is_not_seen_have_no_time_from_before(traced: tuple[Workload, ProbedProcess]) -> None:
    _, process = traced
    process.begin()
    time.sleep(0.5)
    process.steering.leave_out(frozenset((Stage.WAKERS,)))
    process.read()
    began = {stat.key: stat.distribution.total_ns for stat in process.stacks()}
    time.sleep(1.0)
    process.steering.take_up(frozenset((Stage.WAKERS,)))
    time.sleep(0.3)
    process.finish()
    created = [stat for stat in process.stacks() if stat.reason == "created"]
    assert created
    for stat in created:
        # Of those that wait for their first turn none waits for long.
        assert stat.distribution.max_ns < 0.4e9, stat.distribution
    assert sum(stat.distribution.total_ns for stat in process.stacks()) > sum(began.values())


