"""Two captures compared: identity across builds, normalisation, noise, and every form of output."""

from __future__ import annotations

import copy
import io
import json
import math
import random
import re
from dataclasses import replace

import pytest
from anyprofile import any_profile
from hypothesis import given
from hypothesis import strategies as st
from profiles import (
    GOEXIT,
    GOPARK,
    HOSTILE,
    MS,
    S,
    durations,
    go,
    hostile_profile,
    profile,
    runtime,
    shop,
    shop_profile,
    stat,
    target,
    two_processes,
)
from rich.console import Console

from gotrace.common.errors import EXIT_USAGE, UsageError
from gotrace.common.vocabulary import FrameKind, Loss
from gotrace.diff.compare import Change, Diff, Per, before_in_after, compare
from gotrace.diff.identity import Places, stable_name
from gotrace.diff.noise import MIN_SUBWINDOWS, apart, errors, exceeds, percentile_range
from gotrace.export.diff import SUFFIXES, diff_dict, diff_page_data, format_of_diff, render_diff
from gotrace.profile.filters import filter_profile
from gotrace.profile.things import Waited
from gotrace.profile.types import Distribution, Frame, Profile, StackStat, SubWindow, Window
from gotrace.render.diff import print_diff


def printed(diff: Diff, width: int = 80, **options: object) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_diff(diff, console, **options)  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined]


def other_build(made: Profile, **window: object) -> Profile:
    made.targets = [replace(item, build_id="another") for item in made.targets]
    return replace(made, window=replace(made.window, **window)) if window else made


def one(diff: Diff) -> Change:
    change, = diff.stacks
    return change


# ---- identity


@pytest.mark.parametrize(("name", "stable"), [
    ("main.run.func2", "main.run.func"),
    ("main.run.func2.1", "main.run.func"),
    ("main.run.func2.1.3", "main.run.func"),
    ("main.run.func2.gowrap1", "main.run.func.func"),
    ("main.run.gowrap3", "main.run.func"),
    ("main.run.deferwrap1", "main.run.func"),
    ("main.run·dwrap·2", "main.run·dwrap·2"),
    ("main.run.dwrap.2", "main.run.func"),
    ("main.run-range1", "main.run-range"),
    ("main.run.func1-range2", "main.run.func-range"),
    ("main.glob..func7", "main.init.func"),
    ("main.init.func3", "main.init.func"),
    ("main.(*T).Close-fm", "main.(*T).Close-fm"),
    ("main.Map[go.shape.int,go.shape.string]", "main.Map[...]"),
    ("main.Map[...].func1", "main.Map[...].func"),
    ("main.asm.abi0", "main.asm"),
    ("example.org/v2/func1.Do", "example.org/v2/func1.Do"),
    ("main.function1", "main.function1"),
    ("main.func1", "main.func"),
])  # fmt: skip
def test_what_the_compiler_numbers_is_no_name(name: str, stable: str) -> None:
    assert stable_name(name) == stable
    assert stable_name(stable) == stable


@given(st.text(max_size=60))
def test_any_name_has_a_stable_one(name: str) -> None:
    assert stable_name(stable_name(name)) == stable_name(name)


def lock_of_go_1_21() -> list[Frame]:
    return [
        GOPARK, runtime("goparkunlock"), runtime("semacquire1"), Frame("sync.runtime_SemacquireMutex", kind=FrameKind.RUNTIME),
        go("sync.(*Mutex).lockSlow", "/go1.21/sync/mutex.go", 171), go("sync.(*Mutex).Lock", "/go1.21/sync/mutex.go", 90, True),
        go("main.(*Cache).Get", "/a/cache.go", 3), go("main.main.func3", "/a/main.go", 9), GOEXIT,
    ]


def lock_of_go_1_27() -> list[Frame]:
    return [
        GOPARK, runtime("semacquire1"), Frame("internal/sync.runtime_SemacquireMutex", kind=FrameKind.RUNTIME),
        go("internal/sync.(*Mutex).lockSlow"), go("internal/sync.(*Mutex).Lock"), go("sync.(*Mutex).Lock", inlined=True),
        go("main.(*Cache).Get", "/b/cache.go", 30), go("main.main.func4", "/b/main.go", 99), GOEXIT,
    ]


def test_a_lock_is_the_same_in_every_go_version() -> None:
    before = profile([stat(lock_of_go_1_21(), [MS], reason="sync.Mutex.Lock")])
    after = other_build(profile([stat(lock_of_go_1_27(), [MS], reason="sync.Mutex.Lock")]))
    diff = compare(before, after)
    assert diff.empty and not diff.same_build
    assert [frame.name for frame in one(diff).frames] == ["sync.(*Mutex).Lock", "main.(*Cache).Get", "main.main.func"]
    assert any("builds differ" in note for note in diff.notes)


