"""The capture file: an SQLite 3 database that anyone may query; schema version 7. docs/capture.md describes it for users, with queries.

``PRAGMA application_id`` is 0x676F7472 ("gotr"), ``PRAGMA user_version`` the schema version. All durations are ns.

meta      key, value (JSON): gotrace, window, losses, overhead, goroutines, running_ns, cpu_ns, filters, complete,
          governor (null without --max-overhead, else the fields of GovernorReport in gotrace/profile/types.py),
          missing (a list: the stages that the trace went without, with the fields of Missing in that file), notes (lines of text),
          verdicts (a list of [pid, verdict], a verdict as in the summary's JSON),
          ongoing (true: waits in progress are in `stack`, see below), sums (the value of `SUMS` below for each table, which
          reveals a torn copy)
target    id, and the fields of Target in gotrace/profile/types.py, as JSON
frame     id, name, file, line, kind (go, runtime, cgo, syscall, kernel, waker, reason, lost), inlined (0 or 1)
object    what was waited for, if that was asked for (--objects): kind, address (NULL if it has none), text
lock      locks for which goroutines waited: target, object, contended_ns (for how long at least one waited), explained_ns (how much of
          that is known to belong to a holder)
holder    who held them, by the stack with which they were unlocked, `frames`, those with most time first: number, held_ns (at most, while
          others waited), sure_ns (of that, as far as unlocks tell), count (unlocks that ended a wait), reading (1: with others, for
          reading), waits (JSON: what they did meanwhile, [[text, ns], ...])
stack     one row per distinct (target, frames, state, reason, goid, object, labels): `frames` is a JSON list of frame ids, leaf first;
          goid is NULL unless goroutines were kept apart; labels (JSON: key -> value) are those of the wanted labels (--label) that the
          goroutines have, NULL if none; count, total_ns, max_ns, squares (sum of squares of the
          durations in units of 256 ns), goroutines (distinct ones), in_progress, histogram (JSON: bucket -> count, with
          the buckets of gotrace/common/histogram.py), stopped_ns (part of total_ns inside stop-the-world pauses), long_runs
          and long_run_max_ns (runs of more than 10 ms without a break that ended there), margin_ns (in mode sample, and if short
          intervals were sampled, half of the 95 % confidence interval of total_ns, as in gotrace/profile/estimate.py; in mode
          lean also how much too small total_ns may be; else NULL),
          halted_ns (part of total_ns while the process was stopped from outside: by a signal, a freezer or a debugger), late_ns
          (for sleeps, part of total_ns after their timers were due; from Go 1.23),
          object (NULL if there is none, or it was not asked for), goroutines_there (distinct goroutines of all rows that differ in
          object alone; 0 if objects were not asked for)
subwindow how a stack's figures changed during the window: stack, start_ns from the window's start, duration_ns,
          and count, total_ns and squares of the intervals that ended there; no row if none did. A second each; in
          a long trace neighbours are merged, so that no stack has more than 64
pause     stop-the-world pauses: target, reason, start_ns from the window's start, duration_ns
interval  the parts of single intervals, if they were requested (--per-goroutine, --events-over): target, goid, start_ns from
          the window's start, duration_ns, stack, waker_goid (0: not known), tid (the thread on which it continued)
span      requests: target, function; count, total_ns, max_ns, squares and histogram (as in stack) of the calls of the function that
          ended in the window; in_progress (how many had not: they are in nothing else but exemplar), in_progress_before (how many
          of these had begun before the window; null: not known, and not among them), lasting (a histogram of how long they had
          lasted in it), lasting_ns (the longest of those times), doing (JSON: what their goroutines did at its end -> how many);
          begun_before (how many ended in it that had begun before it: they are in nothing else but exemplar); traced_ns (for how
          long they were traced), windows (in how many windows), cut (if several: a histogram of how long those had lasted that had
          not ended with theirs) and cut_ns (the longest)
span_bucket
          the calls whose duration lies in one bucket of the histogram: count, total_ns, cpu_ns (running with a CPU, on their own
          goroutines); followed and followed_ns: how many of them were followed to what was waited for in the end, and their total_ns
span_wait count and total_ns of the waits of one stack in the calls of a bucket
span_other
          the same of waits beyond the number that is kept of a call, by state and reason; total_ns of span_bucket is the sum of cpu_ns,
          span_wait and span_other
cause     what time went to in the end: text, frames (as in stack), state (one of the states, or running, or unknown), reason, object
span_cause
          how much of followed_ns of a bucket went to a cause
exemplar  single calls, the slowest first: span, start_ns from the window's start, duration_ns, goid, what (method and path; NULL if it
          was not read), labels (JSON: the pprof labels), in_progress (0 or 1), begun_before (0 or 1: it began before the window, and
          is told from there on); with either, it takes at least as long
exemplar_step
          their paths: number (0 is the latest step), goid, start_ns, duration_ns, state, reason, frames, object

Rows of `stack` and of `span_...` are sums since the window's start and are replaced during the trace. With complete = false the trace was
cut off (kill -9, power) or still runs: the figures are those of the last commit, at most about a second old, and meta.goroutines and
stack.goroutines are not known. Waits that were in progress then are rows of their own, with count = in_progress, beside the row of the
same (target, frames, state, reason, goid, labels): add the two. Each commit replaces them, and the last one adds them to the others.
meta.missing (stage "waits in progress") tells which of them are missing; without meta.ongoing there are none.

Version 6 has no objects and no labels: no such table, no lock and holder, and none of stack's last three columns. It has none of span's
columns from in_progress_before on, and no exemplar.begun_before. Version 5 has no requests: none of the tables span, cause and exemplar.
Version 4 has no missing, no notes, no stack.halted_ns and no stack.late_ns. Version 3 has no governor and no margin_ns of sampled
intervals. Version 2 has no stack.margin_ns. Version 1 has no tables pause and subwindow, no interval.waker_goid and interval.tid and none
of stack's last four columns.
"""

