"""Requests in the capture: written as sums that are replaced, read back as they were, also by those who query the file."""

from __future__ import annotations

import io
import json
import re
import sqlite3
from contextlib import closing, suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from documents import ROOT, blocks_of
from profiles import MS, S, stat
from requestprofiles import HTTP, QUERY, hostile_requests, requests_made, requests_profile, with_in_progress
from rich.console import Console

from gotrace.capture.reader import read_capture
from gotrace.capture.schema import REQUEST_SUMS, SCHEMA_VERSION, SUMS
from gotrace.capture.writer import CaptureLocked, CaptureWriter
from gotrace.common.errors import GotraceError
from gotrace.common.vocabulary import State
from gotrace.export import render
from gotrace.export.summary_json import summary_dict
from gotrace.profile.requests import WaitSum, key_parts
from gotrace.profile.types import Profile
from gotrace.render.summary import print_summary


def begun(path: Path, made: Profile) -> CaptureWriter:
    writer = CaptureWriter(path, force=True)
    for target in made.targets:
        writer.put_target(target)
    writer.put_stacks(made.stacks)
    return writer


def capture(path: Path, made: Profile) -> Path:
    writer = begun(path, made)
    writer.commit(made)
    writer.close()
    return path


def rows(path: Path, query: str) -> list[tuple]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    made = requests_profile()
    again = read_capture(capture(tmp_path / "x.gotrace", made))
    assert again.requests == made.requests
    assert {key for span in again.requests for bucket in span.buckets.values() for key in bucket.waits} <= {s.key for s in again.stacks}
    assert summary_dict(again)["requests"] == summary_dict(made)["requests"]


def test_requests_in_progress_are_kept(tmp_path: Path) -> None:
    made = with_in_progress(requests_profile(), [10 * S, 3 * S], before=1)
    again = read_capture(capture(tmp_path / "x.gotrace", made))
    assert again.requests == made.requests and again.requests[0].exemplars[0].begun_before
    assert summary_dict(again)["requests"] == summary_dict(made)["requests"]


def test_hostile_names_are_kept(tmp_path: Path) -> None:
    made = hostile_requests()
    again = read_capture(capture(tmp_path / "x.gotrace", made))
    assert {span.function for span in again.requests} == {
        span.function.encode("utf-8", "replace").decode() for span in made.requests
    }
    assert all(len(span.buckets) == len(made.requests[0].buckets) for span in again.requests)


def test_sums_are_replaced_as_the_trace_goes_on(tmp_path: Path) -> None:
    """Each commit leaves what a trace that ended there would have left."""
    path, whole = tmp_path / "x.gotrace", requests_profile(1000)
    writer = begun(path, whole)
    for count in (20, 300, 300, 1000):
        now = requests_profile(count)
        writer.put_stacks(now.stacks)
        writer.commit(replace(now, complete=count == 1000))
        again = read_capture(path)
        assert again.requests == now.requests and again.complete is (count == 1000)
    writer.close()
    assert read_capture(path).requests == whole.requests
    assert rows(path, "SELECT count(*) FROM exemplar") == [(10,)]


def test_a_bucket_that_did_not_change_is_not_written_again(tmp_path: Path) -> None:
    made = requests_profile()
    writer = begun(tmp_path / "x.gotrace", made)
    writer.commit(made)
    with closing(sqlite3.connect(tmp_path / "x.gotrace")) as db:
        db.execute("UPDATE span_bucket SET followed = followed + 1000")
        db.commit()
    bucket = next(iter(made.requests[0].buckets.values()))
    bucket.count, bucket.total_ns, bucket.cpu_ns = bucket.count + 1, bucket.total_ns + MS, bucket.cpu_ns + MS
    writer.commit(made)
    writer.close()
    assert rows(tmp_path / "x.gotrace", "SELECT sum(followed < 1000) FROM span_bucket") == [(1,)]


def test_a_wait_that_gets_its_stack_later_is_written_with_it(tmp_path: Path) -> None:
    """All other sums of its requests stay the same."""
    made = requests_profile()
    early = deepcopy(made)
    bucket = next(bucket for span in early.requests for bucket in span.buckets.values() if bucket.waits)
    for key, wait in bucket.waits.items():
        found = bucket.other.setdefault(key_parts(key), WaitSum())
        found.count, found.total_ns = found.count + wait.count, found.total_ns + wait.total_ns
    bucket.waits = {}
    writer = begun(tmp_path / "x.gotrace", made)
    writer.commit(early)
    writer.commit(made)
    writer.close()
    assert read_capture(tmp_path / "x.gotrace").requests == made.requests


