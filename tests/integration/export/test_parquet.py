"""`attach -o x.parquet` and `report -o x.parquet`: DuckDB has the totals of the capture's JSON, and its single intervals."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
from gobuild import build
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside]


def test_totals_and_intervals(gotrace: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    first, again, capture = tmp_path / "first.parquet", tmp_path / "again.parquet", tmp_path / "x.gotrace"
    with Workload(build("parked", "1.27.3", "stripped"), "-goroutines", "200", "-active", "50") as workload:
        done = gotrace("attach", workload.pid, "-d", "2s", "--json", "--events-over", "1ms", "-o", first, "-o", capture)
        assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert gotrace("report", capture, "-o", again).returncode == 0
    with closing(sqlite3.connect(capture)) as db:
        intervals = db.execute("SELECT count(*), sum(duration_ns), min(start_ns), max(goid) FROM interval").fetchone()
    for path in (first, again):
        table = duckdb.read_parquet(str(path))
        assert table.aggregate("sum(total_ns), sum(count)", "").fetchall()[0] == (
            summary["totals"]["off_cpu_ns"], sum(stack["count"] for stack in summary["stacks"])
        )
        sums = table.filter("kind = 'stack'").aggregate("state, reason, sum(total_ns)").fetchall()
        found = {(state, reason): int(ns) for state, reason, ns in sums}
        assert sum(found.values()) == sum(figures["total_ns"] for figures in summary["totals"]["by_state"].values())
        for state, figures in summary["totals"]["by_state"].items():
            assert sum(ns for (one, _), ns in found.items() if one == state) == figures["total_ns"]
        singles = table.filter("kind = 'interval'").aggregate("count(*), sum(duration_ns), min(start_ns), max(goid)").fetchall()[0]
        assert singles == intervals and singles[0] > 100
        whose = table.aggregate("host, pid, target, window_ns").fetchall()
        assert whose == [(socket.gethostname(), workload.pid, Path(summary["target"]["exe"]).name, summary["window"]["duration_ns"])]


def test_without_single_intervals(gotrace: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """They are not recorded for it alone."""
    path = tmp_path / "x.parquet"
    with Workload(build("parked", "1.27.3", "stripped"), "-goroutines", "20") as workload:
        done = gotrace("attach", workload.pid, "-d", "500ms", "--json", "-o", path)
    assert done.returncode == 0, done.stderr
    assert duckdb.read_parquet(str(path)).aggregate("kind").fetchall() == [("stack",)]