def test_closures_of_one_build_are_told_apart() -> None:
    def made(*numbers: int) -> Profile:
        return profile([stat([go(f"main.run.func{n}"), GOEXIT], [MS], reason="select") for n in numbers])

    assert len(compare(made(1, 2), made(1, 2)).stacks) == 2
    assert len(compare(made(1, 2), other_build(made(2, 3))).stacks) == 1
    unknown = made(1), made(1)
    for item in unknown:
        item.targets = [replace(target(), build_id="")]
    assert not compare(*unknown).same_build


def test_sockets_wakers_kernel_frames_and_goroutines_do_not_count() -> None:
    def made(port: int, waker: str, kernel: str, goid: int) -> Profile:
        frames = [
            Frame(waker, kind=FrameKind.WAKER), Frame(kernel, kind=FrameKind.KERNEL),
            Frame(f"netpoll(fd 9 → tcp 127.0.0.1:{port}→127.0.0.1:80)", kind=FrameKind.SYSCALL), *lock_of_go_1_27()[6:],
        ]
        stack = stat(frames, [MS], reason="IO wait")
        stack.goid = goid
        return profile([stack])

    diff = compare(made(40001, "main.a", "tcp_recvmsg", 7), made(51234, "main.b", "tcp_recvmsg_locked", 19))
    assert diff.empty
    assert [frame.name for frame in one(diff).frames][0] == "netpoll"


def test_goroutines_of_a_place_count_whatever_they_wait_for() -> None:
    made = stat([go("main.f")], [MS], reason="sync.Mutex.Lock")
    apart = [replace(made, waited=Waited("mutex", 0xC000 + n), goroutines=3, goroutines_there=5) for n in range(2)]
    assert one(compare(profile([replace(made, goroutines=5)]), profile(apart))).goroutines == (5, 5)


def test_the_runtimes_own_goroutine_is_its_first_function() -> None:
    old = stat([GOPARK, runtime("goparkunlock"), runtime("bgsweep"), GOEXIT], [S], reason="GC sweep wait")
    new = stat([GOPARK, runtime("bgsweep.park"), runtime("bgsweep"), GOEXIT], [S], reason="GC sweep wait")
    assert [f.name for f in Places(True).of(old)[1]] == [f.name for f in Places(True).of(new)[1]] == ["runtime.bgsweep"]


def test_lost_stacks_keep_their_mark() -> None:
    lost = stat([Frame("[lost]", kind=FrameKind.LOST)], [MS])
    assert [frame.name for frame in Places(True).of(lost)[1]] == ["[lost]"]


def test_processes_are_told_apart_by_name_not_by_pid() -> None:
    def made(shift: int) -> Profile:
        return profile(
            [stat([go("main.f"), GOEXIT], [n * MS], reason="select", pid=n + shift) for n in (1, 2)],
            targets=[target(1 + shift, "shop"), target(2 + shift, "cart")],
        )

    diff = compare(made(0), made(100))
    assert diff.empty and {change.process for change in diff.stacks} == {"shop", "cart"}


# ---- figures


def test_normalised_by_the_window_and_by_goroutine_seconds() -> None:
    stack = [GOPARK, go("main.f"), GOEXIT]
    before = profile([stat(stack, [10 * MS] * 100, reason="select")], running_ns=9 * S)
    after = profile([stat(stack, [10 * MS] * 300, reason="select")], running_ns=17 * S)
    after.window = Window("2026-03-01T03:14:15Z", 20 * S, "exact", 20 * S)
    change = one(compare(before, after))
    assert (change.count.before, change.count.after) == (10, 15)
    assert (change.total.before, change.total.after) == (S / 10, 3 * S / 20)
    assert (change.other_total.before, change.other_total.after) == (S / 10, 3 * S / 20)
    by_life = one(compare(before, after, Per.GOROUTINE))
    assert by_life.count.before == 100 / 10 and by_life.count.after == 300 / 20
    assert before_in_after(compare(before, after)) == ([2 * S], [200])


def test_a_window_half_as_long_with_half_of_everything_is_the_same() -> None:
    stacks = shop()
    for item in stacks:
        d = item.distribution
        item.distribution = Distribution(2 * d.count, 2 * d.total_ns, d.max_ns, 2 * d.squares, {b: 2 * n for b, n in d.histogram.items()})
    doubled = profile(stacks)
    doubled.window = Window("2026-03-01T03:14:15Z", 20 * S, "exact", 20 * S)
    diff = compare(shop_profile(), doubled)
    assert all(change.count.change == change.total.change == 0 and not change.exceeds for change in diff.stacks)


