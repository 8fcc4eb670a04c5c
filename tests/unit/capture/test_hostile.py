"""Captures that lie: whatever their bytes say, the reader answers or refuses."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from fuzz.targets import CORPUS, write_rows

from gotrace.capture.reader import read_capture
from gotrace.capture.writer import CaptureWriter
from gotrace.common.errors import GotraceError


@pytest.mark.parametrize("table", ["frame", "meta"])
def test_a_capture_runs_nothing(tmp_path: Path, table: str) -> None:
    """A view without end, in the place of a table."""
    path = tmp_path / "x.gotrace"
    write_rows(path, json.loads((CORPUS / "capture.json").read_text()))
    assert read_capture(path).stacks
    with closing(sqlite3.connect(path)) as db:
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        db.execute(f"ALTER TABLE {table} RENAME TO kept")
        db.execute(
            f"CREATE VIEW {table} AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT "
            + ", ".join(f"x AS {column}" for column in columns) + " FROM n"
        )
        db.commit()
    with pytest.raises(GotraceError, match="no plain table"):
        read_capture(path)


@pytest.mark.parametrize("finding", ["2fb2d526", "04c9f6dc"])
def test_a_record_of_any_size(tmp_path: Path, finding: str) -> None:
    """SQLite has no memory for what it claims to hold: that is said of the file."""
    path = tmp_path / "x.gotrace"
    path.write_bytes((CORPUS / "capture" / finding).read_bytes())
    with pytest.raises(GotraceError, match="damaged"):
        read_capture(path)


def test_a_capture_of_which_nothing_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "x.gotrace"
    CaptureWriter(path, force=False).close()
    with pytest.raises(GotraceError, match="holds nothing"):
        read_capture(path)
