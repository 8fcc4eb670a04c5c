"""The Perfetto trace as Perfetto's own trace_processor reads it, asked in SQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from profiles import HOSTILE, MS, S, go, profile, stat
from timelines import pipeline
from traceprocessor import complaints, queried, rows

from gotrace.export.perfetto import render_perfetto
from gotrace.profile.types import Profile, TimelineInterval

# A slice, the track it lies on, and the track above that.
SLICES = """
    SELECT slice.name AS slice_name, slice.ts AS ts, slice.dur AS dur, track.name AS track_name, above.name AS above_name,
           extract_arg(slice.arg_set_id, 'debug.function') AS function
    FROM slice JOIN track ON slice.track_id = track.id LEFT JOIN track AS above ON track.parent_id = above.id
"""


@pytest.fixture
def trace(tmp_path: Path):
    def written(made: Profile) -> Path:
        path = tmp_path / "x.pftrace"
        path.write_bytes(render_perfetto(made))
        return path

    return written


def test_states_are_slices_of_the_goroutines_track(trace) -> None:
    with queried(trace(pipeline())) as processor:
        assert not complaints(processor)
        found = rows(processor, SLICES + "WHERE track_name = 'goroutine 5 main.consume' ORDER BY ts")
        zero, = rows(processor, "SELECT MIN(ts) FROM slice")[0]
    assert [(name, ts - zero, dur, above, function) for name, ts, dur, _, above, function in found] == [
        ("waiting: chan receive", 0, 3 * MS, "goroutines", "main.consume"),
        ("runnable: ready", 3 * MS, MS, "goroutines", "main.consume"),
        ("waiting: chan receive", 10 * S - 4 * MS, 4 * MS, "goroutines", "main.consume"),
    ]


def test_wakeups_are_arrows_from_the_waker(trace) -> None:
    with queried(trace(pipeline())) as processor:
        found = rows(processor, """
            SELECT came.name AS came_name, came_track.name AS from_track, went.name AS went_name, went_track.name AS to_track
            FROM flow
            JOIN slice AS came ON flow.slice_out = came.id JOIN track AS came_track ON came.track_id = came_track.id
            JOIN slice AS went ON flow.slice_in = went.id JOIN track AS went_track ON went.track_id = went_track.id
        """)
    assert found == [("wakes goroutine 5", "goroutine 9 main.produce", "runnable: ready", "goroutine 5 main.consume")]


def test_threads_pauses_and_losses_have_tracks(trace) -> None:
    made = pipeline()
    waits, ready, sleeps = (part.stack for part in made.timeline)
    made.timeline = [
        TimelineInterval(5, 0, 3 * MS, waits, 9, 71), TimelineInterval(5, 3 * MS, MS, ready, 9, 71),
        TimelineInterval(5, 6 * MS, MS, waits, 9, 72), TimelineInterval(9, MS, 7 * MS, sleeps, 0, 72),
    ]
    with queried(trace(made)) as processor:
        assert not complaints(processor)
        found = rows(processor, SLICES + "WHERE above_name = 'threads' ORDER BY ts")
        pause, = rows(processor, SLICES + "WHERE track_name = 'stop the world'")
        about, = rows(processor, SLICES + "WHERE track_name = 'gotrace: window and losses'")
    assert [(track, name, dur) for name, _, dur, track, _, _ in found] == [
        ("thread 71", "goroutine 5", 2 * MS), ("thread 72", "goroutine 5", MS), ("thread 72", "goroutine 9", 10 * S - 8 * MS),
    ]
    assert pause[0] == "GC mark" and pause[2] == MS
    assert about[2] == 10 * S and "no losses" in about[0]


def test_hostile_names_are_read_without_complaint(trace) -> None:
    made = profile([])
    for goid, name in enumerate(HOSTILE.values(), 1):
        stack = stat([go(name, name)], [MS], reason=name)
        stack.goid = goid
        made.stacks.append(stack)
        made.timeline.append(TimelineInterval(goid, 0, MS, stack))
    with queried(trace(made)) as processor:
        assert not complaints(processor)
        assert rows(processor, "SELECT COUNT(*) FROM slice JOIN track ON slice.track_id = track.id WHERE track.name GLOB 'goroutine *'") == [(len(HOSTILE),)]
