"""The screen of the live view, and its keys, without a terminal."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from liveviews import SCHED, now_waiting, viewed
from profiles import S, hostile_profile, shop_profile
from requestprofiles import requests_profile

from gotrace.top.display import HELP, TABS, Display, Group, histogram_lines
from gotrace.top.history import Window
from gotrace.top.types import Screen

GROUPS = [Group(5000 - 7 * number, f"waiting: select  main.worker{number}") for number in range(40)]


def shown(display: Display, screen: Screen | None, width: int = 80, height: int = 24, stacks=()) -> list[str]:
    lines = display.head(screen, SCHED, width) + display.body(screen, SCHED, GROUPS, list(stacks), width, height - 4)
    assert all(len(line.plain) <= width and line.plain.isprintable() for line in lines)
    assert len(lines) <= height - 1
    return [line.plain.rstrip() for line in lines]


@pytest.fixture
def screen() -> Screen:
    made = shop_profile()
    found = viewed(made, [now_waiting(made.stacks[0], S)]).screen()
    assert found is not None
    # The length of the window is that of the test.
    rows = [replace(row, rate_per_s=2.5, total_ns=row.place.line * 1_000_000, trend=(1, 2, 3)) for row in found.rows]
    requests = viewed(requests_profile()).screen().requests
    return replace(found, span_ns=10 * S, rows=rows, requests=[replace(row, rate_per_s=40.0, traced_ns=10 * S) for row in requests])


@pytest.mark.parametrize("size", [(80, 24), (200, 50)], ids=["small", "large"])
@pytest.mark.parametrize("tab", TABS)
def test_each_tab(tab: str, size: tuple[int, int], screen: Screen, golden) -> None:
    display = Display(tab=TABS.index(tab), idle=True)
    golden(f"top-{tab}-{size[0]}.txt", "\n".join(shown(display, screen, *size)) + "\n")


def test_before_the_first_batch() -> None:
    for tab in range(len(TABS)):
        assert shown(Display(tab=tab), None)[0] == "the trace begins"


@pytest.mark.parametrize(
    ("key", "name"),
    [("1", "waiting_now"), ("2", "rate_per_s"), ("3", "total_ns"), ("4", "share"), ("5", "p50_ns"), ("6", "p99_ns"), ("7", "max_ns")],
)
def test_sorting(key: str, name: str, screen: Screen) -> None:
    display = Display()
    assert display.press(key, screen)
    values = [getattr(row, name) for row in display.rows(screen)]
    assert values == sorted(values, reverse=True) and len(values) == len(screen.rows)
    assert "*" in shown(display, screen)[3]


def test_states_and_reasons(screen: Screen) -> None:
    display = Display()
    seen = []
    for _ in range(len(screen.states) + 1):
        seen.append(display.state)
        rows = display.rows(screen)
        assert rows and {row.place.state for row in rows} <= ({display.state} if display.state else set(screen.states))
        display.press("s", screen)
    assert seen == ["", *screen.states] and display.state == ""
    display.press("down", screen)
    reason = display.chosen(screen).place.reason
    display.press("r", screen)
    assert reason and {row.place.reason for row in display.rows(screen)} == {reason}
    display.press("r", screen)
    assert len(display.rows(screen)) == len(screen.rows)


def test_a_search_is_typed(screen: Screen) -> None:
    display = Display()
    display.press("slash", screen)
    for character in "Mutey":
        display.type(character, character)
    display.type("backspace", "\b")
    display.type("x", "x")
    assert display.searching == "Mutex" and display.type("enter", "\r") == "" and display.searching is None
    rows = display.rows(screen)
    assert rows and all("Mutex" in row.place.reason or "Mutex" in row.place.name for row in rows)
    assert "/Mutex" in shown(display, screen)[2]
    display.press("slash", screen)
    display.type("escape", "")
    assert display.pattern == "Mutex"
    display.press("slash", screen)
    display.type("ctrl+u", "")
    display.type("(", "(")
    assert "no regular expression" in display.type("enter", "") and display.pattern == "Mutex"
    display.press("slash", screen)
    display.type("ctrl+u", "")
    display.type("enter", "")
    assert len(display.rows(screen)) == len(screen.rows)


def test_the_cursor_stays_in_sight(screen: Screen) -> None:
    display = Display()
    for step in range(len(screen.rows) + 5):
        lines = shown(display, screen, height=10)
        assert sum(">" in line for line in lines[4:]) >= 1, step
        display.press("down", screen)
    assert display.chosen(screen) == display.rows(screen)[-1]
    display.press("home", screen)
    display.press("up", screen)
    assert display.cursor == 0


def test_other_keys(screen: Screen) -> None:
    display = Display()
    windows = []
    for _ in range(3):
        windows.append(display.window)
        display.press("m", screen)
    assert windows == [Window.START, Window.LAST, Window.FADING] and display.window is Window.START
    for key, name in (("p", "objects"), ("i", "idle"), ("space", "frozen"), ("enter", "opened"), ("question_mark", "helping")):
        before = getattr(display, name)
        display.press(key, screen)
        assert getattr(display, name) != before
    assert "FROZEN" in shown(display, screen)[2] and shown(display, screen)[3:] == HELP.splitlines()
    display.press("escape", screen)
    assert not display.opened and not display.helping
    for number in (1, 2, 3, 0, 3):
        display.press("shift+tab" if number == 3 and display.tab == 0 else "tab", screen)
        assert display.tab == number
    assert not display.press("z", screen)
    assert max(map(len, HELP.splitlines())) <= 80


def test_the_stacks_of_a_row(screen: Screen) -> None:
    made = shop_profile()
    view = viewed(made)
    display = Display()
    display.press("enter", screen)
    stacks = view.stacks_at(view.screen().rows[0].place)
    lines = shown(display, screen, 120, 60, stacks)
    text = "\n".join(lines)
    assert "#" in text and all(frame.name in text for frame in stacks[0].frames if frame.kind.value == "go")
    assert "waits, " in text


def test_a_histogram() -> None:
    lines = [line.plain for line in histogram_lines(Counter({0: 1, 80: 10, 81: 10, 88: 40}))]
    assert lines[-1].split()[-1] == "40" and lines[-1].count("#") == 40 and lines[-2].split()[-1] == "20" and lines[-2].count("#") == 20
    assert len(lines) <= 12 and histogram_lines(Counter()) == []


def test_hostile_names() -> None:
    made = hostile_profile()
    view = viewed(made)
    found = view.screen()
    for display in (Display(idle=True), Display(idle=True, opened=True)):
        shown(display, found, 100, 60, view.stacks_at(found.rows[0].place))
