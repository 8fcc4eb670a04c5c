"""How readings of a scheduler are shown, also where little is known."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from gotrace.render.columns import sparkline
from gotrace.sched.text import SchedTable, print_snapshot, snapshot_json
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
