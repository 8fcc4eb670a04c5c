"""Which file name means which format, and that each format carries the whole profile."""

from __future__ import annotations

import json
import re

import pytest
from anyprofile import any_profile
from hypothesis import given
from profiles import GOEXIT, HOSTILE, MS, go, hostile_profile, profile, shop_profile, stat, two_processes

from gotrace.common.errors import EXIT_USAGE, UsageError
from gotrace.common.vocabulary import FrameKind, Loss, State
from gotrace.export import RENDERERS, format_of, render
from gotrace.export.folded import render_folded
from gotrace.export.summary_json import render_json, summary_dict
from gotrace.profile.types import Frame, Profile

BINARY = (".parquet", ".pb.gz", ".pftrace")
WEIGHTS = ["count", "total_ns", "p50_ns", "p90_ns", "p99_ns", "max_ns"]


# ---- names


@pytest.mark.parametrize(("path", "suffix"), [
    ("-", ".folded"), ("x.folded", ".folded"), ("a.b/x.HTML", ".html"),
    ("/tmp/x.pb.json", ".json"), ("x.gotrace", ".gotrace"),
])  # fmt: skip
def test_suffix_decides(path: str, suffix: str) -> None:
    assert format_of(path) == suffix


@pytest.mark.parametrize("path", ["x", "x.txt", "html", "x.html/", "a.json/b", "", "x.pftrace.bak"])
def test_unknown_suffix_is_a_usage_error_that_lists_the_formats(path: str) -> None:
    with pytest.raises(UsageError) as caught:
        format_of(path)
    assert caught.value.exit_code == EXIT_USAGE
    assert all(suffix in str(caught.value.hint) for suffix in (*RENDERERS, ".gotrace"))


def test_longer_suffix_is_never_taken_for_a_shorter_one() -> None:
    assert format_of("x.speedscope.json") == ".speedscope.json"
    assert format_of("speedscope.json") == ".json"


def test_no_format_is_rendered_that_does_not_exist() -> None:
    with pytest.raises(UsageError):
        render(shop_profile(), ".gotrace")


@pytest.mark.parametrize("suffix", sorted(RENDERERS))
@pytest.mark.parametrize(
    "make", [shop_profile, two_processes, hostile_profile, lambda: profile([]), lambda: profile([], [])]
)
def test_every_format_renders_every_profile_twice_alike(suffix: str, make: object) -> None:
    first, second = render(make(), suffix), render(make(), suffix)  # type: ignore[operator]
    assert first == second
    if suffix not in BINARY:
        first.decode("utf-8")


# ---- folded


def test_folded_text() -> None:
    kernel = Frame("pipe_read", kind=FrameKind.KERNEL)
    waker = Frame("main.send", kind=FrameKind.WAKER)
    reading = [waker, kernel, go("os.(*File).Read", inlined=True), go("main.main"), GOEXIT]
    made = profile(
        [
            stat([go("main.work"), GOEXIT], [5 * MS], State.RUNNABLE),
            stat(reading, [2 * MS, 3 * MS], State.SYSCALL, "read"),
            stat(reading, [1 * MS], State.SYSCALL, "read"),
        ]
    )
    assert render_folded(made) == (
        "runtime.goexit;main.main;os.(*File).Read_[i];pipe_read_[k];[syscall: read];main.send_[w] 6000000\n"
        "runtime.goexit;main.work;[runnable] 5000000\n"
    )


def test_folded_processes_are_roots() -> None:
    roots = {line.split(";")[0] for line in render_folded(two_processes()).splitlines()}
    assert roots == {"shop (4242)", "cart (4300)"}


def test_folded_separators_in_names_are_replaced() -> None:
    made = profile([stat([go(HOSTILE["folded"]), go(HOSTILE["terminal"])], [7])])
    assert render_folded(made) == (
        "main.\\x1b[2J\\x1b]0:owned\\x07f\\x0aroot# \\x0d\\x9b31m;main.a:b c 17;[waiting] 7\n"
    )


@given(any_profile)
def test_folded_values_add_up_to_the_total(made: Profile) -> None:
    lines = render_folded(made).split("\n")
    assert lines.pop() == ""
    values = [int(re.fullmatch(r".+ (\d+)", line)[1]) for line in lines]  # type: ignore[index]
    assert sum(values) == made.total().total_ns
    assert lines == sorted(set(lines), key=lambda line: line.rpartition(" ")[0])
    assert all(line.isprintable() for line in lines)


# ---- summary JSON


