"""Parts of a running trace as profiles of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from liveviews import hand_on, now_waiting
from profiles import MS, S, durations, go, profile, stat
from requestprofiles import requests_profile

import gotrace.top.recent as module
from gotrace.export import render
from gotrace.profile.requests import Span
from gotrace.profile.types import Pause, Profile, StackStat
from gotrace.top.history import Window
from gotrace.top.view import LiveView


class Running:
    """A trace of a stack that waits 10 ms each second, and one that did so in the first five seconds only."""

    def __init__(self) -> None:
        self.steady = stat([go("main.steady")], [], reason="select")
        self.early = stat([go("main.early")], [], reason="select")
        self.view = LiveView()
        self.seconds = 0
        self.more: dict[str, object] = {}
        self.view.opened(self.profile())

    def profile(self) -> Profile:
        made = profile([self.steady, self.early], complete=False, **self.more)
        return replace(made, window=replace(made.window, start="2026-11-29T12:00:00.000+00:00", duration_ns=self.seconds * S,
                                            attached_ns=self.seconds * S))

    def run(self, seconds: int, waiting: list[StackStat] = []) -> None:  # noqa: B006
        for _ in range(seconds):
            self.seconds += 1
            for stack in (self.steady, self.early)[: 2 if self.seconds <= 5 else 1]:
                stack.distribution.add(durations([10 * MS]))
                stack.stopped_ns += MS
            hand_on(self.view, self.profile(), waiting)

    def counts(self, window: Window) -> dict[str, int]:
        return {stack.frames[0].name: stack.distribution.count for stack in self.view.profile(window).stacks}


@pytest.fixture
def running() -> Running:
    made = Running()
    made.run(100)
    return made


def test_each_window_has_what_ended_in_it(running: Running) -> None:
    assert running.counts(Window.START) == {"main.steady": 100, "main.early": 5}
    assert running.counts(Window.LAST) == {"main.steady": 10}
    minute = running.view.profile(Window.FADING)
    assert running.counts(Window.FADING) == {"main.steady": minute.window.duration_ns // S} and 60 <= minute.window.duration_ns / S <= 70


def test_the_figures_are_those_of_the_window(running: Running) -> None:
    last = running.view.profile(Window.LAST)
    assert (last.window.duration_ns, last.window.attached_ns) == (10 * S, 10 * S) and last.window.start.startswith("2026-11-29T12:01:30")
    stack, = last.stacks
    assert (stack.distribution.total_ns, stack.stopped_ns) == (100 * MS, 10 * MS)
    assert any("window of 10.0 s" in note for note in last.notes) and not running.view.profile(Window.START).notes


def test_a_new_start(running: Running) -> None:
    running.view.reset()
    running.run(3)
    assert running.counts(Window.START) == running.counts(Window.LAST) == {"main.steady": 3}
    assert running.view.profile(Window.START).window.duration_ns == 3 * S


def test_waits_in_progress_count_as_far_as_they_lie_in_the_window(running: Running) -> None:
    running.run(1, [now_waiting(running.steady, 2 * S, 50 * S)])
    last = running.view.profile(Window.LAST).stacks[0]
    assert last.in_progress == 2 and last.distribution.count == 12 and last.distribution.max_ns == 10 * S
    assert running.view.profile(Window.START).stacks[0].distribution.total_ns == 101 * 10 * MS + 52 * S


def test_pauses_of_the_window(running: Running) -> None:
    running.more["pauses"] = [Pause("GC mark termination", 3 * S, MS), Pause("GC mark termination", 95 * S, MS)]
    running.run(1)
    assert [pause.start_ns for pause in running.view.profile(Window.LAST).pauses] == [95 * S - 91 * S]


def test_requests_of_the_window(running: Running) -> None:
    """The second thousand of them ends in the last ten seconds."""
    first, both = requests_profile(), requests_profile()
    for span in both.requests:
        twice(span)
    running.more["requests"] = first.requests
    running.run(20)
    running.more["requests"] = both.requests
    running.run(1)
    last = running.view.profile(Window.LAST)
    for gained, one in zip(last.requests, first.requests, strict=True):
        assert gained.latency.histogram == one.latency.histogram and gained.buckets.keys() == one.buckets.keys()
        for number, bucket in gained.buckets.items():
            whole = one.buckets[number]
            assert (bucket.count, bucket.total_ns, bucket.cpu_ns) == (whole.count, whole.total_ns, whole.cpu_ns)
            assert bucket.causes == {cause: ns for cause, ns in whole.causes.items() if ns}
            # Their stacks are not among the window's: told by state and reason.
            told = sum(wait.total_ns for wait in bucket.other.values())
            assert not bucket.waits and told == sum(wait.total_ns for wait in (*whole.waits.values(), *whole.other.values()))
    assert running.view.profile(Window.START).requests[0].latency.count == 2 * first.requests[0].latency.count
    assert render(last, ".html", False)


def test_what_windows_cut_off_is_told(running: Running) -> None:
    first, both = requests_profile(), requests_profile()
    for made, windows, cut in ((first, 4, [700 * MS]), (both, 6, [700 * MS, 900 * MS])):
        for span in made.requests:
            span.windows, span.cut, span.lasting, span.in_progress_before = windows, durations(cut), durations([5 * S]), 1
            span.doing = {"sleep": 1}
    running.more["requests"] = first.requests
    running.run(20)
    running.more["requests"] = both.requests
    running.run(1)
    span = running.view.profile(Window.LAST).requests[0]
    assert (span.windows, span.cut.count, span.in_progress_before, span.lasting.max_ns, span.doing) == (3, 1, 1, 5 * S, {"sleep": 1})


def twice(span: Span) -> None:
    span.latency.add(replace(span.latency, histogram=dict(span.latency.histogram)))
    for bucket in span.buckets.values():
        for name in ("count", "total_ns", "cpu_ns", "followed", "followed_ns"):
            setattr(bucket, name, 2 * getattr(bucket, name))
        for wait in (*bucket.waits.values(), *bucket.other.values()):
            wait.count, wait.total_ns = 2 * wait.count, 2 * wait.total_ns
        bucket.causes = {cause: 2 * ns for cause, ns in bucket.causes.items()}


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_GAINS", 30)
    running = Running()
    running.run(100)
    window = running.view.profile(Window.FADING).window
    assert 20 <= window.duration_ns / S <= 70 and running.counts(Window.FADING)["main.steady"] == window.duration_ns // S
    assert running.counts(Window.START) == {"main.steady": 100, "main.early": 5}
