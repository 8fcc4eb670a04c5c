"""How readings of a scheduler are shown, also where little is known."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from profiles import S, go, profile, stat
from rich.console import Console

from gotrace.common.vocabulary import Loss, State
from gotrace.profile.types import GovernorReport, GovernorStep, Missing, Profile
from gotrace.render.columns import sparkline
from gotrace.sched.latency import latency_of
from gotrace.sched.text import SchedTable, print_latency, print_snapshot, snapshot_json
from gotrace.sched.types import Collector, Goroutines, Snapshot, Timers

TIME = "2026-11-29T12:34:56.789+00:00"
NOTHING = Snapshot(TIME, syscall_threads=None)
BUSY = Snapshot(
    TIME, 64, 2.5, 3, 128, 1, 12, 123_456, [7] * 64, Goroutines(1_234_567, 61, 70_000, 1_164_496, 10), {"read": 5, "futex": 1},
    Collector(True, 1_000_231, 92_400_000, "mark"), 61, 4, Timers(812, 1_400_000, 38_100_000), 41_200_000_000,
)


def shown(width: int, *snapshots: Snapshot) -> list[str]:
    out = io.StringIO()
    table = SchedTable(Console(file=out, width=width, highlight=False))
    for snapshot in snapshots:
        table.row(snapshot)
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("values", "bars"),
    [([], ""), ([0, 0], "▁▁"), ([0, 1], "▁█"), ([0, 50, 100], "▁▅█"), ([3], "█"), (list(range(8)), "▁▂▃▄▅▆▇█")],
)
def test_sparkline(values: list[int], bars: str) -> None:
    assert sparkline(values) == bars


@pytest.mark.parametrize("snapshot", [NOTHING, BUSY], ids=["nothing", "busy"])
@pytest.mark.parametrize("width", [50, 80, 100, 200])
def test_a_row_is_as_wide_as_its_heading(snapshot: Snapshot, width: int) -> None:
    heading, row = shown(width, snapshot)
    assert len(row) <= width and len(heading) <= width
    assert len(row.split()) == len(heading.replace("ready, the trend", "trend").split())


def test_the_widest_has_all() -> None:
    heading, row = shown(200, BUSY)
    assert heading.split()[:18] == (
        "time Ps idle Ms run spin idle call cgo queue local Gs ready wait timers late GCs throttled".split()
    )
    assert row.split() == (
        "12:34:56 64/2.5 3 128 61 1 12 6 4 123456 448 1.23M 70000 1.16M 812 38.1ms 1M* 41.2s █".split()
    )


def test_what_is_not_known() -> None:
    out = io.StringIO()
    print_snapshot("name\x1b[31m", NOTHING, Console(file=out, highlight=False))
    text = out.getvalue()
    assert "\x1b" not in text and text.count("?") >= 15 and "None" not in text
    assert json.loads(snapshot_json(NOTHING))["syscall_threads"] is None


def test_a_line_of_json() -> None:
    line = snapshot_json(BUSY)
    assert line.endswith("\n") and line.count("\n") == 1
    found = json.loads(line)
    assert found["goroutines"]["syscall"] == 10 and found["gc"]["phase"] == "mark" and found["local_run_queues"] == [7] * 64


# -- waits to run ------------------------------------------------------------------------------------------------------


def traced() -> Profile:
    ready = stat([go("main.f")], [0, 7, 8, 1023, 1024, 1025, 5_000], State.RUNNABLE, "ready")
    created = stat([go("main.g")], [1_000_000], State.RUNNABLE, "created")
    queued = stat([go("main.f")], [3_000_000] * 3, State.RUNQUEUE, "thread woken")
    return profile([ready, created, queued, stat([go("main.f")], [9], reason="select")])


def test_waits_are_counted_by_powers_of_two() -> None:
    latency = latency_of(traced())
    assert latency.runnable is not None and latency.runqueue is not None
    assert latency.runnable.histogram == {0: 1, 4: 1, 8: 1, 512: 1, 1024: 2, 4096: 1, 524288: 1}
    assert (latency.runnable.count, latency.runnable.max_ns) == (8, 1_000_000)
    assert (latency.runqueue.count, latency.runqueue.total_ns, latency.runqueue.max_ns) == (3, 9_000_000, 3_000_000)
    assert latency.preempted is not None and (latency.preempted.count, latency.preempted.histogram) == (0, {})
    assert latency.notes == [] and latency.runnable_traced_ns == latency.runqueue_traced_ns == latency.duration_ns


def latency_text(made: Profile) -> str:
    console = Console(file=io.StringIO(), width=100)
    print_latency(latency_of(made), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_what_a_host_can_t_show_is_not_nothing() -> None:
    made = traced()
    made.missing = [Missing("kernel", "the kernel hides its tracepoints", "states syscall and runqueue", 4242)]
    latency = latency_of(made)
    assert latency.runqueue is None and latency.runnable is not None and "kernel hides" in latency.notes[0]
    text = latency_text(made)
    assert "this host can't show it" in text and "! MISSING kernel: the kernel hides its tracepoints" in text


def test_waits_as_text() -> None:
    text = latency_text(traced())
    assert "  8 waits, 1.01 ms  p50 " in text and "1.02 µs to  2.05 µs            2 █" in text
    assert "(seen for" not in text and "!" not in text
    steps = (GovernorStep(1, 4242, "kernel", 0.1),)
    given_up = latency_text(replace(traced(), governor=GovernorReport(0.02, kernel_off_ns=2 * S, steps=steps)))
    assert given_up.count("(seen for") == 1 and "! governor: " in given_up
    made = traced()
    paused = replace(made, window=replace(made.window, attached_ns=made.window.duration_ns - 4 * S), governor=GovernorReport(0.02, steps=steps))
    assert latency_text(paused).count("(seen for 6.00 s of 10.0 s)") == 3


def test_losses_are_said() -> None:
    made = traced()
    made.losses = {Loss.END_WHILE_RUNNING: 3, Loss.STACK_TRUNCATED: 7}
    assert latency_of(made).notes == ["3 state machine: a goroutine resumed that was not known to be stopped"]
