"""`gotrace report` and `gotrace diff` as a user runs them, on captures in files; their pages in a real browser."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Browser
from captures import Cli, capture
from profiles import GOEXIT, GOPARK, MS, S, go, hostile_profile, profile, runtime, shop, shop_profile, stat


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return capture(tmp_path / "before.gotrace", shop_profile())


@pytest.fixture
def after(tmp_path: Path) -> Path:
    """The lock of the cache is held longer; the sweeper is gone."""
    stacks = [stack for stack in shop() if not any("sweep" in frame.name for frame in stack.frames)]
    lock = next(stack for stack in stacks if stack.reason == "sync.Mutex.Lock")
    slow = stat(lock.frames, [400 * MS] * 700, reason="sync.Mutex.Lock", goroutines=16)
    return capture(tmp_path / "after.gotrace", profile([slow if stack is lock else stack for stack in stacks]))


# ---- report


def test_thresholds_are_flags(cli: Cli, after: Path) -> None:
    def spots(*flags: str) -> list[dict]:
        return json.loads(cli("report", after, "--json", *flags)[1])["hotspots"]

    slow, = [spot for spot in spots() if "exceeds 100 ms" in spot["why"]]
    summary = json.loads(cli("report", after, "--json")[1])
    assert summary["stacks"][slow["stack"]]["reason"] == "sync.Mutex.Lock"
    assert slow["p99_ns"] == pytest.approx(400 * MS, rel=1 / 16) and 0.7 < slow["share"] < 0.9
    assert not any("p99" in spot["why"] for spot in spots("--hot-p99", "1s"))
    assert spots("--hot-p99", "0", "--hot-share", "0", "--hot-jitter", "0") == []
    assert len(spots("--hot-p99", "1ms")) > len(spots())
    code, out, _ = cli("report", after)
    assert code == 0 and "waiting: sync.Mutex.Lock in main.(*Cache).Get" in out and " exceeds 100 ms" in out


def test_hot_spots_are_judged_before_the_filters(cli: Cli, after: Path) -> None:
    whole = json.loads(cli("report", after, "--json")[1])
    part = json.loads(cli("report", after, "--json", "--reason", "sync.Mutex.Lock")[1])
    spot, = part["hotspots"]
    assert spot | {"stack": 0} in [other | {"stack": 0} for other in whole["hotspots"]]
    assert part["stacks"][spot["stack"]]["reason"] == "sync.Mutex.Lock"


def test_ignore_and_match(cli: Cli, before: Path) -> None:
    code, out, _ = cli("report", before, "--match", "main", "--ignore", "Cache|DB", "--json")
    assert code == 0
    names = {frame["name"] for stack in json.loads(out)["stacks"] for frame in stack["frames"]}
    assert "main.stage" in names and not any("Cache" in name or "DB" in name for name in names)
    assert json.loads(out)["filters"] == ["stacks matching main", "stacks not matching Cache|DB"]
    code, _, err = cli("report", before, "--ignore", "(")
    assert code == 2 and "--ignore: '(' is not a regular expression" in err


def test_tree_shows_the_hottest_path(cli: Cli, after: Path) -> None:
    code, out, _ = cli("report", after, "--tree")
    assert code == 0 and out.startswith("Off the CPU: ")
    marked = [line.split("▶ ")[1] for line in out.splitlines()[1:] if "▶ " in line]
    assert marked[0].startswith("net/http.(*Server).Serve.gowrap3") or marked[0].startswith("net/http")
    assert marked[-1] == "[waiting: sync.Mutex.Lock]" and any(name.startswith("main.(*Cache).Get") for name in marked)
    assert "runtime.gopark" not in out and "runtime.gopark" in cli("report", after, "--tree", "--runtime")[1]
    assert cli("report", after, "--tree", "--json")[0] == 2


def test_folded_text_with_and_without_the_runtime(cli: Cli, before: Path, tmp_path: Path) -> None:
    folded, kept = cli("report", before, "-o", "-")[1], cli("report", before, "-o", "-", "--runtime")[1]
    assert "runtime.gopark" in kept and "runtime.semacquire1" in kept and "runtime.semacquire1" not in folded
    sums = [sum(int(line.rpartition(" ")[2]) for line in text.splitlines()) for text in (folded, kept)]
    assert sums == [shop_profile().total().total_ns] * 2
    assert cli("report", before, "-o", tmp_path / "x.folded")[0] == 0
    assert (tmp_path / "x.folded").read_text() == folded


@pytest.mark.parametrize(("flags", "ticked"), [((), False), (("--runtime",), True)])
def test_page_shows_the_runtime_if_asked(
    cli: Cli, browser: Browser, before: Path, tmp_path: Path, flags: tuple[str, ...], ticked: bool
) -> None:
    page = tmp_path / "x.html"
    assert cli("report", before, "-o", page, *flags)[0] == 0
    browser.open(page.as_uri())
    assert browser.run("document.getElementById('machinery').checked") is ticked
    names = browser.run("[...new Set(flame.rows.map(row => profile.nameOf(row.tree.fn[row.node])))]")
    assert ("runtime.gopark" in names) is ticked and "main.(*Cache).Get" in names
    assert browser.problems() == []


# ---- diff


def test_diff_says_what_changed(cli: Cli, before: Path, after: Path) -> None:
    code, out, err = cli("diff", before, after)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    first = next(index for index, line in enumerate(lines) if line.startswith(" 1. "))
    assert lines[first].startswith(" 1. +") and lines[first].endswith("waiting: sync.Mutex.Lock") and "*" in lines[first]
    assert any("main.(*Cache).Get" in line for line in lines[first : first + 10])
    assert cli("diff", before, before)[1].endswith("No difference.\n")


def test_diff_by_goroutines_and_filters(cli: Cli, before: Path, after: Path) -> None:
    by_window, by_life = (json.loads(cli("diff", before, after, "--json", "--per", per)[1]) for per in ("window", "goroutine"))
    assert (by_window["normalised_by"], by_life["normalised_by"]) == ("window", "goroutine")
    for side in ("before", "after"):
        assert by_life["total"]["change"]["total_ns"][side] == pytest.approx(S)
    assert by_window["total"]["total_ns_per_goroutine_s"] == by_life["total"]["change"]["total_ns"]
    part = json.loads(cli("diff", before, after, "--json", "--state", "waiting", "--match", "Cache")[1])
    assert list(part["by_state"]) == ["waiting"] and len(part["stacks"]) == 1
    assert cli("diff", before, after, "--match", "[")[0] == 2


def test_diff_outputs(cli: Cli, before: Path, after: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"x.{suffix}" for suffix in ("html", "folded", "json")]
    flags = [text for file in files for text in ("-o", file)]
    code, out, err = cli("diff", before, after, *flags)
    assert (code, out) == (0, "") and err.count("Wrote ") == 3
    assert files[1].read_text() == cli("diff", before, after, "-o", "-")[1]
    assert json.loads(files[2].read_text()) == json.loads(cli("diff", before, after, "--json")[1])
    code, _, err = cli("diff", before, after, "-o", files[0])
    assert code == 2 and "exists" in err
    assert cli("diff", before, after, "-f", "-o", files[0])[0] == 0


@pytest.mark.parametrize(("arguments", "code"), [
    (["missing.gotrace", "{after}"], 1), (["{before}", "{text}"], 1), (["{before}"], 2), (["{before}", "{after}", "-o", "x.svg"], 2),
    (["{before}", "{after}", "-o", "/nowhere/x.html"], 1), (["{before}", "{after}", "--json", "-o", "-"], 2),
    (["{before}", "{after}", "--per", "moon"], 2), (["{before}", "{after}", "--top", "0"], 2),
])  # fmt: skip
def test_diff_refusals(cli: Cli, before: Path, after: Path, tmp_path: Path, arguments: list[str], code: int) -> None:
    text = tmp_path / "text.gotrace"
    text.write_text("not a capture")
    paths = {"before": before, "after": after, "text": text}
    result, out, err = cli("diff", *(argument.format(**paths) for argument in arguments))
    assert (result, out) == (code, "") and err.startswith("error: ") and "Traceback" not in err


def test_diff_page_in_a_browser(cli: Cli, browser: Browser, before: Path, tmp_path: Path) -> None:
    hostile = hostile_profile()
    hostile.stacks.append(stat([GOPARK, go("main.worker"), GOEXIT, runtime("x")], [S] * 3, reason="select"))
    other = capture(tmp_path / "other.gotrace", replace(hostile, complete=False))
    page = tmp_path / "x.html"
    assert cli("diff", before, other, "-o", page)[0] == 0
    browser.open(page.as_uri())
    assert browser.run("Boolean(profile.diff)") is True
    assert browser.run("[profile.meta.diff.before.targets[0].name, profile.meta.diff.after.complete]") == ["shop (4242)", False]
    assert browser.run("document.body.textContent.includes('3 standard errors')") is True
    assert browser.problems() == []
