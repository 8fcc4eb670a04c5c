"""What a trace went without, its notes and what a cap gave up are told wherever its figures are."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Browser
from captures import capture
from profiles import HOSTILE, S, durations, shop_profile, target
from requestprofiles import requests_profile
from rich.console import Console

from gotrace.capture.reader import read_capture
from gotrace.cli import run
from gotrace.common.errors import GotraceError
from gotrace.diff.compare import compare
from gotrace.export import render
from gotrace.export.about import comments
from gotrace.profile.told import request_gaps
from gotrace.profile.types import GovernorReport, GovernorStep, Missing, Profile
from gotrace.render.diff import print_diff
from gotrace.render.pagedata import page_data
from gotrace.render.progress import Ticker
from gotrace.render.summary import print_summary

Show = Callable[..., Browser]
CALLS = Missing("system calls", "the kernel hides its tracepoints", "states syscall and runqueue", 4242)
WAKERS = Missing("wakers", "--no-wakers", "who ended a wait")
NOTE = "the process was stopped as the window opened"
GAVE_UP = GovernorReport(0.05, 0.04, wakers_off_ns=9 * S, kernel_off_ns=8 * S, steps=(GovernorStep(S, 4242, "wakers", 0.3),))


def lacking(**more: object) -> Profile:
    return replace(shop_profile(), **{"missing": [CALLS, WAKERS], "notes": [NOTE], "governor": GAVE_UP, **more})  # type: ignore[arg-type]


def summary_of(profile: Profile, width: int = 200) -> str:
    out = io.StringIO()
    print_summary(profile, Console(file=out, width=width))
    return out.getvalue()


# ---- the capture


def test_a_capture_keeps_all_of_it(tmp_path: Path) -> None:
    made = lacking()
    made.stacks[0].halted_ns = 1_234_567
    path = capture(tmp_path / "x.gotrace", made)
    again = read_capture(path)
    assert (again.missing, again.notes) == (made.missing, made.notes)
    assert [stack.halted_ns for stack in again.stacks] == [1_234_567] + [0] * (len(made.stacks) - 1)
    db = sqlite3.connect(path)
    assert json.loads(db.execute("SELECT value FROM meta WHERE key = 'missing'").fetchone()[0])[0]["why"] == CALLS.why
    assert db.execute("SELECT max(halted_ns) FROM stack").fetchone() == (1_234_567,)
    assert db.execute("PRAGMA user_version").fetchone() == (7,)


def test_a_capture_of_version_4_stays_readable(tmp_path: Path) -> None:
    path = capture(tmp_path / "old.gotrace", lacking())
    db = sqlite3.connect(path)
    db.executescript(
        "ALTER TABLE stack DROP COLUMN halted_ns; DELETE FROM meta WHERE key IN ('missing', 'notes'); PRAGMA user_version = 4;"
    )
    db.close()
    again = read_capture(path)
    assert (again.missing, again.notes, {stack.halted_ns for stack in again.stacks}) == ([], [], {0})
    assert again.total() == shop_profile().total()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("missing", {"stage": "x"}), ("missing", ["x"]), ("missing", [{"stage": "x"}]),
        ("missing", [{"stage": 1, "why": "", "lacks": "", "pid": 0}]), ("missing", [{"stage": "", "why": "", "lacks": "", "pid": -1}]),
        ("missing", [{"stage": "", "why": "", "lacks": "", "pid": 0, "more": 1}]), ("notes", "x"), ("notes", [1]), ("notes", [None]),
    ],
)
def test_what_is_none_of_it_is_refused(tmp_path: Path, key: str, value: object) -> None:
    path = capture(tmp_path / "x.gotrace", shop_profile())
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = ? WHERE key = ?", (json.dumps(value), key))
    with pytest.raises(GotraceError, match="not a gotrace capture, or is damaged"):
        read_capture(path)


def test_no_negative_stop_is_read(tmp_path: Path) -> None:
    path = capture(tmp_path / "x.gotrace", shop_profile())
    with sqlite3.connect(path) as db:
        db.execute("UPDATE stack SET halted_ns = -1 WHERE id = 1")
    with pytest.raises(GotraceError, match="damaged"):
        read_capture(path)


# ---- what is printed and exported


def test_json_has_them_as_they_are() -> None:
    result = json.loads(render(lacking(), ".json"))
    assert result["missing"] == [
        {"stage": "system calls", "why": CALLS.why, "lacks": CALLS.lacks, "pid": 4242},
        {"stage": "wakers", "why": "--no-wakers", "lacks": WAKERS.lacks, "pid": 0},
    ]
    assert result["notes"] == [NOTE]
    assert (json.loads(render(shop_profile(), ".json"))["missing"], json.loads(render(shop_profile(), ".json"))["notes"]) == ([], [])


def test_the_summary_says_them_right_below_whose_it_is() -> None:
    lines = summary_of(lacking()).splitlines()
    assert lines[1:4] == [
        "MISSING system calls: the kernel hides its tracepoints: states syscall and runqueue",
        "MISSING wakers: --no-wakers: who ended a wait",
        f"note: {NOTE}",
    ]
    assert "MISSING" not in summary_of(shop_profile()) and "note:" not in summary_of(shop_profile())


def test_of_several_processes_it_says_which() -> None:
    made = replace(lacking(), targets=[target(4242), target(4300, "cart")], missing=[CALLS, CALLS, replace(CALLS, pid=4300)])
    said = [line for line in summary_of(made).splitlines() if line.startswith("MISSING")]
    assert [line.partition(":")[0] for line in said] == ["MISSING system calls of PID 4242", "MISSING system calls of PID 4300"]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_terminal_acts_on_them(text: str) -> None:
    said = summary_of(lacking(missing=[Missing(text, text, text)], notes=[text]))
    assert all(line.isprintable() for line in said.splitlines())
    assert render(lacking(missing=[Missing(text, text, text)], notes=[text]), ".svg")


def test_comments_of_exports_have_them_and_what_the_governor_gave_up() -> None:
    lines = comments(lacking())
    assert "MISSING system calls: the kernel hides its tracepoints: states syscall and runqueue" in lines and f"note: {NOTE}" in lines
    assert any(line.startswith("governor: tracing cost 4 %") for line in lines)
    assert any(line.startswith("90.0 % of the window: no wakers") for line in lines)
    assert any(line.startswith("80.0 % of the window: no system calls") for line in lines)
    assert not any("governor" in line for line in comments(lacking(governor=GovernorReport(0.05, 0.01))))


@pytest.mark.parametrize("suffix", [".svg", ".pb.gz", ".pftrace"])
def test_every_picture_and_trace_has_them(suffix: str) -> None:
    import gzip

    found = render(lacking(), suffix)
    found = gzip.decompress(found) if suffix == ".pb.gz" else found
    for words in (b"MISSING system calls: the kernel hides its tracepoints", NOTE.encode(), b"no wakers; the time"):
        assert words in found, words


def test_the_page_has_them() -> None:
    meta = page_data(lacking())["meta"]
    assert meta["missing"] == ["system calls: the kernel hides its tracepoints: states syscall and runqueue", "wakers: --no-wakers: who ended a wait"]
    assert meta["notes"] == [NOTE] and meta["governor"][0].startswith("governor: ") and len(meta["governor"]) == 3


def test_a_browser_shows_them(show: Show) -> None:
    page = show(lacking(complete=False))
    said = page.text("#warnings")
    for words in ("Missing: system calls: the kernel hides", f"Note: {NOTE}", "no wakers; the time", "Incomplete: ", "in progress then are missing"):
        assert words in said
    assert "goroutine" not in page.text("#facts")


def test_the_talk_at_the_start_has_them() -> None:
    out = io.StringIO()
    told = ["MISSING wakers: --no-wakers: who ended a wait", "note: a\x1b[2Jb"]
    Ticker(Console(file=out, width=80), [target()], 10 * S, quiet=False, verbose=0).started(told)
    first, *rest = out.getvalue().splitlines()
    assert first.startswith("Tracing off-CPU time of PID 4242")
    assert rest == ["  MISSING wakers: --no-wakers: who ended a wait", "  note: a\\x1b[2Jb"]
    out = io.StringIO()
    Ticker(Console(file=out, width=80), [target()], 10 * S, quiet=True, verbose=0).started(told)
    assert out.getvalue() == ""


# ---- a trace that was cut off


def test_what_was_cut_off_says_what_it_lacks() -> None:
    made = replace(shop_profile(), complete=False, goroutines=0)
    said = summary_of(made)
    assert "INCOMPLETE: the trace was cut short, or still went on: figures are those of the last commit." in said
    assert "of 0 goroutines" not in said and " intervals\n" in said
    picture = render(made, ".svg").decode()
    assert "figures are those of the last commit" in picture and "0 goroutines" not in picture
    assert any("those of the last commit" in line for line in comments(made))


# ---- diff


def test_diff_says_what_one_lacks_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = replace(lacking(), missing=[WAKERS], notes=[], governor=None)
    notes = compare(lacking(governor=None), whole).notes
    assert "before lacks what after has: system calls" in notes
    assert "both: MISSING wakers: --no-wakers: who ended a wait" in notes
    assert f"before: note: {NOTE}" in notes
    assert "after lacks what before has: system calls" in compare(whole, lacking()).notes
    assert not any("lacks what" in note for note in compare(lacking(), lacking()).notes)
    out = io.StringIO()
    print_diff(compare(lacking(), whole), Console(file=out, width=100))
    assert [line for line in out.getvalue().splitlines() if "lacks what" in line] == ["! before lacks what after has: system calls"]


def test_report_of_such_a_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = capture(tmp_path / "x.gotrace", lacking())
    assert run(["report", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == [NOTE]


@pytest.mark.parametrize(("traced", "steps", "said"), [
    (1.0, [], []),
    (0.25, [(0.25, "kernel")], ["requests were traced for only 750 ms of 3.00 s: the rest was given up for --max-overhead 5"]),
    (1.0, [(0.5, "wakers")], ["for 1.50 s of that time wakers were not traced, given up for --max-overhead 5"]),
    (1.0, [(0.25, "wakers"), (0.5, "nothing")], ["for 750 ms of that time wakers"]),
    (0.5, [(0.25, "wakers"), (0.5, "kernel")], ["requests were traced for only 1.50 s of 3.00 s", "for 750 ms of that time wakers"]),
])  # fmt: skip
def test_what_requests_lack(traced: float, steps: list[tuple[float, str]], said: list[str]) -> None:
    made = requests_profile()
    made.window = replace(made.window, duration_ns=3 * S)
    made.governor = GovernorReport(0.05, steps=tuple(GovernorStep(round(at * 3 * S), 4242, rung, 0.2) for at, rung in steps))
    span = replace(made.requests[0], traced_ns=round(traced * 3 * S))
    lines = request_gaps(made, span)
    assert len(lines) == len(said) and all(line.startswith(words) for line, words in zip(lines, said, strict=True))
    assert [line.endswith("(--max-overhead 25 gives up less)") for line in lines] == [False] * (len(lines) - 1) + [True] * bool(lines)
    # What was given up of another process is no gap of this one.
    assert not any("given up" in line for line in request_gaps(made, replace(span, pid=1)))


def test_requests_in_windows_are_told_to_be_estimates() -> None:
    made = requests_profile()
    made.window = replace(made.window, duration_ns=30 * S)
    made.governor = GovernorReport(0.05, steps=(GovernorStep(S // 10, 4242, "requests", 0.2),))
    span = replace(made.requests[0], traced_ns=2 * S, windows=8)
    said = "requests were traced in 8 windows, 2.00 s of 30.0 s in all, for --max-overhead 5: the figures are estimates for the rest"
    assert request_gaps(made, span) == [f"{said} (--max-overhead 25 gives up less)"]
    span.cut.add(durations([S // 2, S]))
    assert request_gaps(made, span) == [
        f"{said}; 2 had not ended with their window, the longest after 1.00 s, and are in no percentile (--max-overhead 25 gives up less)"
    ]
    assert span.rate(30 * S) == (span.latency.count + 2) / 2
    assert span.at_least.max_ns == S


def test_requests_lack_nothing_without_a_cap() -> None:
    made = requests_profile()
    assert request_gaps(made, made.requests[0]) == []
