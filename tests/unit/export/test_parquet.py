"""Parquet, as DuckDB reads it: the totals are those of the summary's JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from anyprofile import any_profile
from documents import ROOT
from hypothesis import HealthCheck, given, settings
from profiles import MS, go, hostile_profile, profile, shop_profile, stat, two_processes

from gotrace.common.errors import EXIT_REFUSED, Refused
from gotrace.common.vocabulary import FrameKind, Loss, State
from gotrace.export import format_of, render
from gotrace.export.parquet import COLUMNS
from gotrace.export.summary_json import summary_dict
from gotrace.profile.things import Waited
from gotrace.profile.types import Frame, Profile, TimelineInterval
from gotrace.render.text import sanitize


def table(folder: Path, *profiles: Profile) -> duckdb.DuckDBPyConnection:
    """The table `waits` of them all."""
    (folder / "captures").mkdir(exist_ok=True)
    for number, one in enumerate(profiles):
        (folder / f"captures/{number}.parquet").write_bytes(render(one, ".parquet"))
    db = duckdb.connect()
    db.execute(f"SET file_search_path = '{folder}'")
    db.execute("SET TimeZone = 'UTC'")
    db.execute("CREATE VIEW waits AS SELECT * FROM read_parquet('captures/*.parquet', union_by_name = true)")
    return db


def check_totals(db: duckdb.DuckDBPyConnection, *profiles: Profile) -> None:
    """By state and reason, and stack by stack, against the JSON."""
    expected: dict[tuple[str, str], list[int]] = {}
    for one in profiles:
        for stack in summary_dict(one)["stacks"]:
            sums = expected.setdefault((stack["state"], sanitize(stack["reason"], 1000)), [0, 0, 0])
            for number, name in enumerate(("count", "total_ns", "in_progress")):
                sums[number] += stack[name]
    query = "SELECT state, reason, sum(count), sum(total_ns), sum(in_progress) FROM waits WHERE kind = 'stack' GROUP BY ALL"
    assert {(state, reason): [int(value) for value in sums] for state, reason, *sums in db.execute(query).fetchall()} == expected
    everything = db.execute("SELECT coalesce(sum(total_ns), 0), count(*) FILTER (kind = 'interval') FROM waits").fetchone()
    assert everything == (sum(one.total().total_ns for one in profiles), sum(len(one.timeline) for one in profiles))


@pytest.mark.parametrize("make", [shop_profile, two_processes, lambda: profile([], [])])
def test_totals_are_those_of_the_json(tmp_path: Path, make: object) -> None:
    made = make()  # type: ignore[operator]
    db = table(tmp_path, made)
    check_totals(db, made)
    names = ("p50_ns", "p90_ns", "p99_ns", "max_ns", "jitter_ns", "goroutines", "stopped_ns", "halted_ns", "late_ns", "long_runs", "margin_ns")
    found = db.execute(f"SELECT {', '.join(names)} FROM waits WHERE kind = 'stack'").fetchall()
    assert sorted(map(str, found)) == sorted(str(tuple(stack[name] for name in names)) for stack in summary_dict(made)["stacks"])


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=any_profile)
def test_any_profile(tmp_path: Path, made: Profile) -> None:
    check_totals(table(tmp_path, made), made)


def test_a_fleet_is_one_table(tmp_path: Path) -> None:
    made = []
    for host in ("a", "b", "c"):
        one = shop_profile()
        one.targets = [replace(one.targets[0], host=host, container="9f86d081884c" * 5, pod="")]
        made.append(one)
    db = table(tmp_path, *made)
    check_totals(db, *made)
    found = db.execute("SELECT host, sum(total_ns), any_value(target), any_value(pod) FROM waits GROUP BY host ORDER BY host").fetchall()
    assert found == [(host, made[0].total().total_ns, "shop", None) for host in ("a", "b", "c")]


def test_columns(tmp_path: Path) -> None:
    """Types, what a stack is, an interval's moment, and what is not known."""
    waker = Frame("main.send", kind=FrameKind.WAKER)
    frames = [waker, go("sync.(*Mutex).Lock"), go("main.a;b"), go("main.main")]
    wait = stat(frames, [5 * MS], State.WAITING, "sync.Mutex.Lock")
    wait.waited, wait.labels = Waited("mutex", 0xC000012345), (("tenant", "x\ud800"),)
    made = profile([wait], losses={Loss.MISSED_HITS: 3})
    made.window = replace(made.window, start="2026-11-29T22:48:35.120+00:00")
    made.timeline = [TimelineInterval(7, 2_000_000_000, 5 * MS, wait, 9, 0)]
    db = table(tmp_path, made)
    query = "SELECT function, leaf, stack, waker, object_kind, object_address, labels, losses FROM waits WHERE kind = 'stack'"
    assert db.execute(query).fetchone() == (
        "main.a:b", "sync.(*Mutex).Lock", "main.main;main.a:b;sync.(*Mutex).Lock", "main.send", "mutex", 0xC000012345,
        json.dumps({"tenant": "x\ud800"}), 3,
    )
    query = "SELECT strftime(start, '%Y-%m-%dT%H:%M:%S.%f'), start_ns, duration_ns, goid, waker_goid, tid, total_ns, reason FROM waits " \
            "WHERE kind = 'interval'"
    assert db.execute(query).fetchone() == (
        "2026-11-29T22:48:37.120000", 2_000_000_000, 5 * MS, 7, 9, None, None, "sync.Mutex.Lock"
    )
    file = pq.ParquetFile(tmp_path / "captures/0.parquet")
    assert file.schema_arrow.names == list(COLUMNS) and json.loads(file.schema_arrow.metadata[b"gotrace"])["losses"]["missed_hits"] == 3
    assert {name: kind for name, kind in COLUMNS.items() if name.endswith("_ns")} == {n: "int64" for n in COLUMNS if n.endswith("_ns")}


def test_hostile_names(tmp_path: Path) -> None:
    made = hostile_profile()
    db = table(tmp_path, made)
    check_totals(db, made)
    for stack, in db.execute("SELECT stack FROM waits").fetchall():
        assert stack.isprintable()


def test_without_pyarrow_it_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gotrace.export.parquet.find_spec", lambda _name: None)
    with pytest.raises(Refused) as caught:
        format_of("x.parquet")
    assert caught.value.exit_code == EXIT_REFUSED and "pyarrow" in str(caught.value) and caught.value.hint == "pip install 'gotrace[parquet]'"


def test_the_documentation_lists_all_columns_and_its_queries_run(tmp_path: Path) -> None:
    text = (ROOT / "docs/parquet.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ", text, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(COLUMNS)
    wait = stat([go("main.take")], [5 * MS], State.WAITING, "sync.Mutex.Lock")
    wait.labels = (("tenant", "acme"),)
    ready = stat([go("main.run")], [MS], State.RUNNABLE)
    made = profile([wait, ready])
    made.timeline = [TimelineInterval(7, 0, 5 * MS, wait)]
    db = table(tmp_path, made)
    section = text.partition("## DuckDB")[2].partition("## ClickHouse")[0]
    queries = re.findall(r"```text\n(SELECT.*?)```", section, re.DOTALL)
    assert len(queries) == 4
    for query in queries:
        assert len(db.execute(query).fetchall()) == 1, query
