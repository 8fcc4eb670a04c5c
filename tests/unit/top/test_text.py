"""The live view as text: what is left out where there is little room."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from gotrace.profile.types import Target
from gotrace.profile.types import Window as Traced
from gotrace.top.text import print_screen, rate, screen_json, title_of, trend_of
from gotrace.top.types import Place, RequestRow, Row, Screen

TARGET = Target(42, "/srv/api", "api\x1b[2J", "go1.27.3", "build info", "", True, False, False, "amd64")
PLACE = Place("example.com/shop/store.(*DB).query", "example.com/shop/store/db.go", 85, "waiting", "IO wait", "tcp 10.0.0.7:5432")
ROW = Row(PLACE, 12, 81.83, 1_740_000_000, 0.5, 12_100_000, 22_000_000, 23_500_000, tuple(range(60)))
REQUEST = RequestRow(
    "net/http.serverHandler.ServeHTTP", 40, 3, 3.67, 8_700, 5_390_000, 5_400_000, 6_000_000, 10_000_000_000, "waits for tcp 10.0.0.7:5432", 0.81,
)
SCREEN = Screen(
    TARGET, Traced("2026-11-29T12:34:56.789+00:00", 10_000_000_000, "exact", 10_000_000_000), 10_000_000_000, [ROW] * 3, [REQUEST],
    {"waiting": 900, "syscall": 100}, 2148.4, 0.0123, 2,
)


@pytest.mark.parametrize(
    ("room", "title"),
    [
        (100, "waiting: IO wait (tcp 10.0.0.7:5432)  example.com/shop/store.(*DB).query db.go:85"),
        (75, "waiting: IO wait (tcp 10.0.0.7:5432)  example.com/shop/store.(*DB).query"),
        (60, "IO wait  example.com/shop/store.(*DB).query db.go:85"),
        (45, "IO wait  example.com/shop/store.(*DB).query"),
        (40, "IO wait  store.(*DB).query"),
    ],
)
def test_titles(room: int, title: str) -> None:
    assert title_of(ROW, room) == title
    assert len(title_of(ROW, 12)) == 12


def test_a_trend_is_of_all_seconds() -> None:
    assert trend_of(ROW) == "▁▂▃▄▄▅▆▇▇█" and trend_of(ROW, 5) == "▂▃▅▆█"
    assert trend_of(Row(PLACE, 0, 0, 0, 0, 0, 0, 0, ())) == "" and len(trend_of(Row(PLACE, 0, 0, 0, 0, 0, 0, 0, (0, 3)))) == 2


@pytest.mark.parametrize(("per_s", "text"), [(0, "0"), (0.0123, "0.0123"), (3.666, "3.67"), (99.94, "99.9"), (1234.5, "1234")])
def test_rates(per_s: float, text: str) -> None:
    assert rate(per_s) == text


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_table(width: int) -> None:
    out = io.StringIO()
    print_screen(SCREEN, SCREEN.rows, Console(file=out, width=width, highlight=False), "12:34:56")
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert lines[0].startswith("12:34:56  api\\x1b[2J (pid 42)") and "2,148 intervals/s" in lines[0]
    assert "costs about 1.2 %" in lines[0] and "2 lost" in lines[0]
    assert lines[1] == "waiting 90.0 %  syscall 10.0 %"
    assert all(len(line) <= width for line in lines[2:])
    assert lines[4].split()[:2] == ["now", "rate/s"] and len(lines) == 9
    assert ("share" in lines[4], "trend" in lines[4]) == (width > 80, width > 80)
    assert "ServeHTTP  81% waits" in lines[3]


def test_json() -> None:
    text = screen_json(SCREEN)
    assert text.endswith("\n") and text.count("\n") == 1 and text.isascii()
    found = json.loads(text)
    assert list(found)[:4] == ["target", "window", "rows", "requests"]
    contract = {"place", "state", "reason", "object", "waiting_now", "rate_per_s", "total_ns", "p50_ns", "p99_ns", "max_ns"}
    assert contract <= found["rows"][0].keys() and found["rows"][0]["object"] == "tcp 10.0.0.7:5432"


@pytest.mark.parametrize(("traced_ns", "said"), [(10 * 10**9, ""), (9_200_000_000, ""), (2 * 10**9, "traced for 2.00 s of 10.0 s"), (0, "for 0 ns of")])
def test_requests_that_were_traced_for_a_part_of_the_window(traced_ns: int, said: str) -> None:
    screen = replace(SCREEN, requests=[replace(REQUEST, traced_ns=traced_ns)])
    console = Console(file=io.StringIO(), width=120)
    print_screen(screen, screen.rows, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("! requests were traced for" in text) == bool(said) and said in text
    assert json.loads(screen_json(screen))["requests"][0]["traced_ns"] == traced_ns