from __future__ import annotations

APPLICATION_ID = 0x676F7472
SCHEMA_VERSION = 7

SUMS = {
    "target": "count(*)", "frame": "count(*)",
    "stack": "coalesce(sum((count + total_ns) & 0xFFFFFFFFFF), 0)", "interval": "coalesce(max(rowid), -1)",
    "pause": "count(*)",
}
"""Expressions over the tables, whose values meta.sums has."""

REQUEST_SUMS = {
    "span": "count(*)", "cause": "count(*)", "exemplar_step": "count(*)",
    "span_bucket": "coalesce(sum((count + total_ns) & 0xFFFFFFFFFF), 0)",
    "span_wait": "coalesce(sum((count + total_ns) & 0xFFFFFFFFFF), 0)",
}
"""Likewise, from version 6 on."""

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE target (id INTEGER PRIMARY KEY, description TEXT NOT NULL);
CREATE TABLE frame (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, file TEXT NOT NULL, line INTEGER NOT NULL, kind TEXT NOT NULL,
    inlined INTEGER NOT NULL
);
CREATE TABLE object (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, address INTEGER, text TEXT NOT NULL);
CREATE TABLE lock (
    id INTEGER PRIMARY KEY, target INTEGER NOT NULL REFERENCES target(id), object INTEGER NOT NULL REFERENCES object(id),
    contended_ns INTEGER NOT NULL, explained_ns INTEGER NOT NULL
);
CREATE TABLE holder (
    lock INTEGER NOT NULL REFERENCES lock(id), number INTEGER NOT NULL, frames TEXT NOT NULL, held_ns INTEGER NOT NULL,
    sure_ns INTEGER NOT NULL, count INTEGER NOT NULL, reading INTEGER NOT NULL, waits TEXT NOT NULL, PRIMARY KEY (lock, number)
) WITHOUT ROWID;
CREATE TABLE stack (
    id INTEGER PRIMARY KEY, target INTEGER NOT NULL REFERENCES target(id), state TEXT NOT NULL, reason TEXT NOT NULL,
    goid INTEGER, frames TEXT NOT NULL, count INTEGER NOT NULL, total_ns INTEGER NOT NULL, max_ns INTEGER NOT NULL,
    squares REAL NOT NULL, goroutines INTEGER NOT NULL, in_progress INTEGER NOT NULL, histogram TEXT NOT NULL,
    stopped_ns INTEGER NOT NULL, long_runs INTEGER NOT NULL, long_run_max_ns INTEGER NOT NULL, margin_ns INTEGER,
    halted_ns INTEGER NOT NULL DEFAULT 0, late_ns INTEGER NOT NULL DEFAULT 0, object INTEGER REFERENCES object(id),
    goroutines_there INTEGER NOT NULL DEFAULT 0, labels TEXT
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
CREATE TABLE span (
    id INTEGER PRIMARY KEY, target INTEGER NOT NULL REFERENCES target(id), function TEXT NOT NULL, count INTEGER NOT NULL,
    total_ns INTEGER NOT NULL, max_ns INTEGER NOT NULL, squares REAL NOT NULL, histogram TEXT NOT NULL, in_progress INTEGER NOT NULL,
    begun_before INTEGER NOT NULL, traced_ns INTEGER NOT NULL, in_progress_before INTEGER, lasting TEXT NOT NULL,
    lasting_ns INTEGER NOT NULL, doing TEXT NOT NULL, windows INTEGER NOT NULL, cut TEXT NOT NULL, cut_ns INTEGER NOT NULL
);
CREATE TABLE span_bucket (
    span INTEGER NOT NULL REFERENCES span(id), bucket INTEGER NOT NULL, count INTEGER NOT NULL, total_ns INTEGER NOT NULL,
    cpu_ns INTEGER NOT NULL, followed INTEGER NOT NULL, followed_ns INTEGER NOT NULL, PRIMARY KEY (span, bucket)
) WITHOUT ROWID;
CREATE TABLE span_wait (
    span INTEGER NOT NULL REFERENCES span(id), bucket INTEGER NOT NULL, stack INTEGER NOT NULL REFERENCES stack(id),
    count INTEGER NOT NULL, total_ns INTEGER NOT NULL, PRIMARY KEY (span, bucket, stack)
) WITHOUT ROWID;
CREATE TABLE span_other (
    span INTEGER NOT NULL REFERENCES span(id), bucket INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
    count INTEGER NOT NULL, total_ns INTEGER NOT NULL, PRIMARY KEY (span, bucket, state, reason)
) WITHOUT ROWID;
CREATE TABLE cause (
    id INTEGER PRIMARY KEY, text TEXT NOT NULL, frames TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, object TEXT NOT NULL
);
CREATE TABLE span_cause (
    span INTEGER NOT NULL REFERENCES span(id), bucket INTEGER NOT NULL, cause INTEGER NOT NULL REFERENCES cause(id),
    total_ns INTEGER NOT NULL, PRIMARY KEY (span, bucket, cause)
) WITHOUT ROWID;
CREATE TABLE exemplar (
    id INTEGER PRIMARY KEY, span INTEGER NOT NULL REFERENCES span(id), start_ns INTEGER NOT NULL, duration_ns INTEGER NOT NULL,
    goid INTEGER NOT NULL, what TEXT, labels TEXT NOT NULL, in_progress INTEGER NOT NULL, begun_before INTEGER NOT NULL
);
CREATE TABLE exemplar_step (
    exemplar INTEGER NOT NULL REFERENCES exemplar(id), number INTEGER NOT NULL, goid INTEGER NOT NULL, start_ns INTEGER NOT NULL,
    duration_ns INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, frames TEXT NOT NULL, object TEXT NOT NULL,
    PRIMARY KEY (exemplar, number)
) WITHOUT ROWID;
"""
