"""The sink behind the live view: it keeps what it is handed by place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from liveviews import hand_on, now_waiting, viewed
from profiles import MS, S, durations, go, hostile_profile, profile, shop_profile, spread, stat
from requestprofiles import requests_profile

from gotrace.common.vocabulary import FrameKind, State
from gotrace.profile.types import Frame
from gotrace.run.sinks import Moment
from gotrace.top import view as module
from gotrace.top.display import Display
from gotrace.top.history import Window
from gotrace.top.text import request_notes, screen_json
from gotrace.top.view import LiveView, place_in
from gotrace.watch.protocol import Waits

SCHEMA = json.loads((Path(__file__).parents[3] / "docs/schema/top.json").read_text())


def socket(port: int) -> Frame:
    return Frame(f"read(fd 7 → tcp 10.0.0.1:{40000 + port}→10.0.0.7:{port})", kind=FrameKind.SYSCALL)


def test_nothing_before_the_trace_runs() -> None:
    assert LiveView().screen() is None


def test_sums_by_place() -> None:
    made = shop_profile()
    screen = viewed(made).screen()
    assert sum(row.total_ns for row in screen.rows) == made.total().total_ns
    assert screen.states == {state.value: d.total_ns for state, d in made.by_state().items()}
    assert {row.place for row in screen.rows} == {place_in(stack) for stack in made.stacks}
    assert (screen.cost, round(screen.intervals_per_s, 1)) == (0.0123, 2148.4)


def test_a_batch_adds_what_is_new() -> None:
    made = profile([stat([go("main.f")], [MS] * 10, reason="select")])
    view = viewed(made)
    made.stacks[0].distribution.add(stat([go("main.f")], [9 * MS] * 5).distribution)
    hand_on(view, made)
    row, = view.screen().rows
    assert row.total_ns == 55 * MS and row.max_ns == 9 * MS and row.p50_ns < 2 * MS
    assert row.trend == (10 * MS, 45 * MS)
    view.reset()
    assert view.screen().rows == []
    made.stacks[0].distribution.add(stat([go("main.f")], [2 * MS]).distribution)
    hand_on(view, made)
    assert view.screen().rows[0].total_ns == 2 * MS


def test_those_that_wait_now_are_in_the_sums() -> None:
    one = stat([go("main.f")], [MS] * 10, reason="chan receive")
    other = stat([go("main.g")], [], reason="chan receive")
    made = profile([one])
    view = viewed(made, [now_waiting(one, 3 * S, 4 * S), now_waiting(other, S)])
    rows = {row.place.name: row for row in view.screen().rows}
    # The window is as long as the test has run: no wait in it is longer.
    assert rows["main.f"].waiting_now == 2 and rows["main.g"].waiting_now == 1
    assert 10 * MS < rows["main.f"].total_ns < 6 * S and rows["main.g"].rate_per_s == 0
    hand_on(view, made)
    assert [row.waiting_now for row in view.screen().rows] == [0]
    view.closed(replace(made, complete=True))
    assert view.screen().rows[0].total_ns == 10 * MS


def test_with_and_without_peers() -> None:
    made = profile([
        stat([socket(port), go("main.query", "db.go", 7)], [MS * port // 1000], State.SYSCALL, "read") for port in (5432, 6379)
    ])
    view = viewed(made, [now_waiting(made.stacks[0], S)])
    assert sorted(row.place.object for row in view.screen().rows) == ["tcp 10.0.0.7:5432", "tcp 10.0.0.7:6379"]
    row, = view.screen(objects=False).rows
    assert row.place.object == "" and row.waiting_now == 1 and row.trend == (5432 * MS // 1000 + 6379 * MS // 1000,)
    assert [len(view.stacks_at(one.place)) for one in view.screen().rows] == [1, 1] and len(view.stacks_at(row.place)) == 2
    found = view.stacks_at(row.place)[0]
    assert found.distribution.total_ns == 6379 * MS // 1000 and found.distribution is not made.stacks[1].distribution


def test_what_is_idle() -> None:
    screen = viewed(shop_profile()).screen(idle=False)
    every = viewed(shop_profile()).screen()
    assert 0 < len(screen.rows) < len(every.rows) and not any(row.place.idle for row in screen.rows)
    assert screen.states == every.states and sum(row.share for row in screen.rows) == pytest.approx(1)


def test_requests() -> None:
    made = requests_profile()
    view = viewed(made)
    row = view.screen().requests[0]
    span = made.requests[0]
    assert (row.count, row.p99_ns, row.max_ns) == (span.latency.count, span.latency.percentile_ns(0.99), span.latency.max_ns)
    assert row.cause and 0 < row.cause_share <= 1
    assert view.screen(Window.LAST).requests[0].count == span.latency.count


def test_places_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PLACES", 50)
    made = profile([stat([go(f"main.f{number}")], spread(MS, 2 * MS, 3), reason="select") for number in range(80)])
    rows = viewed(made).screen().rows
    assert len(rows) == 51 and sum(row.total_ns for row in rows) == made.total().total_ns
    assert rows[0].place.name == "(other places)"


def test_hostile_names() -> None:
    made = hostile_profile()
    assert sum(row.total_ns for row in viewed(made).screen().rows) == made.total().total_ns


def test_what_is_to_be_saved_is_written_once() -> None:
    made, written = shop_profile(), []
    view = viewed(made)
    view.save(Window.START, written.append)
    assert not written
    hand_on(view, made, [now_waiting(made.stacks[0], S)])
    hand_on(view, made)
    saved, = written
    assert {stack.key for stack in saved.stacks} == {stack.key for stack in made.stacks}
    # With what is in progress.
    assert saved.total().total_ns == made.total().total_ns + S and saved.stacks[0].in_progress == made.stacks[0].in_progress + 1


def test_what_waits_is_unknown_while_no_probe_is_placed() -> None:
    made = shop_profile()
    view = viewed(made)
    running = replace(made, complete=False)
    view.commit(Moment(lambda: running, lambda: [Waits(unseen="no probe is placed now")]))
    screen = view.screen()
    assert {row.waiting_now for row in screen.rows} == {None} and screen.unseen == "no probe is placed now"
    lines = Display(sort=[0, 0, 0, 0]).body(screen, None, None, [], 100, 24)
    assert lines[1].plain.split()[0] == "?" and lines[-1].plain == "! what waits now is not known: no probe is placed now"
    view.commit(Moment(lambda: running, lambda: [Waits([now_waiting(made.stacks[0], S)])]))
    assert {row.waiting_now for row in view.screen().rows} == {0, 1}


def test_of_requests_in_windows_it_is_told_what_their_percentiles_lack() -> None:
    """A hundredth and more are cut off after 20 s, longer than any that ended."""
    made = requests_profile()
    made.requests = made.requests[:1]
    span = made.requests[0]
    count = span.latency.count
    span.windows, span.traced_ns, span.cut, span.in_progress_before = 3, 2 * S, durations([20 * S] * (count // 50)), None
    view = viewed(profile([]))
    hand_on(view, made)
    row = view.screen().requests[0]
    assert (row.windows, row.cut_off, row.in_progress_before) == (3, count // 50, None)
    assert row.at_least["p50_ns"] <= row.p90_ns < row.p99_ns < S < 19 * S < row.at_least["p99_ns"]
    screen = replace(view.screen(), span_ns=10 * S, requests=[replace(row, traced_ns=2 * S)])
    jsonschema.validate(json.loads(screen_json(screen)), SCHEMA)
    notes = request_notes(screen)
    assert notes[0] == "requests were traced for 2.00 s of 10.0 s (--max-overhead): the figures are estimates for the rest"
    assert notes[1] == f"{count // 50} requests had not ended as tracing paused: they are in the rate, and in no percentile"
    assert "with those that have not ended p90 is at least" in notes[2] and notes[2].endswith("p99 is at least 20.0 s")
    assert "began before the window is not known" in notes[3] and len(notes) == 4
    lines = [line.plain for line in Display(tab=1).body(screen, None, None, [], 200, 24)]
    assert lines[-4:] == [f"! {note}" for note in notes]
    nothing = replace(row, windows=1, cut_off=0, at_least={}, in_progress_before=0, traced_ns=10 * S)
    assert request_notes(replace(screen, requests=[nothing])) == []


def test_the_rate_of_requests_is_of_the_time_in_which_they_were_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the view stands at 10 s after the trace's begin; requests were traced for the first two."""
    clock = [0]
    monkeypatch.setattr(module.time, "monotonic_ns", lambda: clock[0])
    made = requests_profile()
    for span in made.requests:
        span.traced_ns = 0
    view = viewed(profile([]))
    view.reset()
    for second in range(1, 11):
        clock[0] = second * S
        traced = requests_profile() if second > 1 else made
        for span in traced.requests:
            span.traced_ns = min(2, second) * S
        hand_on(view, traced)
    count = made.requests[0].latency.count
    for row in view.screen().requests:
        assert (row.count, row.traced_ns, row.rate_per_s) == (count, 2 * S, count / 2)