def test_new_and_vanished() -> None:
    def called(name: str) -> StackStat:
        return stat([go(name), go("main.main"), GOEXIT], [MS] * 20)

    before, after = profile([called("main.old"), called("main.f")]), profile([called("main.new"), called("main.f")])
    by_name = {change.frames[0].name: change for change in compare(before, after).stacks}
    assert by_name["main.old"].vanished and by_name["main.old"].exceeds
    assert by_name["main.new"].new and by_name["main.new"].exceeds
    assert not by_name["main.f"].changed
    text = printed(compare(before, after))
    assert "2 of 3 stacks changed beyond the noise (1 new, 1 vanished):" in text
    assert re.search(r"^ \d\. \+2\.00 ms/s  new \*  waiting$", text, re.M)
    assert re.search(r"^ \d\. -2\.00 ms/s  gone \*  waiting$", text, re.M)


def test_what_is_divided_by_does_not_depend_on_what_is_looked_at() -> None:
    diff = compare(shop_profile(), shop_profile(), Per.GOROUTINE, lambda item: filter_profile(item, match="Mutex"))
    assert 0 < len(diff.stacks) < len(shop())
    assert diff.total.total.before < S / 2
    assert diff.before.goroutine_ns == shop_profile().total().total_ns


@given(any_profile, st.sampled_from(Per))
def test_a_capture_and_itself_have_no_difference(made: Profile, per: Per) -> None:
    diff = compare(made, copy.deepcopy(made), per)
    assert diff.empty and not any(change.changed or change.exceeds for change in (*diff.states, *diff.reasons, *diff.stacks))
    assert diff_dict(diff)["stacks"] == []
    if made.stacks:
        assert "No difference." in printed(diff)
    for line in render_diff(diff, ".folded").decode().splitlines():
        first, second = line.split(" ")[-2:]
        assert first == second


@given(any_profile, any_profile)
def test_sums_of_both_sides_are_the_captures(before: Profile, after: Profile) -> None:
    diff = compare(before, other_build(after))
    for changes in (diff.states, diff.reasons, diff.stacks, [diff.total]):
        assert sum(change.before.total_ns for change in changes if change.before) == before.total().total_ns
        assert sum(change.after.total_ns for change in changes if change.after) == after.total().total_ns
    lines = [line.rsplit(" ", 2) for line in render_diff(diff, ".folded").decode().splitlines()]
    assert sum(int(line[1]) for line in lines) == before.total().total_ns
    assert sum(int(line[2]) for line in lines) == after.total().total_ns


@given(any_profile, any_profile)
def test_forth_is_the_opposite_of_back(before: Profile, after: Profile) -> None:
    forth, back = compare(before, after), compare(after, before)
    assert {(c.reason, c.total.before, c.total.after, c.total.exceeds, c.p99.exceeds) for c in forth.reasons} == {
        (c.reason, c.total.after, c.total.before, c.total.exceeds, c.p99.exceeds) for c in back.reasons
    }


# ---- noise


def random_waits(generator: random.Random, rate: float, seconds: int = 20) -> StackStat:
    """Waits that arrive at random, of random lengths: what theory calls noise."""
    stack = stat([go("main.f"), GOEXIT], [], reason="select")
    for second in range(seconds):
        count = sum(1 for _ in range(1000) if generator.random() < rate / 1000)
        d = durations(int(generator.expovariate(1 / (5 * MS))) for _ in range(count))
        stack.distribution.add(d)
        if count:
            stack.subwindows.append(SubWindow(second * S, S, d.count, d.total_ns, d.squares))
    return stack


def pairs(rates: tuple[float, float], rounds: int = 60) -> list[Change]:
    generator = random.Random(20261124)
    found = []
    for _ in range(rounds):
        sides = [profile([random_waits(generator, rate)]) for rate in rates]
        for side in sides:
            side.window = Window("2026-03-01T03:14:15Z", 20 * S, "exact", 20 * S)
        found.append(one(compare(*sides)))
    return found


def test_chance_is_rarely_taken_for_a_change() -> None:
    found = pairs((100, 100))
    assert sum(change.exceeds for change in found) <= 3
    assert all(change.changed for change in found)


def test_a_change_of_a_third_is_seen() -> None:
    found = pairs((100, 133))
    assert sum(change.count.exceeds for change in found) >= 55
    assert sum(change.total.exceeds for change in found) >= 50


