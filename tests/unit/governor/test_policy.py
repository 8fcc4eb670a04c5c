"""The governor's policy against simulated targets: a cap that can be held is held, and nothing is given up without need. And
what it did, as it is stored and shown."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from governed import TICK, Target, targets
from hypothesis import given
from hypothesis import strategies as st
from profiles import shop_profile
from rich.console import Console

from gotrace.capture.reader import read_capture
from gotrace.capture.writer import CaptureWriter
from gotrace.common.errors import GotraceError
from gotrace.common.vocabulary import Stage
from gotrace.export.summary_json import render_json
from gotrace.governor.policy import FLOOR, LONGEST_PAUSE_NS, SAMPLE_NS, WINDOWED, Governor, Load, Rung, stages_on
from gotrace.profile.types import GovernorReport, GovernorStep, Profile
from gotrace.render.summary import print_summary

SECOND = 1_000_000_000
CLOSING = 30_000_000
"""For how long probes cost before and after a short window."""


def follow(governor: Governor, target: Target, duration_ns: int) -> Load:
    """What gotrace.governor.regulator does, in simulated time; returns the load of all of it."""
    whole, since, windowed = Load(), Load(), False
    while whole.elapsed_ns < duration_ns:
        if governor.rung not in WINDOWED:
            load = target.run(governor.rung if governor.rung is not Rung.PROBES else None, TICK)
            since, windowed = load, False
            whole += load
            governor.observe(load)
            continue
        late = False
        while not (governor.repaid(since) or late) and whole.elapsed_ns < duration_ns:
            pause = target.run(None, 20_000_000)
            since += pause
            whole += pause
            late = since.elapsed_ns >= LONGEST_PAUSE_NS
        if windowed and late and not governor.repaid(since):
            governor.give_windows_up()
            continue
        windowed = True
        rung = Rung.NOTHING if governor.rung is Rung.REQUESTS else Rung.SINGLE
        window = target.run(rung, governor.window_ns())
        since = window + target.run(rung, CLOSING)
        whole += since
        governor.observe(window, since.elapsed_ns)
    return whole


@given(target=targets, cap=st.sampled_from([0.001, 0.01, 0.05, 0.2, 1.0]))
def test_the_cap_is_held(target: Target, cap: float) -> None:
    governor = Governor(cap)
    follow(governor, target, SECOND)
    whole = follow(governor, target, 120 * SECOND)
    # Where no pause repays a window, windows are tried again after 3, 6, 12, 24 and 48 seconds without probes.
    assert whole.cost_ns <= max(1.3 * cap * whole.own_ns, 6 * (20_000_000 + CLOSING))


@given(target=targets, cap=st.sampled_from([0.001, 0.01, 0.05, 0.2, 1.0]))
def test_the_cap_is_held_where_requests_are_served(target: Target, cap: float) -> None:
    governor = Governor(cap, requests=True)
    follow(governor, target, SECOND)
    whole = follow(governor, target, 120 * SECOND)
    assert whole.cost_ns <= max(1.3 * cap * whole.own_ns, 12 * (50_000_000 + CLOSING))
    assert governor.rung in (Rung.NOTHING, Rung.REQUESTS, Rung.CONTINUITY, Rung.PROBES)


@pytest.mark.full
@given(target=targets, cap=st.sampled_from([0.001, 0.01, 0.05, 0.2, 1.0]))
def test_the_cap_is_held_without_windows(target: Target, cap: float) -> None:
    governor = Governor(cap, (Rung.NOTHING, Rung.SINGLE, Rung.PROBES))
    follow(governor, target, SECOND)
    whole = follow(governor, target, 120 * SECOND)
    assert whole.cost_ns <= max(1.3 * cap * whole.own_ns, 6 * TICK)


@given(target=targets, cap=st.floats(0.01, 1.0))
def test_nothing_is_given_up_that_need_not_be(target: Target, cap: float) -> None:
    governor = Governor(cap)
    follow(governor, target, 20 * SECOND)
    if target.run(Rung.NOTHING, SECOND).share <= 0.99 * cap:
        assert governor.rung is Rung.NOTHING
    if governor.rung is Rung.NOTHING:
        assert target.run(Rung.NOTHING, SECOND).share <= 1.01 * cap


@given(own_ns=st.integers(100, 10_000), idle_s=st.integers(1, 100))
def test_a_burst_is_met_within_a_second(own_ns: int, idle_s: int) -> None:
    governor, idle, burst = Governor(0.05), Target(rate=10.0), Target(own_ns)
    follow(governor, idle, idle_s * SECOND)
    assert governor.rung is Rung.NOTHING
    follow(governor, burst, SECOND)
    assert governor.rung is not Rung.NOTHING
    assert follow(governor, burst, 10 * SECOND).share <= 1.3 * 0.05


def test_what_was_given_up_comes_back_step_by_step() -> None:
    governor = Governor(0.05)
    follow(governor, Target(), SECOND)
    assert governor.rung is Rung.CONTINUITY
    seen = []
    for _ in range(60):
        follow(governor, Target(rate=10.0), SECOND)
        if not seen or seen[-1] is not governor.rung:
            seen.append(governor.rung)
    assert seen == [Rung.CONTINUITY, Rung.STARTS, Rung.SINGLE, Rung.KERNEL, Rung.WAKERS, Rung.NOTHING]


def test_a_load_near_the_cap_does_not_make_it_swing() -> None:
    governor = Governor(0.05)
    # On the first rung under the cap, and over it without: one with the rate between the two.
    target = Target(own_ns=50_000, trap=500, program=500, wakers=2500, kernel=0)
    changes, last = 0, governor.rung
    for _ in range(600):
        follow(governor, target, 100_000_000)
        changes += governor.rung is not last
        last = governor.rung
    assert changes <= 12 and follow(governor, target, 60 * SECOND).share <= 0.05


def test_what_hardly_runs_triggers_nothing() -> None:
    governor = Governor(0.05)
    # 200 wake-ups a second, each of which costs more than what it does.
    whole = follow(governor, Target(own_ns=500, rate=200), 60 * SECOND)
    assert governor.rung is Rung.NOTHING
    assert whole.cost_ns > whole.cpu_ns / 2 and whole.share <= 0.05


def test_only_rungs_that_make_a_difference_are_used() -> None:
    rungs = (Rung.NOTHING, Rung.SINGLE)
    governor = Governor(0.05, rungs)
    follow(governor, Target(), 5 * SECOND)
    assert governor.rung is Rung.SINGLE  # above the cap, and there is nothing more to give up


@pytest.mark.parametrize("share", [0.001, 0.05, 1.0, 20.0])
def test_windows_are_as_long_as_the_cap_allows(share: float) -> None:
    governor = Governor(0.05)
    governor.share = share
    assert 20_000_000 <= governor.window_ns() <= 500_000_000
    assert governor.window_ns(2 * SECOND) == 2 * SECOND
    if share == 1.0:
        assert governor.window_ns() == 50_000_000


def test_a_pause_ends() -> None:
    governor = Governor(0.05)
    assert governor.repaid(Load(SECOND, SECOND, core_trap_ns=40_000_000))
    assert not governor.repaid(Load(SECOND, SECOND, core_trap_ns=60_000_000))
    assert Load(SECOND, 0).own_ns == round(FLOOR * SECOND)


def test_one_probe_is_tried_before_windows() -> None:
    governor = Governor(0.05)
    # A step costs 6 % with two probes and 4 % with one.
    follow(governor, Target(own_ns=100_000, trap=5_500, program=500, wakers=0, kernel=0), 2 * SECOND)
    assert governor.rung is Rung.STARTS


def test_windows_that_no_pause_repays_are_given_up_and_tried_again_later() -> None:
    moves = []

    class Observed(Governor):
        def _move(self, rung: Rung) -> None:
            moves.append(rung)
            super()._move(rung)

    governor = Observed(0.001)
    follow(governor, Target(), 120 * SECOND)
    assert moves[:5] == [Rung.CONTINUITY, Rung.PROBES, Rung.CONTINUITY, Rung.PROBES, Rung.CONTINUITY]
    follow(governor, Target(rate=10.0), 600 * SECOND)
    assert governor.rung is Rung.NOTHING


def rungs_of(governor: Governor, target: Target, seconds: int) -> list[Rung]:
    """Where it was after each second, without repetitions."""
    seen = [governor.rung]
    for _ in range(seconds):
        follow(governor, target, SECOND)
        if seen[-1] is not governor.rung:
            seen.append(governor.rung)
    return seen


def test_requests_are_traced_in_windows_with_all_that_explains_them() -> None:
    governor = Governor(0.05, requests=True)
    # 5,000 requests a second of which each costs 300 us: 1.5 CPUs, if there were that many.
    busy = Target(own_ns=100_000, trap=100_000, program=60_000, wakers=80_000, kernel=60_000, rate=5000)
    assert rungs_of(governor, busy, 30) == [Rung.NOTHING, Rung.REQUESTS]
    assert 50_000_000 <= governor.window_ns() <= 300_000_000 and 100_000_000 <= governor.following_ns() <= 600_000_000
    # With fewer, windows become longer, until they are all of the time.
    assert rungs_of(governor, replace_rate(busy, 300), 30) == [Rung.REQUESTS]
    assert governor.window_ns() == SECOND and governor.following_ns() == 2 * SECOND
    assert rungs_of(governor, replace_rate(busy, 100), 30) == [Rung.REQUESTS, Rung.NOTHING]


def replace_rate(target: Target, rate: float) -> Target:
    step = target.step
    return Target(target.own_ns, step.core_trap_ns, step.core_program_ns, step.wakers_ns, step.kernel_ns, rate)


def test_windows_for_requests_that_no_pause_repays_are_given_up_for_short_ones() -> None:
    moves = []

    class Observed(Governor):
        def _move(self, rung: Rung) -> None:
            moves.append(rung)
            super()._move(rung)

    governor = Observed(0.001, requests=True)
    follow(governor, Target(own_ns=1000, trap=1000, program=0, wakers=200_000, kernel=200_000), 60 * SECOND)
    assert moves[:2] == [Rung.REQUESTS, Rung.CONTINUITY] and governor.rung in (Rung.REQUESTS, Rung.CONTINUITY, Rung.PROBES)


def test_requests_that_come_later_have_their_windows_too() -> None:
    governor = Governor(0.05)
    target = Target(own_ns=100_000, trap=2000, program=1000, wakers=4000, kernel=0)
    follow(governor, target, SECOND)
    assert governor.rung is Rung.WAKERS
    governor.requests = True
    assert rungs_of(governor, Target(own_ns=100_000, trap=4000, program=4000, wakers=4000, kernel=0), 3) == [Rung.WAKERS, Rung.REQUESTS]


def test_what_can_t_pause_has_the_other_ladder() -> None:
    governor = Governor(0.05, (Rung.NOTHING, Rung.WAKERS, Rung.SINGLE, Rung.PROBES), requests=True)
    assert rungs_of(governor, Target(own_ns=100_000, trap=2000, program=1000, wakers=4000, kernel=0), 3) == [Rung.NOTHING, Rung.WAKERS]


def test_rungs_and_stages() -> None:
    assert stages_on(Rung.NOTHING) == stages_on(Rung.REQUESTS) == set(Stage)
    assert stages_on(Rung.WAKERS) == {Stage.CORE, Stage.REQUESTS, Stage.KERNEL}
    assert stages_on(Rung.KERNEL) == stages_on(Rung.SINGLE) == stages_on(Rung.CONTINUITY) == {Stage.CORE}
    assert SAMPLE_NS > 0


# -- what it did, in the capture, the JSON and the summary -----------------------------------------------------------------

REPORT = GovernorReport(
    max_overhead=0.05, share=0.049, cost_ns=240_000_000, wakers_off_ns=5_000_000_000, kernel_off_ns=4_000_000_000,
    sampled_ns=3_000_000_000, lean_ns=500_000_000, looked_ns=600_000_000, paused_ns=2_000_000_000, windows=12, unlooked_windows=3,
    steps=(GovernorStep(57_000_000, 1, "kernel", 0.3), GovernorStep(99_000_000, 1, "continuity", 2.5)),
)


def stored(folder: Path, profile: Profile) -> Path:
    path = folder / "x.gotrace"
    writer = CaptureWriter(path, force=True)
    for target in profile.targets:
        writer.put_target(target)
    writer.put_stacks(profile.stacks)
    writer.commit(profile)
    writer.close()
    return path


def test_the_report_survives_the_capture(tmp_path: Path) -> None:
    for report in (REPORT, None):
        assert read_capture(stored(tmp_path, replace(shop_profile(), governor=report))).governor == report


def test_a_capture_without_it_is_read(tmp_path: Path) -> None:
    path = stored(tmp_path, replace(shop_profile(), governor=REPORT))
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM meta WHERE key = 'governor'")
        db.execute("PRAGMA user_version = 3")
    assert read_capture(path).governor is None


@pytest.mark.parametrize("damage", [
    '[]', '{}', '{"max_overhead": 1}', '{"max_overhead": "x", "steps": []}', '{"max_overhead": 1, "steps": [{"rung": 3}]}',
    '{"max_overhead": -1, "steps": []}',
])
def test_a_damaged_report_is_a_damaged_capture(tmp_path: Path, damage: str) -> None:
    path = stored(tmp_path, replace(shop_profile(), governor=REPORT))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'governor'", (damage,))
    with pytest.raises(GotraceError, match="damaged"):
        read_capture(path)


def test_json_has_it_with_the_standard_error() -> None:
    profile = replace(shop_profile(), governor=REPORT)
    said = json.loads(render_json(profile))["overhead"]["governor"]
    assert said["standard_error_ns"] is None and said["windows"] == 12 and said["steps"][1]["rung"] == "continuity"
    for stack, margin in zip(profile.stacks, (3_000, 4_000)):
        stack.margin_ns = margin
    assert json.loads(render_json(profile))["overhead"]["governor"]["standard_error_ns"] == round(5_000 / 1.96)


def test_the_summary_says_what_is_missing() -> None:
    def said(report: GovernorReport | None) -> str:
        console = Console(width=200, file=StringIO())
        print_summary(replace(shop_profile(), governor=report), console)
        return console.file.getvalue()

    text = said(REPORT)
    assert "governor: tracing cost 4.9 %" in text and "cap 5 %" in text
    for words in ("no wakers", "no system calls", "short intervals sampled", "inferred", "its memory was sampled", "between 12 windows", "of 3 windows"):
        assert words in text
    assert "not held" not in text
    assert "the cap was not held" in said(replace(REPORT, share=0.9))
    assert "governor" not in said(None) and "governor" not in said(GovernorReport(0.05, 0.01))
