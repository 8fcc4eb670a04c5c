"""Import paths that the linker escapes (``gopkg.in/yaml%2ev3``): found by either name, shown as the source has them."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Browser
from captures import Cli, capture
from profiles import GOEXIT, GOPARK, MS, go, profile, runtime, shop_profile, stat
from rich.console import Console

from gotrace.common.vocabulary import FrameKind
from gotrace.diff.compare import compare
from gotrace.export import render
from gotrace.profile.filters import filter_profile
from gotrace.profile.frames import plain_name
from gotrace.profile.types import Frame, Profile
from gotrace.render.diff import print_diff
from gotrace.render.summary import print_summary
from gotrace.render.tree import print_tree

Show = Callable[..., Browser]
WAIT = "example.com/app/q%2ev3.(*T).Wait"
DECODE = "gopkg.in/yaml%2ev3.(*Decoder).Decode"


def escaped() -> Profile:
    waker = Frame("gopkg.in/queue%2ev2.(*Queue).Put", kind=FrameKind.WAKER)
    return profile([
        stat([waker, GOPARK, runtime("chanrecv"), go(WAIT, "/src/q.v3/q.go", 7), go("main.main"), GOEXIT], [30 * MS], reason="chan receive"),
        stat([GOPARK, runtime("timeSleep"), go(DECODE, "/src/yaml.v3/yaml.go", 9), go("main.other"), GOEXIT], [20 * MS], reason="sleep"),
        stat([GOPARK, runtime("timeSleep"), go("main.q", "/src/main.go", 3), GOEXIT], [10 * MS], reason="sleep"),
    ])


def printed(show: Callable[..., None], *arguments: object) -> str:
    out = io.StringIO()
    show(*arguments, Console(file=out, width=160))
    return out.getvalue()


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        (WAIT, "example.com/app/q.v3.(*T).Wait"),
        (DECODE, "gopkg.in/yaml.v3.(*Decoder).Decode"),
        ("example%2ecom.Run", "example.com.Run"),  # of one element only
        ("q%2ev3.Map[...]", "q.v3.Map[...]"),
        ("a.b/c%2ed%25e.F", "a.b/c.d%e.F"),  # a per cent sign of the path itself
        ("a/%e4%b8%96%22.init.0", "a/世\".init.0"),
        ("a/%ff.F", "a/\\xff.F"),  # no UTF-8
        ("main.(*T).f%2eg", "main.(*T).f%2eg"),  # behind the path nothing is escaped
        ("a/b.(*T[c/d%2ee.F]).G", "a/b.(*T[c/d%2ee.F]).G"),
        ("read(fd 7 → /tmp/a%2eb.c)", "read(fd 7 → /tmp/a%2eb.c)"),
        ("a/b%2", "a/b%2"),
        ("%zz.F", "%zz.F"),
        ("", ""),
    ],
)
def test_only_the_import_path_is_unescaped(raw: str, plain: str) -> None:
    assert plain_name(raw) == plain


@pytest.mark.parametrize("pattern", [r"q\.v3", "%2ev3.*Wait", r"app/q\.v3\.\(\*T\)\.Wait$", r"^gopkg\.in/queue\.v2"])
def test_filters_match_either_name(pattern: str) -> None:
    kept = filter_profile(escaped(), match=pattern)
    assert [stack.reason for stack in kept.stacks] == ["chan receive"]
    assert [stack.distribution.total_ns for stack in filter_profile(escaped(), ignore=pattern).stacks] == [20 * MS, 10 * MS]


def test_people_see_the_source_s_name_and_pprof_the_binary_s() -> None:
    for text in (printed(print_summary, escaped()), printed(print_tree, escaped()), render(escaped(), ".svg").decode()):
        assert "q.v3.(*T).Wait" in text and "gopkg.in/yaml.v3.(*Decoder).Decode" in text
    assert "%2e" not in printed(print_summary, escaped())
    assert WAIT.encode() in gzip.decompress(render(escaped(), ".pb.gz"))
    assert WAIT in {frame["name"] for stack in json.loads(render(escaped(), ".json"))["stacks"] for frame in stack["frames"]}


def test_the_page_shows_one_and_finds_both(show: Show) -> None:
    page = show(escaped())
    shown = page.run("profile.functions.name.map((_, fn) => profile.nameOf(fn))")
    assert "example.com/app/q.v3.(*T).Wait" in shown and not any("%2e" in name for name in shown)
    for pattern in (r"q\\.v3", "%2ev3.*Wait"):
        page.run(f"(box => {{ box.value = '{pattern}'; box.dispatchEvent(new Event('input')); }})(document.getElementById('search'))")
        assert page.text("#matched") == "matched 50.0 %", pattern
    assert page.problems() == []


def test_the_svg_finds_both(browser: Browser, tmp_path: Path) -> None:
    picture = tmp_path / "x.svg"
    picture.write_bytes(render(escaped(), ".svg"))
    for pattern in (r"q\.v3", "%2ev3.*Wait"):
        browser.open(picture.as_uri())
        browser.run(f"window.prompt = () => {json.dumps(pattern)}; 0")
        browser.run("document.getElementById('search').dispatchEvent(new MouseEvent('click'))")
        assert browser.text("#matched") == "Matched: 50.0 %"


# ---- nothing left


def test_that_nothing_is_left_is_told_as_that() -> None:
    made = filter_profile(escaped(), match="no such", ignore="x y")
    for text in (printed(print_summary, made), printed(print_tree, made)):
        assert "no stack matches --match 'no such' --ignore 'x y' (3 stacks in the capture)" in text and "No goroutine" not in text
    assert "No goroutine was off the CPU in this window." in printed(print_summary, profile([]))
    assert "Nothing that was recorded (goroutine 7)" in printed(print_summary, profile([], filters=["goroutine 7"]))


def test_report_and_diff_say_it(cli: Cli, tmp_path: Path) -> None:
    path, other = capture(tmp_path / "x.gotrace", escaped()), capture(tmp_path / "y.gotrace", shop_profile())
    code, out, _ = cli("report", path, "--match", r"q\.v3")
    assert code == 0 and "30.0 ms off the CPU" in out
    code, out, _ = cli("report", path, "--match", "w\x1b]x")
    assert code == 0 and "no stack matches --match 'w\\x1b]x' (3 stacks in the capture)" in out.replace("\n", "")
    code, out, _ = cli("diff", path, path, "--match", "nowhere")
    assert "before: no stack matches --match nowhere (3 stacks in the capture)" in out.replace("\n", " ") and "No difference" not in out
    code, out, _ = cli("diff", path, other, "--match", r"q\.v3")
    assert "after: no stack matches --match 'q\\.v3' (12 stacks in the capture)" in out.replace("\n", " ")


def test_diff_shows_the_source_s_name() -> None:
    after = escaped()
    after.stacks[0] = stat(after.stacks[0].frames, [MS] * 5000, reason="chan receive")
    out = printed(print_diff, compare(escaped(), after))
    assert "q.v3.(*T).Wait" in out and "%2e" not in out