def test_bursts_are_noise_too() -> None:
    steady = [SubWindow(n * S, S, 100, 100 * MS, 0) for n in range(10)]
    bursts = [SubWindow(0, S, 1000, S, 0)]
    d = durations([MS] * 1000)
    assert errors(d, steady, 10 * S) == errors(d, [], 10 * S) == pytest.approx((math.sqrt(1000), math.sqrt(1000) * MS), rel=0.001)
    assert errors(d, bursts, 10 * S) == pytest.approx((1000, S), rel=0.001)
    assert errors(d, bursts, (MIN_SUBWINDOWS - 1) * S) == errors(d, [], 10 * S)


def test_one_interval_more_is_no_change() -> None:
    assert not exceeds(0, 0, 1, 1) and not exceeds(0, 0, 9, 3) and exceeds(0, 0, 10, math.sqrt(10))


def test_ranges_of_percentiles() -> None:
    assert percentile_range(Distribution(), 0.5) == (0, math.inf)
    assert percentile_range(durations([MS] * 5), 0.99) == (pytest.approx(MS, rel=1 / 8), math.inf)
    low, high = percentile_range(durations(range(1000, 1_001_000, 1000)), 0.5)
    assert 400_000 < low < 453_000 and 547_000 < high < 650_000
    assert percentile_range(durations([MS] * 800), 0.99)[1] == math.inf
    assert percentile_range(durations([MS] * 1000), 0.99)[1] < 1.2 * MS
    assert apart((0, 5), (5, 9)) and apart((5, 9), (0, 5)) and not apart((0, 6), (5, 9)) and not apart((0, math.inf), (5, math.inf))


@given(st.lists(st.integers(0, 2**43), min_size=1, max_size=40), st.floats(0.01, 0.99))
def test_a_percentile_is_in_its_range(values: list[int], fraction: float) -> None:
    d = durations(values)
    low, high = percentile_range(d, fraction)
    assert low <= d.percentile_ns(fraction) <= max(high, d.max_ns)