def test_a_commit_that_failed_is_made_up_for(tmp_path: Path) -> None:
    path, first, then = tmp_path / "x.gotrace", requests_profile(50), requests_profile(400)
    writer = begun(path, then)
    writer.commit(replace(first, complete=False))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CaptureLocked):
            writer.commit(replace(then, complete=False))
        other.execute("ROLLBACK")
    assert read_capture(path).requests == first.requests
    writer.commit(then)
    writer.close()
    assert read_capture(path).requests == then.requests
    assert sums_hold(path)


def test_after_a_rollback_amid_the_rows_everything_is_there(tmp_path: Path) -> None:
    path, made = tmp_path / "x.gotrace", requests_profile(50)
    writer = begun(path, made)
    writer.commit(replace(made, complete=False))
    broken = deepcopy(made)
    broken.requests[1].pid = 99  # a process that was never put
    for bucket in broken.requests[0].buckets.values():
        bucket.count += 1
    with pytest.raises(KeyError):
        writer.commit(broken)
    assert read_capture(path).requests == made.requests
    writer.commit(made)
    writer.close()
    assert read_capture(path).requests == made.requests and sums_hold(path)


def test_requests_that_are_gone_after_a_rollback_are_gone(tmp_path: Path) -> None:
    path, made = tmp_path / "x.gotrace", requests_profile(50)
    writer = begun(path, made)
    writer.commit(replace(made, complete=False))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CaptureLocked):
            writer.commit(replace(made, complete=False))
    made.requests[0].pid = 99
    with pytest.raises(KeyError):
        writer.commit(made)
    writer.commit(replace(made, requests=[]))
    writer.close()
    assert read_capture(path).requests == [] and sums_hold(path)


def sums_hold(path: Path) -> bool:
    """What meta.sums says is what the tables hold."""
    sums = json.loads(rows(path, "SELECT value FROM meta WHERE key = 'sums'")[0][0])
    found = {table: rows(path, f"SELECT {what} FROM {table}")[0][0] for table, what in (SUMS | REQUEST_SUMS).items()}
    return found == sums


