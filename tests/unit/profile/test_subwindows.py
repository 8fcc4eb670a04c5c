"""Figures over time: every interval that ended is in one sub-window, however long the trace, in memory and in the capture."""

from __future__ import annotations

import sqlite3
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import MS, S, durations, go, profile, stat

from gotrace.capture.reader import read_capture
from gotrace.capture.writer import CaptureWriter
from gotrace.common.errors import GotraceError
from gotrace.common.vocabulary import FrameKind
from gotrace.profile.groups import grouped
from gotrace.profile.subwindows import MAX_ROWS, MAX_SUBWINDOWS, SubWindows
from gotrace.profile.types import Frame, StackStat


def grow(stack: StackStat, values: list[int]) -> StackStat:
    stack.distribution.add(durations(values))
    return stack


def test_each_second_has_what_ended_in_it() -> None:
    tracker, busy, rare = SubWindows(), stat([go("main.f")], []), stat([go("main.g")], [])
    tracker.add([grow(busy, [MS, 3 * MS])], S)
    tracker.add([grow(busy, [5 * MS]), grow(rare, [MS])], 2 * S)
    tracker.add([], 3 * S)
    tracker.add([grow(busy, [7 * MS])], 4 * S)
    assert [row[:4] for row in busy.subwindows] == [(0, S, 2, 4 * MS), (S, S, 1, 5 * MS), (3 * S, S, 1, 7 * MS)]
    assert [row[:4] for row in rare.subwindows] == [(S, S, 1, MS)]
    assert busy.subwindows[0].jitter_ns == pytest.approx(MS, rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 400_000), st.lists(st.integers(0, 10**10), max_size=3)), max_size=120))
def test_sums_are_kept_and_rows_bounded_in_traces_of_any_length(steps: list[tuple[int, list[int]]]) -> None:
    tracker, stack, now = SubWindows(), stat([go("main.f")], []), 0
    for step_ms, values in steps:
        now += step_ms * MS
        tracker.add([grow(stack, values)], now)
    rows = stack.subwindows
    assert len(rows) <= MAX_SUBWINDOWS
    assert len({row.duration_ns for row in rows}) <= 1
    assert [row.start_ns for row in rows] == sorted({row.start_ns for row in rows})
    assert all(row.start_ns % row.duration_ns == 0 and row.start_ns <= now for row in rows)
    d = stack.distribution
    assert (d.count, d.total_ns, d.squares) == tuple(sum(row[at] for row in rows) for at in (2, 3, 4))


def test_many_stacks_share_a_bound() -> None:
    tracker = SubWindows()
    stacks = [stat([go(f"main.f{index}")], []) for index in range(MAX_ROWS // 8)]
    for second in range(1, 20):
        tracker.add([grow(stack, [MS]) for stack in stacks], second * S)
    assert sum(len(stack.subwindows) for stack in stacks) <= MAX_ROWS
    assert all(sum(row.count for row in stack.subwindows) == 19 for stack in stacks)


def test_capture_gives_them_back_also_after_two_became_one(tmp_path: Path) -> None:
    path = tmp_path / "x.gotrace"
    tracker, often, once = SubWindows(), stat([go("main.f")], []), stat([go("main.g")], [])
    made = profile([often, once])
    writer = CaptureWriter(path, force=False)
    writer.put_target(made.targets[0])
    for second in range(1, MAX_SUBWINDOWS + 12):
        changed = [grow(often, [second * MS])] + ([grow(once, [MS])] if second == 5 else [])
        tracker.add(changed, second * S)
        writer.put_stacks(changed)
        writer.commit(made)
    writer.close()
    read = {stack.frames[0].name: stack for stack in read_capture(path).stacks}
    assert read["main.f"].subwindows == often.subwindows
    assert sum(row.count for row in read["main.f"].subwindows) == MAX_SUBWINDOWS + 11
    # Nothing was put for it since: its row is the finer one.
    assert [row[:4] for row in read["main.g"].subwindows] == [(4 * S, S, 1, MS)]


@pytest.mark.parametrize("row", [(1, 0, 0, 1, 1, 1.0), (1, -5, 5, 1, 1, 1.0), (99, 0, 5, 1, 1, 1.0), (1, 0, 5, "x", 1, 1.0), (1, 0, 5, 1, 1, 1e300)])
def test_damaged_sub_windows_are_refused(tmp_path: Path, row: tuple) -> None:
    path = tmp_path / "x.gotrace"
    made = profile([stat([go("main.f")], [MS])])
    writer = CaptureWriter(path, force=False)
    writer.put_target(made.targets[0])
    writer.put_stacks(made.stacks)
    writer.commit(made)
    writer.close()
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO subwindow VALUES (?,?,?,?,?,?)", row)
    db.close()
    with pytest.raises(GotraceError, match="damaged"):
        read_capture(path)


def test_a_place_has_the_sub_windows_of_all_its_stacks() -> None:
    tracker = SubWindows()
    stacks = [stat([Frame(f"main.wake{n}", kind=FrameKind.WAKER), go("main.f")], []) for n in range(3)]
    tracker.add([grow(stack, [MS]) for stack in stacks], S)
    tracker.add([grow(stacks[1], [MS])], 2 * S)
    group, = grouped(stacks)
    assert group.members == [0, 1, 2]
    assert [row.count for row in group.stack.subwindows] == [3, 1]
    assert [row.count for row in stacks[1].subwindows] == [1, 1]


def test_summing_up_a_place_leaves_its_stacks_as_they_were() -> None:
    stacks = [grow(stat([Frame(f"main.wake{n}", kind=FrameKind.WAKER), go("main.f")], []), [MS]) for n in range(2)]
    alone = grow(stat([go("main.g")], []), [MS])
    before = deepcopy([*stacks, alone])
    groups = {group.stack.frames[-1].name: group.stack.distribution for group in grouped([*stacks, alone])}
    assert {name: distribution.count for name, distribution in groups.items()} == {"main.f": 2, "main.g": 1}
    assert [*stacks, alone] == before
