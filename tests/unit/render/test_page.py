"""The flame graph's page in a real browser: what it draws, how it answers, and that no name can act in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Browser
from profiles import HOSTILE, S, hostile_profile, layers, many_stacks, profile, shop_profile, two_processes

from gotrace.common.vocabulary import FrameKind, Loss
from gotrace.render.frames import folded_frames, is_background, reason_label, waker_of, without_waker

Show = Callable[..., Browser]


def canvas(browser: Browser) -> dict[str, float]:
    return browser.run("document.getElementById('canvas').getBoundingClientRect().toJSON()")


def test_page_states_totals_losses_and_hidden_time(show: Show) -> None:
    page = show(shop_profile(losses={Loss.MISSED_HITS: 1234, Loss.RING_FULL: 0}))
    assert page.text("h1") == "shop (4242) off-CPU time"
    assert "in 4,037 intervals of 74 goroutines" in page.text("#facts")
    assert page.text("#warnings").startswith("1,234 missed_hits: ")
    assert "ring_full" not in page.text("#warnings")
    assert page.text("#status") == "Runtime goroutines hidden: 20.0 s, 21.0 % of all off-CPU time"
    assert page.problems() == []


def test_hovering_and_clicking(show: Show) -> None:
    page = show(shop_profile())
    box = canvas(page)
    page.mouse("mouseMoved", box["left"] + 20, box["bottom"] - 30)
    assert page.text("#card h2") == "net/http.(*Server).Serve.gowrap3"
    assert "server.go:3454" in page.text("#card p")
    page.mouse("mousePressed", box["left"] + 20, box["bottom"] - 30)
    page.mouse("mouseReleased", box["left"] + 20, box["bottom"] - 30)
    assert page.text("#crumbs").startswith("all›net/http.(*Server).Serve.gowrap3  ")
    assert "zoom=" in page.run("location.hash")
    page.key("Escape")
    assert page.run("location.hash") == ""


def test_card_of_a_leaf_agrees_with_the_profile(show: Show) -> None:
    made = shop_profile()
    index, sleep = next((i, s) for i, s in enumerate(made.stacks) if s.reason == "sleep")
    page = show(made)
    figures = page.run(
        f"(() => {{ const tree = trees.fromRoot([{index}], {{}}); let node = 0;"
        "  while (tree.children(node).length) [node] = tree.children(node);"
        "  const { stacks, max, goroutines, progress, p50, p99 } = trees.figures(tree, node);"
        "  return { label: flame.labelOf(tree, node), total: tree.total[node],"
        "    stacks, max, goroutines, progress, p50, p99 }; })()"
    )
    weights = sleep.distribution
    assert figures == {
        "label": "[waiting: sleep]",
        "total": weights.total_ns,
        "stacks": 1,
        "max": S,
        "goroutines": 1,
        "progress": 1,
        "p50": weights.percentile_ns(0.50),
        "p99": weights.percentile_ns(0.99),
    }


def test_merged_percentiles_agree_with_the_profile(show: Show) -> None:
    made = shop_profile()
    page = show(made)
    root = page.run(
        "(() => { const tree = trees.fromRoot([...profile.stacks.total.keys()], {});"
        "  const { p50, p99, max } = trees.figures(tree, 0);"
        "  return [tree.total[0], tree.count[0], p50, p99, max]; })()"
    )
    total = made.total()
    assert root == [total.total_ns, total.count, total.percentile_ns(0.5), total.percentile_ns(0.99), total.max_ns]
    single = page.run("[0.5, 0.99].map(fraction => [...profile.percentilesOf(fraction)])")
    assert single == [[s.distribution.percentile_ns(fraction) for s in made.stacks] for fraction in (0.5, 0.99)]


def test_search_counts_nested_hits_once(show: Show) -> None:
    made = shop_profile()
    page = show(made)
    page.key("/")
    for letter in "mutex":
        page.key(letter, letter)
    # Runtime goroutines are hidden: the share is of what is shown.
    waited = sum(s.distribution.total_ns for s in made.stacks if s.reason == "sync.Mutex.Lock")
    hidden = sum(s.distribution.total_ns for s in made.stacks if s.reason.startswith("GC "))
    shown = made.total().total_ns - hidden
    assert page.text("#matched") == f"matched {100 * waited / shown:.1f} %"
    page.key("(", "(")
    assert page.text("#matched") == "not a regular expression"
    assert page.problems() == []


PATHS = (
    "[...profile.stacks.total.keys()].map(stack => profile.pathOf(stack, OPTIONS)"
    ".map(frame => profile.nameOf(profile.frames.function[frame])))"
)


def test_folding_is_the_same_in_page_and_terminal(show: Show) -> None:
    made = two_processes()
    made.stacks += layers()
    paths = show(made).run(PATHS.replace("OPTIONS", "{ objects: true }"))
    roots = {4242: "shop (4242)", 4300: "cart (4300)"}
    expected = []
    for stack in made.stacks:
        frames = [frame for frame in reversed(folded_frames(stack.frames)) if frame.kind is not FrameKind.WAKER]
        waker = [frame.name for frame in reversed(waker_of(stack.frames))]
        expected.append([roots[stack.pid], *(frame.name for frame in frames), reason_label(stack), *waker])
    assert paths == expected


def test_runtime_frames_and_objects_are_shown_on_demand(show: Show) -> None:
    made = profile(layers())
    page = show(made)
    paths = page.run(PATHS.replace("OPTIONS", "{ machinery: true, objects: true }"))
    for path, stack in zip(paths, made.stacks, strict=True):
        own = [frame.name for frame in reversed(without_waker(stack.frames))]
        waker = [frame.name for frame in reversed(stack.frames) if frame.kind is FrameKind.WAKER]
        assert path == [*own, reason_label(stack), *waker]
    assert [path[4] for path in page.run(PATHS.replace("OPTIONS", "{}"))[:2]] == ["read", "read"]
    assert page.run("document.getElementById('also').hidden")
    page.key("/")
    for letter in "index":
        page.key(letter, letter)
    assert page.text("#matched") == "matched 0.0 %"
    page.run("document.getElementById('also').click()")
    assert "fd=1" in page.run("location.hash")
    shown = sum(stack.distribution.total_ns for stack in made.stacks if not is_background(stack))
    assert page.text("#matched") == f"matched {100 * made.stacks[1].distribution.total_ns / shown:.1f} %"


def test_address_brings_the_view_back(show: Show) -> None:
    page = show(shop_profile(), "#state=syscall&search=pipe&icicle=1&rf=1&rg=1&theme=dark&show=table")
    assert page.run("document.getElementById('state').value") == "syscall"
    assert page.run("document.documentElement.dataset.theme") == "dark"
    assert page.text("#matched") == "matched 100.0 %"
    rows = page.run("[...document.querySelectorAll('#table tbody tr')].map(row => row.cells[8].textContent)")
    assert rows == ["[syscall: read]"]
    assert page.run("location.hash.slice(1).split('&').sort().join('&')") == (
        "icicle=1&rf=1&rg=1&search=pipe&show=table&state=syscall&theme=dark"
    )


COUNTS = "[...document.querySelectorAll('#table tbody tr')].map(row => row.cells[2].textContent)"


def test_table_sorts_and_opens_the_graph(show: Show) -> None:
    made = shop_profile()
    page = show(made, "#show=table&rg=1")
    page.run("[...document.querySelectorAll('th button')].find(b => b.textContent === 'count').click()")
    counts = page.run(COUNTS)
    assert counts == [f"{count:,}" for count in sorted((s.distribution.count for s in made.stacks), reverse=True)]
    assert page.run("document.querySelectorAll('#table th')[2].getAttribute('aria-sort')") == "descending"
    page.run("[...document.querySelectorAll('th button')].find(b => b.textContent.startsWith('count')).click()")
    again = show(made, page.run("location.hash"))
    assert again.run(COUNTS) == counts[::-1]
    assert again.run("document.querySelectorAll('#table th')[2].getAttribute('aria-sort')") == "ascending"
    page.run("[...document.querySelectorAll('th button')].find(b => b.textContent.startsWith('count')).click()")
    page.run("document.querySelector('#table tbody tr').click()")
    assert not page.run("document.getElementById('graph').hidden")
    assert page.text("#crumbs > :last-child").startswith("internal/poll.(*pollDesc).wait  ")


def test_arrow_keys_move_and_speak(show: Show) -> None:
    page = show(shop_profile())
    page.key("ArrowUp")
    assert page.text("#spoken").startswith("net/http.(*Server).Serve.gowrap3, go, ")
    page.key("ArrowRight")
    first = page.text("#spoken")
    page.key("ArrowLeft")
    assert page.text("#spoken") != first
    page.key("ArrowDown")
    assert page.text("#spoken").startswith("all, ")
    page.key("ArrowUp")
    page.key("Enter")
    assert page.text("#crumbs > :last-child").startswith("net/http.(*Server).Serve.gowrap3  ")
    page.key("Backspace")
    assert page.text("#crumbs") == ""


@pytest.mark.parametrize(
    "fragment", ["", "#show=table", "#show=both&reversed=1&palette=package", "#theme=dark&search=%3Cscript%3E"]
)
def test_hostile_names_are_only_text(show: Show, fragment: str) -> None:
    page = show(hostile_profile(), fragment)
    page.run("document.getElementById('tab-table').click()")
    assert page.problems() == []
    assert page.run("document.querySelectorAll('img, iframe, object, link, a').length") == 0
    assert page.run("document.scripts.length") == 2
    assert page.run("document.title").count("\x1b") == 0
    seen = page.run("document.body.innerText")
    for name in ("\x1b", "\u202e", "\u2066", "\u200f", "\u2028", "\x9b"):
        assert name not in seen
    if not fragment.endswith("script%3E"):
        assert HOSTILE["closing"] in seen
        assert HOSTILE["template"] in seen
        assert "main.\\u202egnirts" in seen


@pytest.mark.complete
@pytest.mark.full
@pytest.mark.slow
def test_a_hundred_thousand_stacks(show: Show, tmp_path: Path) -> None:
    made = many_stacks(100_000)
    page = show(made)
    assert (tmp_path / "page.html").stat().st_size < 5_000_000
    assert page.run("flame.trees[0].total[0]") == made.total().total_ns
    assert page.run("document.querySelectorAll('canvas').length") == 1
    hit = sum(stack.distribution.total_ns for stack in made.stacks if stack.frames[2].name.endswith("7"))
    page.run("page.change({ search: 'leaf[.]f[0-9]*7$' })")
    assert page.text("#matched") == f"matched {100 * hit / made.total().total_ns:.1f} %"
    page.run("page.zoomTo(flame.trees[0], flame.trees[0].children(0)[0])")
    assert page.text("#crumbs > :last-child").startswith("example.org/big/pkg")
    page.run("page.change({ reversed: true, show: 'both' }, [])")
    assert page.run("flame.trees[0].total[0]") == made.total().total_ns
    assert page.problems() == []


def test_profile_without_intervals(show: Show) -> None:
    page = show(profile([]))
    assert page.text("#facts").startswith("0 ns off the CPU in 0 intervals")
    assert page.problems() == []


def test_graph_is_as_wide_as_the_page(show: Show) -> None:
    page = show(shop_profile(losses={Loss.MISSED_HITS: 3}))
    assert canvas(page)["right"] == page.run("document.querySelector('.bar').getBoundingClientRect().right")
    box = canvas(page)
    page.mouse("mouseMoved", box["right"] - 3, box["bottom"] - 10)
    assert page.text("#card h2") == "all"
