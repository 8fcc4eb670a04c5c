"""The static flame graph: its picture without scripts, what a real browser lets one do with it, and its figures."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from anyprofile import any_profile
from browser import Browser
from hypothesis import given
from hypothesis import strategies as st
from prerequisites import unavailable
from profiles import (
    GOEXIT,
    HOSTILE,
    MS,
    S,
    go,
    hostile_profile,
    many_stacks,
    profile,
    shop_profile,
    stat,
    two_processes,
)

from gotrace.common.vocabulary import CONTINUED, FrameKind, Loss, State
from gotrace.export.folded import render_folded
from gotrace.profile.types import Frame, Profile
from gotrace.render.colours import frame_colours
from gotrace.render.frames import is_background
from gotrace.render.merge import Tree
from gotrace.render.svg import MIN_WIDTH, render_svg

SVG = "{http://www.w3.org/2000/svg}"


class Box:
    """A frame as it is drawn."""

    def __init__(self, group: ET.Element) -> None:
        title, rect, *text = group
        self.name, self.about = (title.text or "").split("\n")
        self.x, self.y, drawn = (float(rect.get(key, "")) for key in ("x", "y", "width"))
        self.width = drawn + 0.3 if drawn >= 2.7 else drawn / 0.9
        self.fill = rect.get("fill")
        self.label = text[0].text if text else ""


def read(made: Profile, runtime: bool = False) -> tuple[list[Box], str]:
    """The frames, root first, and all the text beside them."""
    root = ET.fromstring(render_svg(made, runtime))
    frames = next(element for element in root.iter(f"{SVG}g") if element.get("id") == "frames")
    texts = [element.text or "" for element in root.findall(f"{SVG}text")]
    return [Box(group) for group in frames], "\n".join(texts)


def without_script(svg: bytes) -> str:
    return re.sub(r"<script>.*</script>", "<script/>", svg.decode(), flags=re.DOTALL)


# ---- the picture


def test_golden(golden: Callable[[str, str], None]) -> None:
    golden("shop.svg", without_script(render_svg(shop_profile(losses={Loss.MISSED_HITS: 3}))))


def test_frames_stand_on_their_callers() -> None:
    frames = [
        Frame("main.root", kind=FrameKind.WAKER), Frame("main.feed", kind=FrameKind.WAKER),
        Frame("anon_pipe_read", kind=FrameKind.KERNEL), Frame("read(fd 7 → pipe)", kind=FrameKind.SYSCALL),
        go("main.main"), GOEXIT,
    ]  # fmt: skip
    boxes, _ = read(profile([stat(frames, [MS], State.SYSCALL, "read")]))
    boxes.sort(key=lambda box: -box.y)
    assert [box.name for box in boxes] == [
        "all", "main.main", "read(fd 7 → pipe)", "anon_pipe_read", "[syscall: read]", "main.feed", "main.root",
    ]  # fmt: skip
    kinds = [FrameKind.GO, FrameKind.SYSCALL, FrameKind.KERNEL, FrameKind.REASON, FrameKind.WAKER, FrameKind.WAKER]
    expected = [frame_colours(kind, box.name)[0] for kind, box in zip(kinds, boxes[1:], strict=True)]
    assert [box.fill for box in boxes[1:]] == expected
    assert len({box.fill for box in boxes[1:6]}) == 5


def test_widths_are_shares_of_the_time() -> None:
    made = profile([stat([go("main.a"), go("main.f")], [30 * MS]), stat([go("main.b"), go("main.f")], [10 * MS])])
    boxes = {box.name: box for box in read(made)[0]}
    assert boxes["main.a"].width == pytest.approx(0.75 * boxes["all"].width, abs=0.01)
    assert boxes["main.b"].width == pytest.approx(0.25 * boxes["all"].width, abs=0.01)
    assert boxes["main.a"].x < boxes["main.b"].x and boxes["main.f"].width == boxes["all"].width
    assert boxes["main.a"].about == "30.0 ms, 75.0 %, 1 interval"


def test_what_is_not_drawn_is_said() -> None:
    made = profile([stat([go("main.long")], [10 * S]), stat([go("main.short"), go("main.caller")], [MS // 2])])
    boxes, text = read(made)
    assert "main.short" not in {box.name for box in boxes}
    # main.caller, main.short and the reason above it.
    assert "3 frames narrower than 0.1 pixels, 500 µs, <0.1 %" in text
    assert "narrower" not in read(shop_profile())[1]


def test_the_runtimes_goroutines_are_left_out_and_that_is_said() -> None:
    made = shop_profile()
    hidden = sum(stack.distribution.total_ns for stack in made.stacks if is_background(stack))
    boxes, text = read(made)
    assert f"goroutines of the runtime itself, {hidden / S:.1f} s" in text
    names = {box.name for box in boxes}
    assert not names & {"runtime.bgscavenge", "runtime.gopark", "runtime.goexit"} and "main.main" in names
    whole, text = read(made, runtime=True)
    assert {"runtime.bgscavenge", "runtime.gopark", "runtime.goexit"} <= {box.name for box in whole}
    assert "runtime itself" not in text


def test_losses_filters_and_an_early_end_are_in_the_picture() -> None:
    _, text = read(shop_profile(losses={Loss.RING_FULL: 1234}, filters=["state waiting"], complete=False))
    assert "LOSS 1,234 ring_full: single events not streamed" in text
    assert "Only a part was recorded: state waiting" in text and "INCOMPLETE" in text
    assert not re.search("LOSS|INCOMPLETE|Only a part", read(shop_profile())[1])


def test_processes_are_roots() -> None:
    boxes, _ = read(two_processes())
    assert {"shop (4242)", "cart (4300)"} <= {box.name for box in boxes}


@pytest.mark.parametrize("make", [hostile_profile, lambda: profile([]), lambda: profile([], [])])
def test_hostile_and_empty_profiles_are_well_formed(make: Callable[[], Profile]) -> None:
    boxes, text = read(make())
    assert boxes[0].name == "all"
    assert all(box.name.isprintable() and len(box.name) <= 400 for box in boxes)
    assert text.replace("\n", "").isprintable()
    svg = without_script(render_svg(make()))
    assert set(re.findall(r"<(\w+)", svg)) <= {"svg", "title", "style", "rect", "text", "g", "script"}
    assert not re.search(r"\son\w+=|href", re.sub(r">[^<]*<", "><", svg))


def test_a_name_is_never_cut_within_its_type_arguments() -> None:
    name = "example.org/very/long/path/of/some/module/pkg.(*T[example.org/other.U]).Method"
    made = profile([stat([go(name)], [MS]), stat([go("main.f")], [3 * MS])])
    assert next(box for box in read(made)[0] if box.name == name).label == "pkg.(*T[example.org/other.U]).Method"


@given(any_profile)
def test_frames_add_up(made: Profile) -> None:
    """Children never reach beyond their parent, and beside them is only what ended there or was too narrow."""
    boxes, text = read(made, runtime=True)
    assert boxes[0].about.split(", ")[-1].split()[0].replace(",", "") == str(
        sum(stack.distribution.count for stack in made.stacks if stack.reason not in CONTINUED)
    )
    rows: dict[float, list[Box]] = {}
    for box in boxes:
        assert box.width >= MIN_WIDTH * 0.98
        rows.setdefault(box.y, []).append(box)
    for y, row in rows.items():
        row.sort(key=lambda box: box.x)
        assert all(a.x + a.width <= b.x + 0.03 for a, b in zip(row, row[1:], strict=False))
        below = rows.get(y + 17, [])
        if below:
            assert all(any(p.x - 0.03 <= b.x and b.x + b.width <= p.x + p.width + 0.03 for p in below) for b in row)


# ---- the tree

letters = st.characters(exclude_characters=";", exclude_categories=["Cs", "Cc", "Zl", "Zp"])
names = st.text(letters, min_size=1, max_size=4)


def to_tree(folded: str) -> Tree[str]:
    tree = Tree("")
    for line in folded.splitlines():
        path, _, value = line.rpartition(" ")
        tree.add(path.split(";"), int(value))
    return tree


def to_folded(tree: Tree[str]) -> str:
    own, paths = list(tree.total_ns), [""] * len(tree)
    for node in range(1, len(tree)):
        own[tree.parent[node]] -= tree.total_ns[node]
        paths[node] = f"{paths[tree.parent[node]]};{tree.key[node]}" if tree.parent[node] else tree.key[node]
    return "".join(sorted(f"{path} {value}\n" for path, value in zip(paths[1:], own[1:], strict=True) if value))


@given(st.dictionaries(st.lists(names, min_size=1, max_size=6).map(";".join), st.integers(1, 2**50), max_size=20))
def test_folded_to_tree_to_folded_is_the_identity(stacks: dict[str, int]) -> None:
    folded = "".join(sorted(f"{path} {value}\n" for path, value in stacks.items()))
    tree = to_tree(folded)
    assert to_folded(tree) == folded
    assert tree.total_ns[0] == sum(stacks.values()) and tree.sizes()[0] == len(tree)
    for node, children in enumerate(tree.heaviest_first()):
        totals = [tree.total_ns[child] for child in children]
        assert all(tree.parent[child] == node for child in children) and totals == sorted(totals, reverse=True)


@given(any_profile)
def test_our_own_folded_text_makes_the_tree_it_came_from(made: Profile) -> None:
    lines = [line for line in render_folded(made).splitlines() if not line.endswith(" 0")]
    assert sorted(to_folded(to_tree("\n".join(lines))).splitlines()) == sorted(lines)


# ---- a viewer without scripts


def pixel(png: bytes, x: int, y: int) -> str:
    """Colour of a pixel of a PNG of 8-bit RGB(A)."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, data = 8, b""
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, _, depth, colour = struct.unpack(">IIBB", body[:10])
            assert depth == 8 and colour in (2, 6)
        elif kind == b"IDAT":
            data += body
        at += 12 + length
    size, raw = (4 if colour == 6 else 3), zlib.decompress(data)
    before = bytearray(width * size)
    for row in range(y + 1):
        start = row * (width * size + 1)
        how, line = raw[start], bytearray(raw[start + 1 : start + 1 + width * size])
        for i in range(len(line)):
            left, up = (line[i - size] if i >= size else 0), before[i]
            corner = before[i - size] if i >= size else 0
            nearest = min((left, up, corner), key=lambda value: abs(left + up - corner - value))
            line[i] = (line[i] + (0, left, up, (left + up) // 2, nearest)[how]) & 255
        before = line
    return "#" + before[x * size : x * size + 3].hex()


def test_a_viewer_without_scripts_draws_it(tmp_path: Path) -> None:
    program = shutil.which("rsvg-convert")
    if program is None:
        unavailable("rsvg-convert is not installed (remedy: apt-get install librsvg2-bin)")
    source, target = tmp_path / "x.svg", tmp_path / "x.png"
    source.write_bytes(render_svg(shop_profile()))
    subprocess.run([program, "-o", target, source], check=True, timeout=180)
    boxes, _ = read(shop_profile())
    for box in (boxes[0], *(box for box in boxes if box.name in ("main.(*Server).product", "pipe_read"))):
        assert pixel(target.read_bytes(), round(box.x + box.width) - 3, round(box.y) + 2) == box.fill, box.name


# ---- a browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        unavailable("a browser is not installed (remedy: apt-get install chromium)")
    made = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


Show = Callable[..., Browser]


@pytest.fixture
def show(chromium: Browser, tmp_path: Path) -> Show:
    def opened(made: Profile, fragment: str = "") -> Browser:
        path = tmp_path / "x.svg"
        path.write_bytes(render_svg(made))
        chromium.open(path.as_uri() + fragment)
        return chromium

    return opened


SEEN = """[...document.querySelectorAll('#frames > g:not(.off)')].map(group => [
  group.querySelector('title').textContent.split('\\n')[0],
  Math.round(group.querySelector('rect').getBoundingClientRect().width),
  group.classList.contains('above')])"""


def click(browser: Browser, name: str) -> None:
    box = browser.run(f"""(() => {{
      const named = group => group.querySelector('title').textContent.split('\\n')[0] === {name!r};
      const shown = [...document.querySelectorAll('#frames > g:not(.off)')];
      const box = shown.find(named).querySelector('rect').getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height / 2]; }})()""")
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        browser.mouse(kind, *box)


def test_click_zooms_and_an_ancestor_zooms_out(show: Show) -> None:
    browser = show(shop_profile())
    all_seen = browser.run(SEEN)
    click(browser, "main.(*Cache).Get")
    seen = {name: (width, above) for name, width, above in browser.run(SEEN)}
    assert seen["main.(*Cache).Get"] == (1180, False)
    assert seen["net/http.(*conn).serve"][1] and "main.main" not in seen
    assert browser.text("#details").startswith("main.(*Cache).Get  22.2 s")
    click(browser, "net/http.(*conn).serve")
    seen = {name for name, _, _ in browser.run(SEEN)}
    assert "main.(*Cache).Put" in seen and "main.main" not in seen
    browser.run("document.getElementById('reset').dispatchEvent(new MouseEvent('click'))")
    assert browser.run(SEEN) == all_seen
    assert not browser.problems()


def test_zoom_gives_names_the_room_they_have(show: Show) -> None:
    browser = show(shop_profile())
    label = """[...document.querySelectorAll('#frames > g:not(.off)')]
      .filter(group => group.textContent.startsWith('pipe_read'))
      .map(group => group.querySelector('text').textContent)"""
    assert browser.run(label) == ["pi…"]
    click(browser, "pipe_read")
    assert browser.run(label) == ["pipe_read"]


def test_search_counts_nested_hits_once(show: Show) -> None:
    made = shop_profile()
    browser = show(made)
    browser.run("window.prompt = () => 'ServeHTTP'; 0")
    browser.run("document.getElementById('search').dispatchEvent(new MouseEvent('click'))")
    drawn = [stack for stack in made.stacks if not is_background(stack)]
    hit = sum(s.distribution.total_ns for s in drawn if any("ServeHTTP" in frame.name for frame in s.frames))
    expected = 100 * hit / sum(stack.distribution.total_ns for stack in drawn)
    assert float(re.search(r"Matched: ([\d.]+) %", browser.text("#matched"))[1]) == pytest.approx(expected, abs=0.1)  # type: ignore[index]
    assert browser.text("#search") == "Reset search"
    browser.key("Escape")
    assert browser.text("#search") == "Search" and not browser.text("#matched").strip()


def test_search_by_key_and_without_case(show: Show) -> None:
    browser = show(shop_profile())
    browser.run("window.prompt = () => 'servehttp'; 0")
    browser.key("F3")
    assert browser.text("#matched") == "Matched: 0.0 %"
    browser.run("document.getElementById('case').dispatchEvent(new MouseEvent('click'))")
    assert not browser.text("#matched").startswith("Matched: 0.0")
    browser.key("Escape")
    browser.run("window.prompt = () => '('; 0")
    browser.key("F3")
    assert browser.text("#matched") == "not a regular expression"


def test_the_view_is_in_the_address(show: Show) -> None:
    browser = show(shop_profile())
    click(browser, "main.(*DB).Query")
    browser.run("window.prompt = () => 'Read'; 0")
    browser.key("F3")
    seen, matched, fragment = browser.run(SEEN), browser.text("#matched"), browser.run("location.hash")
    again = show(shop_profile(), fragment)
    assert again.run(SEEN) == seen and again.text("#matched") == matched


def test_hostile_names_do_nothing(show: Show) -> None:
    browser = show(hostile_profile())
    assert HOSTILE["markup"] in {name for name, _, _ in browser.run(SEEN)}
    click(browser, HOSTILE["markup"])
    assert browser.text("#details").startswith(HOSTILE["markup"])
    assert not browser.problems()
    assert browser.run("document.scripts ? document.querySelectorAll('script').length : 1") == 1


@pytest.mark.full
def test_ten_thousand_stacks_open(show: Show) -> None:
    browser = show(many_stacks(10_000))
    assert int(browser.run("document.documentElement.dataset.ready")) > 10_000
    assert not browser.problems()
