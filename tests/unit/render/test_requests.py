"""Requests in the summary on a terminal."""

from __future__ import annotations

import io

import pytest
from profiles import MS, S, shop_profile, target
from requestprofiles import FSYNC_CAUSE, HTTP, QUERY, hostile_requests, requests_profile, with_in_progress
from rich.console import Console

from gotrace.profile.requests import Exemplar, Span, bands
from gotrace.profile.types import Profile
from gotrace.render.requests import largest_steps, time_parts
from gotrace.render.summary import print_summary


def printed(made: Profile, width: int = 80, **options: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_summary(made, console, **options)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_summary_begins_with_the_requests() -> None:
    lines = printed(requests_profile()).splitlines()
    assert lines[0].startswith("shop (pid 4242)") and lines[2] == f"Requests: {HTTP}"
    assert lines[3] == "  1,000 requests (100/s), 2 in progress"
    assert lines[4] == "  p50 950 µs  p90 1.38 ms  p99 56.6 ms  p99.9 59.8 ms  max 59.8 ms"
    places = [next(at for at, line in enumerate(lines) if line.startswith(begin)) for begin in (
        f"Requests: {HTTP}", "  p0-50 ", "  p50-90 ", "  p90-99 ", "  p99-100 ", "  The slowest:", f"Requests: {QUERY}", "state ", "Top ",
    )]
    assert places == sorted(places)
    assert next(at for at, line in enumerate(lines) if " off the CPU in " in line) > places[-3]


def test_a_band_divides_its_time_and_names_its_causes() -> None:
    text = printed(requests_profile(), 160)
    band = text[text.index("  p99-100 ") : text.index("  The slowest:")].splitlines()
    assert band[0] == (
        "  p99-100  10, mean 57.5 ms: waiting 99.7 % (chan receive 99.3 %, sync.Mutex.Lock 0.4 %), running 0.3 %"
    )
    assert band[1] == f"     89 %  {FSYNC_CAUSE.text}"
    assert [line.split("%")[0].strip() for line in band[2:4]] == ["<1", "<1"]
    assert band[4] == "           causes explain 90 % of the time" and len(band) == 5


def test_the_shares_of_a_band_are_all_of_it() -> None:
    made = requests_profile()
    stacks = {stack.key: stack for stack in made.stacks}
    for band in bands(made.requests[0], (0.0, 1.0)):
        shares = [float(part.split()[1]) for part in time_parts(band, stacks)]
        assert sum(shares) == pytest.approx(100, abs=0.2)


def test_the_slowest_have_what_they_were_and_their_largest_steps() -> None:
    made = requests_profile()
    text = printed(made, 160, top=3)
    part = text[text.index("  The slowest:") : text.index(f"Requests: {QUERY}")].splitlines()
    assert part[1] == "   1. 59.8 ms  at 1.00 µs, goroutine 100  trace_id=4bf92f0"
    assert part[3] == "   2. 59.7 ms  PUT /kv/1  at 500 ms, goroutine 101  trace_id=4bf92f1"
    assert part[4] == "      59.3 ms fdatasync fd 8 → /var/kv/0.wal (goroutine 17)"
    assert len([line for line in part if line.strip()]) == 7
    steps = largest_steps(made.requests[0].exemplars[2])
    assert len(steps) == 1 and steps[0].endswith("(goroutine 17)")


def test_nothing_is_wider_than_the_terminal() -> None:
    for width in (80, 60, 140):
        assert max(map(len, printed(requests_profile(), width).splitlines())) <= width


def test_hostile_names_do_nothing_to_a_terminal() -> None:
    for width in (80, 140):
        text = printed(hostile_requests(), width)
        assert all(line.isprintable() for line in text.split("\n")) and "[bold red]f" in text
        assert max(map(len, text.splitlines())) <= width


def test_without_requests_nothing_is_said_of_them() -> None:
    text = printed(shop_profile())
    assert "Requests" not in text and "request" not in text.splitlines()[1] and "off the CPU in" in text.splitlines()[1]


def test_requests_of_which_none_ended() -> None:
    made = shop_profile(requests=[Span("main.serve", 4242, in_progress=3, exemplars=[Exemplar(5, 700 * MS, 9, in_progress=True)])])
    text = printed(made)
    assert "  0 requests (0/s), 3 in progress\n  The slowest one:\n   1. at least 700 ms  at 5 ns, goroutine 9, in progress\n" in text


def test_what_has_not_ended_is_told_beside_the_percentiles() -> None:
    lines = printed(with_in_progress(requests_profile(), [10 * S, 10 * S, 2 * MS], before=2), 160).splitlines()
    at = lines.index("  1,000 requests (100/s), 3 in progress")
    assert lines[at + 2 : at + 4] == [
        "  in progress: the longest for at least 10.0 s, 2 begun before the window: 2 in chan receive in main.(*Store).query, 1 in running",
        "  the percentiles are of requests that ended; with those in progress p90 is at least 19.9 ms, "
        "p99.9 is at least 10.0 s, 2 have lasted longer than the maximum",
    ]
    at = lines.index("   1. at least 10.0 s  begun before the window, goroutine 700, in progress")
    assert lines[at + 1] == "      10.0 s chan receive in main.(*Store).query"


def test_what_has_begun_lately_changes_no_percentile() -> None:
    text = printed(with_in_progress(requests_profile(), [MS // 2]), 160)
    assert "  in progress 500 µs: running\n" in text and "that ended" not in text and "begun before" not in text


def test_several_processes_are_told_apart() -> None:
    made = requests_profile()
    made.targets.append(target(4300, "cart"))
    assert f"Requests: {HTTP}  shop (4242)\n" in printed(made)
