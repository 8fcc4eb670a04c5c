"""The page's views in a real browser: orders, sandwich, filters, palettes, hot spots, keys, what leaves it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from browser import Browser
from flamepage import CONTRAST, NODE, ROOTS, card_of, click, fragment, go_to, hover, wait_for
from profiles import HOSTILE, MS, hostile_profile, layers, many_stacks, profile, recursion, shop_profile, target

from gotrace.common.vocabulary import Loss
from gotrace.profile.types import Hotspot, Pause, Profile

Show = Callable[..., Browser]

# ---- trees


def test_every_tree_holds_all_time(show: Show) -> None:
    made = profile([*layers(), *recursion()])
    page = show(made, "#rg=1")
    for change in ("{}", "{reversed: true}", "{machinery: true}", "{objects: true}", "{byName: true, icicle: true}"):
        page.run(f"page.change({change}, [])")
        sums = page.run(
            "(() => { const [tree] = flame.trees; let ends = 0;"
            "  for (const stack of tree.shown) ends += tree.end[stack] >= 0 ? profile.stacks.total[stack] : NaN;"
            "  let worst = 0;"
            "  for (let node = 0; node < tree.size; node++) {"
            "    let below = 0; for (const child of tree.children(node)) below += tree.total[child];"
            "    worst = Math.max(worst, below - tree.total[node]); }"
            "  return [tree.total[0], ends, worst]; })()"
        )
        assert sums == [made.total().total_ns, made.total().total_ns, 0]


def test_merge_from_the_leaf_begins_with_the_reasons(show: Show) -> None:
    made = profile(layers())
    page = show(made)
    page.key("r", "r")
    assert page.run(ROOTS) == [
        "[syscall: read]",
        "[waiting: IO wait]",
        "[waiting: chan receive]",
        "[waiting: sleep]",
        "[preempted]",
    ]
    path = page.run(
        f"(() => {{ const r = {NODE}('main.producer'); return r.tree.path(r.node).map(profile.nameOf); }})()"
    )
    assert path == [
        "[waiting: chan receive]",
        "main.(*Pool).Get",
        "main.handle",
        "main.serve",
        "main.(*Pool).Put",
        "main.producer",
    ]
    assert fragment(page) == {"reversed": "1"}
    page.key("r", "r")
    assert page.run(ROOTS) == ["main.serve"]


def test_order_by_time_and_by_name(show: Show) -> None:
    page = show(shop_profile())
    names = page.run(ROOTS)
    totals = page.run("[...flame.trees[0].children(0)].map(node => flame.trees[0].total[node])")
    assert totals == sorted(totals, reverse=True) and names != sorted(names)
    page.key("o", "o")
    assert page.run(ROOTS) == sorted(names)
    assert page.run("document.getElementById('order').value") == "name"


def test_icicle_has_its_root_at_the_top(show: Show) -> None:
    page = show(shop_profile())
    ends = "['all', '[waiting: sleep]'].map(name => NODE(name).seen)".replace("NODE", NODE)
    root, leaf = page.run(ends)
    assert root > leaf
    page.key("i", "i")
    root, leaf = page.run(ends)
    assert root < leaf and fragment(page) == {"icicle": "1"}


def test_a_graph_taller_than_the_window_begins_at_its_root(show: Show) -> None:
    made = many_stacks(3, depth=90)
    page = show(made)
    room = page.run("document.getElementById('scroller').clientHeight")
    assert page.run("flame.height") > room
    assert 0 <= page.run(f"{NODE}('all').seen") < room
    page.key("i", "i")
    assert page.run(f"{NODE}('all').seen") == 0
    page.run("document.getElementById('scroller').scrollTop = 300")
    page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.run(f"{NODE}('all').seen") == -300


def test_search_counts_recursion_once(show: Show) -> None:
    page = show(profile(recursion()), "#search=walk")
    assert page.text("#matched") == "matched 75.0 %"
    go_to(page, "#search=leaf%7Cother")
    assert page.text("#matched") == "matched 75.0 %"


# ---- sandwich


def test_sandwich_shows_callers_above_and_callees_below(show: Show) -> None:
    made = profile(layers())
    page = show(made)
    hover(page, "main.handle")
    page.key("s", "s")
    handled = sum(stack.distribution.total_ns for stack in made.stacks if "GC" not in stack.reason)
    assert page.run("flame.trees.map(tree => tree.total[0])") == [handled, handled]
    upper, middle, lower = page.run(f"['main.serve', 'main.handle', 'os.(*File).Read'].map(name => {NODE}(name).seen)")
    assert upper < middle < lower
    assert page.text("#crumbs").startswith("callers and callees of main.handle")
    click(page, "main.serve")
    assert fragment(page)["half"] == "callers"
    shared = page.run("location.hash")
    again = show(made, shared)
    assert again.run("view.zoom.tree.upward && profile.nameOf(view.zoom.tree.fn[view.zoom.node])") == "main.serve"
    again.key("Escape")
    assert again.run("flame.trees.length") == 1 and again.run("location.hash") == ""


def test_sandwich_counts_recursion_once(show: Show) -> None:
    page = show(profile(recursion()))
    hover(page, "main.walk")
    page.key("s", "s")
    assert page.run("flame.trees.map(tree => tree.total[0])") == [30 * MS, 30 * MS]
    page.run("page.change({search: 'main$'})")
    assert page.text("#matched") == "matched 100.0 %"


def test_arrow_keys_cross_the_sandwich(show: Show) -> None:
    page = show(profile(layers()))
    hover(page, "main.handle")
    page.key("s", "s")
    said = []
    for key in ("Home", "ArrowUp", "ArrowUp", "ArrowDown", "ArrowDown"):
        page.key(key)
        said.append(page.text("#spoken").split(",")[0])
    assert said[:4] == ["main.handle", "main.serve", "main.serve", "main.handle"]
    assert said[4] == "os.(*File).Read"


# ---- filters


def test_filters_by_state_reason_and_start_function(show: Show) -> None:
    made = shop_profile()
    page = show(made)
    for field, value in (("state", "syscall"), ("reason", "sync.Mutex.Lock"), ("start", "main.main.func3")):
        assert value in page.run(f"[...document.getElementById('{field}').options].map(option => option.value)")
        page.run(
            f"(() => {{ const list = document.getElementById('{field}'); list.value = {json.dumps(value)};"
            "  list.dispatchEvent(new Event('change')); })()"
        )
        stacks = [
            stack
            for stack in made.stacks
            if value in (stack.state.value, stack.reason)
            or (field == "start" and stack.frames[-2:-1] and stack.frames[-2].name == value)
        ]
        assert page.run("flame.trees[0].total[0]") == sum(stack.distribution.total_ns for stack in stacks) > 0
        page.key("Escape")
        assert page.run("location.hash") == ""


def test_bar_of_states_filters(show: Show) -> None:
    made = shop_profile()
    page = show(made)
    parts = page.run("[...document.querySelectorAll('.bar button')].map(part => part.title.split(':')[0])")
    shares = page.run("[...document.querySelectorAll('.bar button')].map(part => parseFloat(part.style.width))")
    assert set(parts) == {"waiting", "netpoll", "syscall", "preempted"} and sum(shares) == pytest.approx(100, abs=0.1)
    page.run("[...document.querySelectorAll('.bar button')].find(part => part.title.startsWith('syscall')).click()")
    assert fragment(page) == {"state": "syscall"}


# ---- what it looks like


def test_layers_are_told_apart_without_the_legend(show: Show) -> None:
    page = show(profile(layers()), "#rf=1&rg=1")
    names = ["main.handle", "runtime.gopark", "read", "vfs_read", "main.producer"]
    for theme in ("light", "dark"):
        page.run(f"page.change({{theme: '{theme}'}})")
        fills = page.run(
            f"{json.dumps(names)}.map(name => {{ const r = {NODE}(name); return colours.of(r.tree, r.node).fill; }})"
        )
        assert len(set(fills)) == len(names)
        assert page.run(CONTRAST) == {}
    labels = page.run("flame.rows.map(row => flame.labelOf(row.tree, row.node))")
    assert {"⇥ read", "kernel: vfs_read", "io_schedule", "woken by runtime.send", "main.producer"} <= set(labels)
    legend = page.text("#legend")
    for words in ("Go code", "Go runtime", "into the kernel", "kernel", "who woke it", "why it stopped"):
        assert words in legend


def test_palettes(show: Show) -> None:
    page = show(profile(layers()))
    fills = "flame.rows.map(row => colours.of(row.tree, row.node).fill)"
    seen = [page.run(fills)]
    for name in ("package", "state"):
        page.key("p", "p")
        assert fragment(page) == {"palette": name}
        seen.append(page.run(fills))
    assert len({tuple(each) for each in seen}) == 3
    states = page.run(
        "flame.rows.map(row => [colours.of(row.tree, row.node).fill, profile.nameOf(row.tree.fn[row.node])])"
    )
    assert ["#dd6a3a", "[syscall: read]"] in states and ["#4a90c2", "[waiting: sleep]"] in states


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_theme_follows_the_system_until_it_is_toggled(show: Show, scheme: str) -> None:
    page = show(shop_profile())
    other = {"dark": "light", "light": "dark"}[scheme]
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    try:
        wait_for(lambda: page.run("document.documentElement.dataset.theme") == scheme)
        page.run("document.getElementById('theme').click()")
        assert page.run("document.documentElement.dataset.theme") == other
        assert fragment(page) == {"theme": other}
    finally:
        page.send("Emulation.setEmulatedMedia", features=[])


# ---- card, hot spots, pauses, losses


def test_card_says_what_was_waited_on_and_who_woke(show: Show) -> None:
    stacks = layers()
    stacks[2].stopped_ns, stacks[2].long_runs, stacks[2].long_run_max_ns = 4 * MS, 2, 31 * MS
    page = show(profile(stacks))
    hover(page, "net.(*conn).Read")
    card = card_of(page)
    assert card["on"] == "fd 9 → tcp 10.0.0.1:5→10.0.0.2:6379 (45.0 ms)"
    assert card["count"] == "5 intervals"
    assert card["p50 / p99 / max"] == "9.00 ms / 9.00 ms / 9.00 ms" or card["p50 / p99 / max"].endswith("/ 9.00 ms")
    assert card["world stopped"].startswith("4.00 ms, 8.9 %")
    assert card["long runs"] == "2 ended here, the longest after 31.0 ms on the CPU"
    hover(page, "main.(*Pool).Get")
    assert "woken bymain.(*Pool).Put (33.0 ms)" in page.text("#card")
    hover(page, "main.handle")
    assert "/src/main.go:12" in page.text("#card p")


def test_card_draws_the_distribution(show: Show) -> None:
    page = show(shop_profile())
    hover(page, "main.stage")
    inked = page.run(
        "(() => { const c = document.querySelector('#card canvas');"
        "  const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; const columns = new Set();"
        "  for (let i = 3; i < data.length; i += 4) if (data[i]) columns.add((i >> 2) % c.width);"
        "  return columns.size; })()"
    )
    assert inked > 30
    low, high = page.run("[...document.querySelectorAll('#card .scale span')].map(span => span.textContent)")
    assert low.endswith("µs") and high.endswith("ms")


def test_hot_spots_jump_to_their_frames(show: Show) -> None:
    made = shop_profile()
    index = {stack.reason: at for at, stack in enumerate(made.stacks)}
    made.hotspots = [
        Hotspot(index["chan receive"], "p99 is 9 times the median", 20 * MS, 3 * MS, 0.1),
        Hotspot(index["GC scavenge wait"], "a share of 10 %", MS, MS, 0.1),
    ]
    page = show(made, "#state=syscall&show=table")
    assert page.text("#hotspots-name") == "2 hot spots"
    locked = page.run(f"profile.whereOf({index['sync.Mutex.Lock']})")
    assert locked == "internal/sync.(*Mutex).lockSlow in main.(*Cache).Put"
    assert "main.stage p99 is 9 times the median" in page.text("#hotspots-list")
    page.run("document.querySelector('#hotspots-list button').click()")
    assert page.run("profile.nameOf(view.zoom.tree.fn[view.zoom.node])") == "main.stage"
    assert page.run("document.getElementById('graph').hidden") is False
    page.run("card.show(view.zoom.tree, view.zoom.node, 5, 5)")
    assert page.text("#card .hot") == "hot: p99 is 9 times the median"
    page.key("n", "n")
    assert "GC scavenge" not in page.text("#crumbs") and page.run("document.getElementById('background').checked")
    assert (
        page.run("profile.texts[profile.stacks.why[view.zoom.tree.stacksBelow(view.zoom.node)[0]]]")
        == "GC scavenge wait"
    )


def test_pauses_stand_in_the_details(show: Show) -> None:
    pauses = [
        Pause("GC sweep termination", 5 * MS, MS),
        Pause("GC mark termination", 9 * MS, 3 * MS),
        Pause("GC mark termination", 50 * MS, MS),
    ]
    page = show(shop_profile(pauses=pauses))
    assert page.text("#details-name") == "Details, 3 stop-the-world pauses (longest 3.00 ms)"
    page.run("document.getElementById('details').open = true")
    rows = page.run(
        "[...document.querySelectorAll('#details tbody tr')].map(row => [...row.cells].map(c => c.textContent))"
    )
    assert rows[0][:3] == ["GC mark termination", "2", "4.00 ms"]
    assert page.run("document.querySelectorAll('#details .strip i').length") == 3


def test_losses_cannot_be_missed(show: Show) -> None:
    page = show(shop_profile(losses={Loss.STACK_TABLE_FULL: 77}, complete=False))
    box = page.run("document.getElementById('warnings').getBoundingClientRect().toJSON()")
    assert box["height"] > 30 and box["bottom"] < 250
    assert page.run("getComputedStyle(document.getElementById('warnings')).display") == "block"
    assert "77 stack_table_full" in page.text("#warnings") and "Incomplete" in page.text("#warnings")


# ---- keys, address, what leaves the page


def test_help_names_every_key_and_each_does_something(show: Show) -> None:
    made = shop_profile()
    page = show(made)
    page.key("?", "?")
    assert page.run("document.getElementById('help').open")
    keys = page.run("[...document.querySelectorAll('#help kbd')].map(key => key.textContent)")
    page.key("Escape")
    page.run("document.getElementById('help').close()")
    expected = {
        "r": "reversed",
        "i": "icicle",
        "o": "name",
        "p": "palette",
        "f": "rf",
        "g": "rg",
        "x": "fd",
        "d": "theme",
        "t": "show",
    }
    for key, name in expected.items():
        assert key in keys
        page.run("view.theme = ''; page.change({}, [])")
        assert name not in fragment(page)
        page.key(key, key)
        assert name in fragment(page), key
        page.run("history.replaceState(null, '', location.pathname); dispatchEvent(new Event('hashchange'))")
    assert {"/", "?", "n", "s", "c", "e", "0", "Esc", "Home", "Backspace", "Enter", "←", "→", "↑", "↓"} <= set(keys)


def test_zero_zooms_out(show: Show) -> None:
    page = show(shop_profile())
    click(page, "main.stage")
    assert "zoom" in fragment(page)
    page.key("0", "0")
    assert page.run("location.hash") == "" and page.run("view.zoom") is None


def test_a_changed_address_changes_the_view(show: Show) -> None:
    made = shop_profile()
    page = show(made)
    click(page, "main.stage")
    address = page.run("location.hash")
    page.key("Escape")
    go_to(page, address + "&palette=state")
    assert page.text("#crumbs > :last-child").startswith("main.stage")
    assert page.run("document.getElementById('palette').value") == "state"


@pytest.mark.parametrize(
    "address",
    [
        "#zoom=zzzz.1&sandwich=zzzzz",
        "#palette=constructor&show=x&theme=%3Cb%3E",
        "#state=nothing&start=%00",
        "#search=(",
    ],
)
def test_an_address_that_makes_no_sense_does_no_harm(show: Show, address: str) -> None:
    page = show(shop_profile(), address)
    assert page.problems() == []
    page.key("Escape")
    assert page.run("flame.trees[0].total[0]") > 0


def test_name_is_copied(show: Show) -> None:
    page = show(shop_profile())
    page.run(
        "Object.defineProperty(navigator, 'clipboard', { configurable: true,"
        "  value: { writeText: text => { window.copied = text; return Promise.resolve(); } } })"
    )
    hover(page, "main.stage")
    page.key("c", "c")
    assert page.run("window.copied") == "main.stage"
    assert page.text("#toast") == "Copied main.stage"


@pytest.mark.parametrize("made", [shop_profile(), hostile_profile()], ids=["shop", "hostile"])
def test_view_is_saved_as_svg(show: Show, tmp_path: Path, made: Profile) -> None:
    made.losses = {Loss.RING_FULL: 5}
    page = show(made, "#search=main")
    page.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.key("e", "e")
    saved = tmp_path / "gotrace.svg"
    wait_for(lambda: saved.exists() and saved.read_bytes().endswith(b"</svg>"))
    tree = ElementTree.fromstring(saved.read_bytes())
    space = "{http://www.w3.org/2000/svg}"
    assert {element.tag.removeprefix(space) for element in tree.iter()} == {"svg", "rect", "text", "g", "title"}
    assert "5 ring_full" in "".join(tree.itertext())
    titles = [element.text or "" for element in tree.iter(f"{space}title")]
    assert len(titles) == page.run("flame.rows.length")
    assert all(text.isprintable() for text in titles)
    if made.targets[0].comm != target().comm:
        assert any(text.startswith(HOSTILE["markup"]) for text in titles)
    assert page.problems() == []