def test_the_sums_tell_what_the_tables_hold(tmp_path: Path) -> None:
    path = capture(tmp_path / "x.gotrace", requests_profile())
    assert sums_hold(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM span_wait WHERE stack = (SELECT min(stack) FROM span_wait)")
        db.commit()
    assert not sums_hold(path)


def test_waits_of_stacks_that_were_not_put_are_told_by_state_and_reason(tmp_path: Path) -> None:
    path, made = tmp_path / "x.gotrace", requests_profile(100)
    late = stat([*made.stacks[0].frames[:3]], [3 * MS], State.SYSCALL, "pread64")
    number, bucket = next(iter(made.requests[0].buckets.items()))
    bucket.waits[late.key] = WaitSum(2, 17)
    writer = begun(path, made)
    writer.commit(replace(made, complete=False))
    found = read_capture(path).requests[0].buckets[number]
    assert found.other[State.SYSCALL, "pread64"] == WaitSum(2, 17) and late.key not in found.waits
    writer.put_stacks([late])
    writer.commit(made)
    writer.close()
    found = read_capture(path).requests[0].buckets[number]
    assert found.waits[late.key] == WaitSum(2, 17) and (State.SYSCALL, "pread64") not in found.other


def test_that_earlier_requests_are_not_known_is_kept_and_told(tmp_path: Path) -> None:
    made = requests_profile()
    made.requests[0].in_progress_before = None
    again = read_capture(capture(tmp_path / "x.gotrace", made))
    assert [span.in_progress_before for span in again.requests] == [None, 0]
    assert [span["in_progress_before"] for span in summary_dict(again)["requests"]] == [None, 0]
    console = Console(file=io.StringIO(), width=200, highlight=False)
    print_summary(again, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("how many requests are in progress that began before the window is not known") == 1


def test_a_capture_of_version_6_stays_readable(tmp_path: Path) -> None:
    path, made = tmp_path / "old.gotrace", requests_profile()
    capture(path, made)
    new = {"span": ("in_progress_before", "lasting", "lasting_ns", "doing", "windows", "cut", "cut_ns"), "exemplar": ("begun_before",)}
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for table, columns in new.items():
            for column in columns:
                db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 6")
    span, before = read_capture(path).requests[0], made.requests[0]
    assert span.latency == before.latency and span.in_progress == before.in_progress and span.buckets == before.buckets
    assert [one.duration_ns for one in span.exemplars] == [one.duration_ns for one in before.exemplars]
    assert (span.windows, span.in_progress_before, span.cut.count, span.doing) == (1, 0, 0, {})


def test_a_capture_of_version_5_stays_readable(tmp_path: Path) -> None:
    assert SCHEMA_VERSION == 7
    path, made = tmp_path / "old.gotrace", requests_profile()
    capture(path, made)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for table in ("exemplar_step", "exemplar", "span_cause", "cause", "span_other", "span_wait", "span_bucket", "span"):
            db.execute(f"DROP TABLE {table}")
        sums = json.loads(db.execute("SELECT value FROM meta WHERE key = 'sums'").fetchone()[0])
        db.execute("UPDATE meta SET value = ? WHERE key = 'sums'", (json.dumps({key: sums[key] for key in SUMS}),))
        db.execute("PRAGMA user_version = 5")
    again = read_capture(path)
    assert again.requests == [] and again.total() == made.total()


@pytest.mark.parametrize("damage", [
    "UPDATE span_bucket SET bucket = 100000 WHERE count = (SELECT max(count) FROM span_bucket)", "UPDATE span_wait SET total_ns = -1",
    "UPDATE span_other SET state = 'asleep'", "UPDATE cause SET frames = '[999999]'", "UPDATE exemplar SET labels = '[]'",
    "UPDATE exemplar_step SET state = 'nowhere'", "UPDATE span SET target = 7",
    "UPDATE span_wait SET stack = 1234567 WHERE stack = (SELECT min(stack) FROM span_wait)",
    "UPDATE cause SET text = x'00ff'", "DELETE FROM span_bucket",
])  # fmt: skip
def test_damage_is_told(tmp_path: Path, damage: str) -> None:
    path = capture(tmp_path / "x.gotrace", requests_profile(40))
    with closing(sqlite3.connect(path)) as db:
        db.execute(damage)
        db.commit()
    with pytest.raises(GotraceError, match="not a gotrace capture, or is damaged"):
        read_capture(path)


def test_a_view_in_place_of_a_table_is_refused(tmp_path: Path) -> None:
    path = capture(tmp_path / "x.gotrace", requests_profile(40))
    with closing(sqlite3.connect(path)) as db:
        db.executescript("DROP TABLE exemplar_step; CREATE VIEW exemplar_step AS SELECT 1 AS exemplar;")
    with pytest.raises(GotraceError, match="no plain table"):
        read_capture(path)


QUERIES = {
    re.sub(r"\W+", " ", block.text.split("FROM")[0])[:40]: block.text
    for block in blocks_of(ROOT / "docs/capture.md") if block.language == "sql" and "span" in block.text
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_the_queries_on_requests_find_something(tmp_path: Path, query: str) -> None:
    assert rows(capture(tmp_path / "x.gotrace", requests_profile()), query)


def test_the_query_for_time_in_slow_requests_is_right(tmp_path: Path) -> None:
    made = requests_made()
    query = next(text for text in QUERIES.values() if "span_other" in text)
    found = rows(capture(tmp_path / "x.gotrace", made.profile), query)
    per = {(function, state, reason): share for function, state, reason, share in found}
    assert sum(share for (function, *_), share in per.items() if function == HTTP) == pytest.approx(100, abs=0.1)
    waited = sum(ns for one in made.requests for stack, ns in one.waits if stack.reason == "chan receive")
    assert per[HTTP, "waiting", "chan receive"] == pytest.approx(100 * waited / made.profile.requests[0].latency.total_ns, abs=0.01)
    assert any(function == QUERY for function, *_ in per)


NASTY = (None, -1, 0, (1 << 63) - 1, 0.5, "", "\x1b[2J", "[1]", '{"0": 1}', b"\xff")


@pytest.mark.parametrize("table", ["span", "span_bucket", "span_wait", "span_other", "cause", "span_cause", "exemplar", "exemplar_step"])
def test_whatever_a_cell_holds_is_shown_or_refused(tmp_path: Path, table: str) -> None:
    whole = capture(tmp_path / "whole.gotrace", requests_profile(10))
    columns = [row[1] for row in rows(whole, f"PRAGMA table_info({table})")]
    shown = refused = 0
    for column in columns:
        for value in NASTY:
            path = tmp_path / "x.gotrace"
            path.write_bytes(whole.read_bytes())
            with closing(sqlite3.connect(path)) as db, suppress(sqlite3.Error):
                db.execute(f"UPDATE OR REPLACE {table} SET {column} = ?", (value,))
                db.commit()
            try:
                profile = read_capture(path)
            except GotraceError:
                refused += 1
                continue
            print_summary(profile, Console(file=io.StringIO(), width=80))
            for suffix in (".json", ".pb.gz", ".html"):
                assert render(profile, suffix)
            shown += 1
    assert shown and refused
