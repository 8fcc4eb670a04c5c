"""What reaches a terminal: safe names, readable figures, and a summary that fits and hides nothing."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import (
    GOEXIT,
    GOPARK,
    HOSTILE,
    MS,
    S,
    go,
    hostile_profile,
    many_stacks,
    profile,
    runtime,
    shop_profile,
    stat,
    two_processes,
)
from rich.console import Console

from gotrace.common.vocabulary import LOSS_TEXT, FrameKind, Loss, State
from gotrace.profile.types import Frame, Profile, Window
from gotrace.render.frames import folded_frames, is_background, reason_label
from gotrace.render.summary import print_summary
from gotrace.render.text import format_duration, format_share, sanitize


def printed(made: Profile, width: int = 80, **options: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_summary(made, console, **options)
    return console.file.getvalue()  # type: ignore[attr-defined]


# ---- text


@pytest.mark.parametrize(("raw", "shown"), [
    ("main.(*T[go.shape.int]).F·f", "main.(*T[go.shape.int]).F·f"),
    ("a\x1b[31mb\r\nc", "a\\x1b[31mb\\x0d\\x0ac"),
    ("\u202etxt\u2066\ufeff", "\\u202etxt\\u2066\\ufeff"),
    ("\U000e0041", "\\U000e0041"),
    ("\udc80", "\\udc80"),
])  # fmt: skip
def test_sanitize(raw: str, shown: str) -> None:
    assert sanitize(raw) == shown


def test_sanitize_keeps_both_ends() -> None:
    text = sanitize("github.com/" + "x" * 10_000 + ".(*Server).Serve", 60)
    assert len(text) == 60
    assert text.startswith("github.com/x") and text.endswith("x.(*Server).Serve") and "…" in text


@given(st.text(), st.integers(4, 50))
def test_sanitized_text_is_short_and_printable(text: str, limit: int) -> None:
    result = sanitize(text, limit)
    assert result.isprintable() and len(result) <= limit
    if text.isprintable() and len(text) <= limit:
        assert result == text


@pytest.mark.parametrize(("ns", "text"), [
    (0, "0 ns"), (999, "999 ns"), (1_000, "1.00 µs"), (1_234_000, "1.23 ms"), (999_499, "999 µs"), (999_500, "1.00 ms"),
    (9_994_999, "9.99 ms"), (9_995_000, "10.0 ms"), (30 * S, "30.0 s"), (100 * S, "100 s"), (599 * S, "599 s"),
    (600 * S, "10.0 min"), (7200 * S, "2.00 h"), (39_995 * S, "11.1 h"),
])  # fmt: skip
def test_format_duration(ns: int, text: str) -> None:
    assert format_duration(ns) == text


def test_format_share() -> None:
    assert [format_share(*pair) for pair in ((0, 0), (0, 9), (1, 9999), (1, 3), (3, 3))] == [
        "0.0 %",
        "0.0 %",
        "<0.1 %",
        "33.3 %",
        "100.0 %",
    ]


# ---- stacks


def test_waiting_machinery_is_folded_and_what_lies_beyond_it_kept() -> None:
    waker, kernel = Frame("main.send", kind=FrameKind.WAKER), Frame("pipe_read", kind=FrameKind.KERNEL)
    user = [go("main.recv"), runtime("callbackInTheMiddle"), go("main.main")]
    assert folded_frames([waker, kernel, GOPARK, runtime("chanrecv"), *user, GOEXIT]) == (waker, kernel, *user)
    assert folded_frames([GOPARK, runtime("bgsweep"), GOEXIT]) == (GOPARK, runtime("bgsweep"), GOEXIT)
    assert folded_frames([]) == ()


@pytest.mark.parametrize(("frames", "background"), [
    ([GOPARK, runtime("gcBgMarkWorker"), GOEXIT], True),
    ([GOPARK, runtime("bgscavenge"), GOEXIT], True),
    ([GOPARK, go("main.finalizer"), runtime("runfinq"), GOEXIT], False),
    ([GOPARK, runtime("main"), GOEXIT], False),
    ([GOPARK, go("main.worker"), GOEXIT], False),
    ([go("runtime/pprof.profileWriter"), GOEXIT], False),
    ([Frame("[lost]", kind=FrameKind.LOST)], False),
])  # fmt: skip
def test_only_the_runtimes_own_goroutines_are_background(frames: list[Frame], background: bool) -> None:
    assert is_background(stat(frames, [1])) is background


def test_reason_label() -> None:
    assert reason_label(stat([], [1], State.WAITING, "chan receive")) == "[waiting: chan receive]"
    assert reason_label(stat([], [1], State.RUNNABLE)) == "[runnable]"
    assert reason_label(stat([], [1], State.PREEMPTED, "preempted")) == "[preempted]"


# ---- summary


def test_summary_says_what_was_traced_and_where_the_time_went() -> None:
    text = printed(shop_profile())
    assert text.startswith("shop (pid 4242) · go1.26.6 · 10.0 s window · mode exact\n95.3 s off the CPU in 4,037 ")
    assert re.search(r"^sync\.Mutex\.Lock +910 +26\.4 s +27\.7 % +\S+ ms +\S+ ms +95\.0 ms$", text, re.M)
    assert re.search(r"^preempted +150 ", text, re.M)
    assert " 1. 22.2 s  23.3 %  waiting: sync.Mutex.Lock  (3 in progress)" in text
    assert "      main.(*Cache).Get  cache.go:33" in text
    assert "losses: none · anomalies: none" in text
    assert "8,100 probe hits (810/s), 2.00 traps per interval" in text
    assert "estimate" in text


def test_summary_puts_runtime_goroutines_last_but_counts_them() -> None:
    text = printed(shop_profile())
    assert "Runtime goroutines (GC, scavenger, …): 20.0 s, 21.0 %, in 2 stacks not listed" in text
    assert "runtime.bgscavenge" not in text
    assert re.search(r"^GC scavenge wait +1 +10\.0 s", text, re.M)
    assert "runtime.gopark" not in text


def test_summary_shows_each_loss_and_each_anomaly_loudly() -> None:
    text = printed(profile([stat([go("main.f")], [MS])], losses=dict.fromkeys(Loss, 1_234)))
    flat = " ".join(text.split())
    assert all(f"1,234 {loss.value}: {LOSS_TEXT[loss]}" in flat for loss in Loss)
    assert "LOSSES" in text and "ANOMALIES" in text and "losses: none" not in text and "anomalies: none" not in text


def test_summary_says_when_figures_are_partial() -> None:
    made = profile([stat([go("main.f")], [MS])], filters=["state waiting"], complete=False)
    made.window = Window("2026-03-01T03:14:15Z", 10 * S, "sample", 5 * S)
    text = printed(made)
    assert "INCOMPLETE" in text
    assert "Only a part is shown: state waiting" in text
    assert "Probes were attached for 50.0 % of the window." in text


def test_summary_of_nothing() -> None:
    assert "No goroutine was off the CPU in this window." in printed(profile([]))


def test_summary_of_two_processes_names_them() -> None:
    text = printed(two_processes())
    assert "shop (pid 4242)" in text and "cart (pid 4300)" in text
    assert "sync.Mutex.Lock  cart (4300)" in text


def test_summary_shows_as_many_stacks_as_asked() -> None:
    text = printed(many_stacks(50), top=3)
    assert len(re.findall(r"^ ?\d+\. ", text, re.M)) == 3
    assert "Top 3 of 50 stacks" in text


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("make", [shop_profile, hostile_profile, two_processes, lambda: many_stacks(30)])
def test_summary_fits_and_is_safe(make: object, width: int) -> None:
    text = printed(make(), width=width, top=50)  # type: ignore[operator]
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert all(line.isprintable() for line in lines)


def test_summary_takes_no_name_for_markup() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="truecolor")
    print_summary(hostile_profile(), console, top=20)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert HOSTILE["rich"] in text
    assert "\x1b]" not in text and "\x1b[2J" not in text and "\x07" not in text


def test_summary_figures_are_not_squeezed_by_a_long_reason() -> None:
    text = printed(profile([stat([go("main.f")], [123 * MS] * 1_000, reason="r" * 300)]))
    assert re.search(r"^r+…r+ +1,000 +123 s +100\.0 % +1\d\d ms +1\d\d ms +123 ms$", text, re.M)
