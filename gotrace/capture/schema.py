"""The capture file: an SQLite 3 database that anyone may query; schema version 5. docs/capture.md describes it for users, with queries.

``PRAGMA application_id`` is 0x676F7472 ("gotr"), ``PRAGMA user_version`` the schema version. All durations are ns.

meta      key, value (JSON): gotrace, window, losses, overhead, goroutines, running_ns, cpu_ns, filters, complete,
          governor (null without --max-overhead, else the fields of GovernorReport in gotrace/profile/types.py),
          missing (a list: the stages that the trace went without, with the fields of Missing in that file), notes (lines of text),
          ongoing (true: waits in progress are in `stack`, see below), sums (the value of `SUMS` below for each table, which
          reveals a torn copy)
target    id, and the fields of Target in gotrace/profile/types.py, as JSON
frame     id, name, file, line, kind (go, runtime, cgo, syscall, kernel, waker, reason, lost), inlined (0 or 1)
stack     one row per distinct (target, frames, state, reason, goid): `frames` is a JSON list of frame ids, leaf first;
          goid is NULL unless goroutines were kept apart; count, total_ns, max_ns, squares (sum of squares of the
          durations in units of 256 ns), goroutines (distinct ones), in_progress, histogram (JSON: bucket -> count, with
          the buckets of gotrace/common/histogram.py), stopped_ns (part of total_ns inside stop-the-world pauses), long_runs
          and long_run_max_ns (runs of more than 10 ms without a break that ended there), margin_ns (in mode sample, and if short
          intervals were sampled, half of the 95 % confidence interval of total_ns, as in gotrace/profile/estimate.py; in mode
          lean also how much too small total_ns may be; else NULL),
          halted_ns (part of total_ns while the process was stopped from outside: by a signal, a freezer or a debugger), late_ns
          (for sleeps, part of total_ns after their timers were due; from Go 1.23)
subwindow how a stack's figures changed during the window: stack, start_ns from the window's start, duration_ns,
          and count, total_ns and squares of the intervals that ended there; no row if none did. A second each; in
          a long trace neighbours are merged, so that no stack has more than 64
pause     stop-the-world pauses: target, reason, start_ns from the window's start, duration_ns
interval  the parts of single intervals, if they were requested (--per-goroutine, --events-over): target, goid, start_ns from
          the window's start, duration_ns, stack, waker_goid (0: not known), tid (the thread on which it continued)

Rows of `stack` are sums since the window's start and are replaced during the trace. With complete = false the trace was cut off
(kill -9, power) or still runs: the figures are those of the last commit, at most about a second old, and meta.goroutines and
stack.goroutines are not known. Waits that were in progress then are rows of their own, with count = in_progress, beside the row of the
same (target, frames, state, reason, goid): add the two. Each commit replaces them, and the last one adds them to the others.
meta.missing (stage "waits in progress") tells which of them are missing; without meta.ongoing there are none.

Version 4 has no missing, no notes, no stack.halted_ns and no stack.late_ns. Version 3 has no governor and no margin_ns of sampled
intervals. Version 2 has no stack.margin_ns. Version 1 has no tables pause and subwindow, no interval.waker_goid and interval.tid and none
of stack's last four columns.
"""

from __future__ import annotations

APPLICATION_ID = 0x676F7472
SCHEMA_VERSION = 5

SUMS = {
    "target": "count(*)", "frame": "count(*)",
    "stack": "coalesce(sum((count + total_ns) & 0xFFFFFFFFFF), 0)", "interval": "coalesce(max(rowid), -1)",
    "pause": "count(*)",
}
"""Expressions over the tables, whose values meta.sums has."""

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE target (id INTEGER PRIMARY KEY, description TEXT NOT NULL);
CREATE TABLE frame (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, file TEXT NOT NULL, line INTEGER NOT NULL, kind TEXT NOT NULL,
    inlined INTEGER NOT NULL
);
CREATE TABLE stack (
    id INTEGER PRIMARY KEY, target INTEGER NOT NULL REFERENCES target(id), state TEXT NOT NULL, reason TEXT NOT NULL,
    goid INTEGER, frames TEXT NOT NULL, count INTEGER NOT NULL, total_ns INTEGER NOT NULL, max_ns INTEGER NOT NULL,
    squares REAL NOT NULL, goroutines INTEGER NOT NULL, in_progress INTEGER NOT NULL, histogram TEXT NOT NULL,
    stopped_ns INTEGER NOT NULL, long_runs INTEGER NOT NULL, long_run_max_ns INTEGER NOT NULL, margin_ns INTEGER,
    halted_ns INTEGER NOT NULL DEFAULT 0, late_ns INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE interval (
    target INTEGER NOT NULL REFERENCES target(id), goid INTEGER NOT NULL, start_ns INTEGER NOT NULL,
    duration_ns INTEGER NOT NULL, stack INTEGER NOT NULL REFERENCES stack(id),
    waker_goid INTEGER NOT NULL, tid INTEGER NOT NULL
);
CREATE TABLE subwindow (
    stack INTEGER NOT NULL REFERENCES stack(id), start_ns INTEGER NOT NULL, duration_ns INTEGER NOT NULL,
    count INTEGER NOT NULL, total_ns INTEGER NOT NULL, squares REAL NOT NULL, PRIMARY KEY (stack, start_ns)
) WITHOUT ROWID;
CREATE TABLE pause (
    target INTEGER NOT NULL REFERENCES target(id), reason TEXT NOT NULL, start_ns INTEGER NOT NULL,
    duration_ns INTEGER NOT NULL
);
"""