def test_p99_beyond_noise_needs_enough_intervals() -> None:
    def made(count: int, slow: int) -> Profile:
        return profile([stat([go("main.f"), GOEXIT], [MS] * (count - count // 20) + [slow] * (count // 20), reason="select")])

    assert one(compare(made(2000, 10 * MS), made(2000, 90 * MS))).p99.exceeds
    assert not one(compare(made(100, 10 * MS), made(100, 90 * MS))).p99.exceeds
    assert not one(compare(made(2000, 10 * MS), made(2000, 90 * MS))).p50.exceeds


def test_what_idles_by_design_comes_last() -> None:
    def made(scale: int) -> Profile:
        worker, conn = [GOPARK, go("main.worker"), GOEXIT], [GOPARK, go("net/http.(*persistConn).readLoop"), GOEXIT]
        return profile([
            stat(worker, [100 * MS] * 100 * scale, reason="chan receive"), stat(conn, [100 * MS] * 90 * scale, reason="IO wait"),
            stat([go("main.(*DB).Query"), go("main.handle"), GOEXIT], [MS] * 100 * scale, reason="IO wait"),
            stat([go("main.calm"), go("main.handle"), GOEXIT], [MS] * 100, reason="IO wait"),
        ])

    diff = compare(made(1), made(3))
    assert [(change.frames[0].name, change.idle) for change in diff.stacks] == [
        ("main.(*DB).Query", False), ("main.worker", True), ("net/http.(*persistConn).readLoop", True), ("main.calm", False),
    ]
    assert printed(diff).count("(idle by design)") == 2


# ---- notes


def test_what_makes_figures_doubtful_is_said() -> None:
    before = replace(shop_profile(losses={Loss.MISSED_HITS: 3}), filters=["state waiting"], running_ns=5)
    after = replace(shop_profile(), complete=False, window=Window("2026", 10 * S, "sample", 10 * S))
    text = " ".join(printed(compare(before, after)).split())
    for part in ("losses before: 3 missed_hits", "after was cut short", "not recorded alike: before state waiting; after everything",
                 "the modes differ: exact and sample", "without the kernel's tracepoints"):
        assert part in text
    assert compare(shop_profile(), shop_profile()).notes == []


# ---- outputs


def hostile_pair() -> Diff:
    return compare(hostile_profile(), other_build(profile([*shop(), *hostile_profile().stacks[::2]], filters=list(HOSTILE.values()))))


@pytest.mark.parametrize("width", [80, 100, 150])
@pytest.mark.parametrize("make", [
    lambda: compare(shop_profile(), profile(shop()[2:6])), lambda: compare(two_processes(), shop_profile()), hostile_pair,
    lambda: compare(profile([]), shop_profile()), lambda: compare(profile([], []), profile([], [])),
])  # fmt: skip
def test_text_fits_and_is_safe(make: object, width: int) -> None:
    for per in Per:
        diff = replace(make(), per=per)  # type: ignore[operator]
        lines = printed(diff, width, top=100, everything=True).splitlines()
        assert max(map(len, lines)) <= width
        assert all(line.isprintable() for line in lines)


def test_text_shows_what_exceeds_the_noise_and_with_all_the_rest() -> None:
    before = profile([stat([go("main.f"), GOEXIT], [MS] * 100), stat([go("main.g"), GOEXIT], [MS] * 100)])
    after = profile([stat([go("main.f"), GOEXIT], [MS] * 102), stat([go("main.g"), GOEXIT], [MS] * 300)])
    text, full = printed(compare(before, after)), printed(compare(before, after), everything=True)
    assert "main.g" in text and "main.f" not in text and "main.f" in full
    assert " 1. +20.0 ms/s  ×3 *  waiting" in text and "1 of 2 stacks changed beyond the noise" in text
    assert "off the CPU per second of the window:  20.0 ms → 40.2 ms  ×2.01 *" in text


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("make", [hostile_pair, lambda: compare(shop_profile(), profile([])), lambda: compare(two_processes(), shop_profile())])
def test_every_format_twice_alike(make: object, suffix: str) -> None:
    first, second = render_diff(make(), suffix), render_diff(make(), suffix)  # type: ignore[operator]
    assert first == second
    text = first.decode()
    if suffix == ".json":
        assert text.isascii() and json.loads(text)["schema"] == 1
    if suffix == ".folded":
        assert all(line.isprintable() and re.fullmatch(r".+ \d+ \d+", line) for line in text.split("\n")[:-1])


def test_json_of_a_change() -> None:
    before = profile([stat([go("main.f", "/a.go", 3), GOEXIT], [MS] * 100, reason="select")])
    after = profile([stat([go("main.f", "/b.go", 4), GOEXIT], [2 * MS] * 300, reason="select")])
    result = json.loads(render_diff(compare(before, after), ".json"))
    assert list(result) == [
        "gotrace", "schema", "before", "after", "normalised_by", "same_build", "noise", "notes", "empty", "total", "by_state",
        "by_reason", "stacks",
    ]
    stack, = result["stacks"]
    assert stack["frames"] == [{"name": "main.f", "file": "/b.go", "line": 4, "kind": "go"}]
    assert (stack["status"], stack["state"], stack["reason"], stack["exceeds_noise"]) == ("changed", "waiting", "select", True)
    assert (stack["before"]["count"], stack["after"]["total_ns"]) == (100, 600 * MS)
    assert stack["change"]["count"] == {"before": 10, "after": 30, "exceeds_noise": True}
    assert stack["change"]["total_ns"] == stack["total_ns_per_window_s"] == {"before": 10 * MS, "after": 60 * MS, "exceeds_noise": True}
    assert stack["total_ns_per_goroutine_s"]["before"] == S
    assert result["by_reason"]["select"]["change"] == stack["change"]


def test_page_has_both_sides() -> None:
    diff = compare(shop_profile(), other_build(profile(shop()[3:]), duration_ns=20 * S, attached_ns=20 * S))
    data = diff_page_data(diff)
    assert json.loads(json.dumps(data)) == data
    stacks = data["stacks"]
    assert len(stacks["before"]) == len(stacks["before_count"]) == len(stacks["total"]) == len(diff.stacks)
    assert sum(stacks["before"]) == 2 * shop_profile().total().total_ns
    assert sum(stacks["total"]) == profile(shop()[3:]).total().total_ns
    assert data["meta"]["diff"]["before"]["duration"] == 10 * S and data["meta"]["diff"]["after"]["duration"] == 20 * S
    for table in data["meta"]["diff"]["tables"]:
        assert table["rows"] and all(len(row) == len(table["columns"]) for row in table["rows"])
        assert all(0 <= index < len(table["rows"]) for index in table["marked"])


@pytest.mark.parametrize("path", ["x.gotrace", "x.svg", "x", "x.speedscope.json", "x.pb.gz"])
def test_other_formats_are_usage_errors(path: str) -> None:
    with pytest.raises(UsageError) as caught:
        format_of_diff(path)
    assert caught.value.exit_code == EXIT_USAGE and ".html" in str(caught.value.hint)