def test_json_keys_are_the_contract() -> None:
    result = json.loads(render_json(shop_profile(losses={Loss.MISSED_HITS: 3})))
    assert list(result) == [
        "gotrace",
        "schema",
        "target",
        "window",
        "totals",
        "pauses",
        "losses",
        "overhead",
        "hotspots",
        "stacks",
        "filters",
        "complete",
        "missing",
        "notes",
    ]
    assert list(result["target"]) == [
        "pid",
        "exe",
        "comm",
        "go_version",
        "go_version_source",
        "build_id",
        "stripped",
        "pie",
        "cgo",
        "arch",
        "host",
        "container",
        "pod",
    ]
    assert list(result["window"]) == ["start", "duration_ns", "mode", "attached_ns", "samples"]
    assert list(result["totals"]) == [
        "intervals",
        "off_cpu_ns",
        "goroutines",
        "by_state",
        "by_reason",
        "running_ns",
        "cpu_ns",
        "stopped_ns",
        "late_ns",
        "long_runs",
        "pauses",
    ]
    assert list(result["totals"]["by_state"]["waiting"]) == WEIGHTS
    assert list(result["totals"]["by_reason"]["IO wait"]) == WEIGHTS
    assert list(result["overhead"]) == [
        "hits",
        "hits_per_s",
        "traps_per_interval",
        "ns_per_hit_estimate",
        "target_cpu_fraction_estimate",
        "agent_cpu_s",
        "agent_peak_rss_bytes",
        "governor",
    ]
    assert result["overhead"]["governor"] is None
    assert list(result["hotspots"][0]) == ["stack", "why", "p99_ns", "jitter_ns", "share"]
    assert list(result["stacks"][0]) == [
        "frames",
        "state",
        "reason",
        *WEIGHTS,
        "jitter_ns",
        "goroutines",
        "in_progress",
        "stopped_ns",
        "halted_ns",
        "late_ns",
        "long_runs",
        "long_run_max_ns",
        "margin_ns",
    ]
    assert list(result["stacks"][0]["frames"][0]) == ["name", "file", "line", "kind", "inlined"]
    assert result["schema"] == 1


def test_json_names_every_loss_also_at_nought() -> None:
    losses = summary_dict(shop_profile(losses={Loss.MISSED_HITS: 3}))["losses"]
    assert losses == {loss.value: 3 if loss is Loss.MISSED_HITS else 0 for loss in Loss}


def test_json_of_several_processes() -> None:
    result = summary_dict(two_processes())
    assert [target["pid"] for target in result["targets"]] == [4242, 4300]
    assert result["target"] == result["targets"][0]
    assert {stack["pid"] for stack in result["stacks"]} == {4242, 4300}


def test_json_figures() -> None:
    result = summary_dict(profile([stat([go("main.f")], [value * MS for value in range(1, 101)], reason="sleep")]))
    weights = result["stacks"][0]
    assert (weights["count"], weights["total_ns"], weights["max_ns"]) == (100, 5050 * MS, 100 * MS)
    for key, true in (("p50_ns", 50 * MS), ("p90_ns", 90 * MS), ("p99_ns", 99 * MS)):
        assert weights[key] == pytest.approx(true, rel=1 / 16)
    assert weights["jitter_ns"] == pytest.approx(28.866 * MS, rel=0.001)
    assert result["totals"]["by_reason"]["sleep"] == {key: weights[key] for key in WEIGHTS}


@given(any_profile)
def test_json_totals_agree_with_the_stacks(made: Profile) -> None:
    result = json.loads(render_json(made))
    totals, rows = result["totals"], result["stacks"]
    assert totals["off_cpu_ns"] == sum(row["total_ns"] for row in rows)
    assert totals["intervals"] == sum(row["count"] for row in rows)
    for groups in (totals["by_state"], totals["by_reason"]):
        assert sum(group["total_ns"] for group in groups.values()) == totals["off_cpu_ns"]
        assert all(g["p50_ns"] <= g["p90_ns"] <= g["p99_ns"] <= g["max_ns"] for g in groups.values())


@given(made=any_profile)
def test_json_text_is_that_of_the_whole_at_once(made: Profile) -> None:
    assert render_json(made) == json.dumps(summary_dict(made), indent=1) + "\n"


def test_json_text_is_safe_to_show() -> None:
    text = render_json(hostile_profile())
    assert text.replace("\n", "").isprintable() and text.isascii()
    assert {stack["reason"] for stack in json.loads(text)["stacks"]} == set(HOSTILE.values())
