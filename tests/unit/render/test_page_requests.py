"""The page's requests in a real browser: the histogram, graphs of some requests, causes, waterfalls, and the switch for idle time."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from browser import Browser
from flamepage import CONTRAST, ROOTS, card_of, fragment, go_to, hover
from profiles import GOEXIT, GOPARK, MS, S, go, layers, profile, runtime, shop_profile, stat, target
from requestprofiles import FSYNC_CAUSE, HTTP, OTHER, QUERY, hostile_requests, requests_made, requests_profile

from gotrace.common.histogram import bucket_of, bucket_range
from gotrace.common.vocabulary import FrameKind, State
from gotrace.profile.filters import filter_requests
from gotrace.profile.requests import Exemplar, PathStep, bands
from gotrace.profile.types import Frame, Profile
from gotrace.render.pagedata import page_data
from gotrace.render.requestdata import idle_columns

Show = Callable[..., Browser]
TOTAL = "flame.trees[0].total[0]"
BOX = "(id => { const r = document.getElementById(id).getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })"
WEIGHTS = """(() => {
  const { stacks, texts } = profile, found = {};
  for (const stack of flame.trees[0].shown) {
    const key = `${texts[stacks.state[stack]]} ${texts[stacks.why[stack]]}`.trim();
    found[key] = (found[key] || 0) + stacks.total[stack];
  }
  return found;
})()"""


def press(page: Browser, selector: str) -> None:
    page.run(f"document.querySelector({json.dumps(selector)}).click()")


def parts(page: Browser) -> list[str]:
    return page.run("[...document.querySelectorAll('#parts button')].map(each => each.firstChild.textContent)")


def chosen_part(page: Browser) -> list[str]:
    return page.run("[...document.querySelectorAll('#parts [aria-pressed=true]')].map(each => each.firstChild.textContent)")


def drag(page: Browser, from_ns: int, to_ns: int) -> None:
    left, top, _, height = page.run(f"{BOX}('latency')")
    low, high = page.run(
        "(() => { const span = requests.chosen(), last = span.buckets.at(-1).bucket;"
        "  return [Math.max(1, profile.bucketLow(span.buckets[0].bucket)), profile.bucketLow(last + 1)].map(Math.log); })()"
    )
    width = page.run("document.getElementById('latency').clientWidth")
    xs = [left + width * (page.run(f"Math.log({ns})") - low) / (high - low) for ns in (from_ns, to_ns)]
    for kind, x in (("mousePressed", xs[0]), ("mouseMoved", sum(xs) / 2), ("mouseMoved", xs[1]), ("mouseReleased", xs[1])):
        buttons = int(kind != "mouseReleased")
        page.send("Input.dispatchMouseEvent", type=kind, x=x, y=top + height / 2, button="left", buttons=buttons, clickCount=1)


def time_of(made: Profile, low: float, high: float) -> dict[str, float]:
    """Mean ns per request by state and reason, from the profile itself."""
    stacks = {stack.key: stack for stack in made.stacks}
    span = made.requests[0]
    band = bands(span, (low, high))[0]
    found = {f"{state.value} {reason}": ns / band.count for (state, reason), ns in band.times(stacks).items()}
    return {"running": band.cpu_ns / band.count, **found}


# ---- opening


def test_it_opens_with_the_requests(show: Show) -> None:
    made = requests_profile()
    page = show(made)
    assert page.run("document.getElementById('requests').open && !document.getElementById('requests').hidden")
    assert page.text("#span-facts").startswith("1,000 requests · 100/s · 2 in progress · p50 950 µs · p90 1.38 ms · p99 56.6 ms")
    assert parts(page) == ["In requests", "Other work", "Waiting for work", "All time"] and chosen_part(page) == ["In requests"]
    assert fragment(page) == {}
    # The whole is the mean duration, from the span function on.
    latency = made.requests[0].latency
    assert page.run(TOTAL) == pytest.approx(latency.total_ns / latency.count)
    assert page.run(ROOTS) == [HTTP]
    assert page.run(WEIGHTS) == pytest.approx({key: ns for key, ns in time_of(made, 0, 1).items() if ns})
    assert page.text("#range") == "all requests, mean 4.84 ms"
    assert page.problems() == []


def test_without_requests_there_is_nothing_of_them(show: Show) -> None:
    for made in (profile(layers()), shop_profile()):
        page = show(made)
        assert page.run("document.getElementById('requests').hidden && document.getElementById('parts').hidden")
        assert page.run(f"{TOTAL} + trees.shownStacks(view).hidden") == made.total().total_ns
        assert page.text("#title").endswith("off-CPU time") and "requests" not in page.text("#title")
        for key in "wal":
            page.key(key, key)
        assert page.problems() == [] and fragment(page) == {}


def test_the_page_s_data_adds_up() -> None:
    made = requests_profile()
    data = page_data(made)
    real, (http, query) = data["requests"]["stacks"], data["requests"]["spans"]
    assert real == len(made.stacks)
    for span, shown in zip(made.requests, (http, query), strict=True):
        assert [bucket["bucket"] for bucket in shown["buckets"]] == sorted(span.buckets)
        for bucket in shown["buckets"]:
            assert sum(bucket["waits"][2::3]) == bucket["total"] and max(bucket["waits"][0::3]) < len(data["stacks"]["node"])
    assert {len(column) for column in data["stacks"].values()} == {real + len({OTHER}) + 2}
    assert all(i + j <= k for i, j, k in zip(*(data["stacks"][key] for key in ("inside", "idle", "total")), strict=True))
    assert "requests" not in page_data(shop_profile()) and "idle" not in page_data(profile(layers()))["stacks"]


# ---- the histogram


def test_dragging_gives_the_graph_of_exactly_those(show: Show) -> None:
    made = requests_made()
    page = show(made.profile)
    drag(page, 22 * MS, 40 * MS)
    first, last = bucket_of(22 * MS), bucket_of(40 * MS)
    assert fragment(page) == {"range": f"{first}-{last}"}
    low, high = bucket_range(first)[0], bucket_range(last)[1]
    within = [one for one in made.requests if low <= one.duration_ns < high]
    assert page.text("#range").startswith(f"{len(within)} of 1,000 requests, ")
    assert page.run(TOTAL) == pytest.approx(sum(one.duration_ns for one in within) / len(within))
    found = page.run(WEIGHTS)
    receive = sum(ns for one in within for stack, ns in one.waits if stack.reason == "chan receive")
    assert found["waiting chan receive"] == pytest.approx(receive / len(within))
    assert found["running"] == pytest.approx(sum(one.cpu_ns for one in within) / len(within))
    # The address brings it back.
    hash_ = page.run("location.hash")
    page = show(made.profile, hash_)
    assert page.run(WEIGHTS) == pytest.approx(found)


def test_dragging_to_the_left_and_beyond_the_ends(show: Show) -> None:
    made = requests_profile()
    page = show(made)
    drag(page, 40 * MS, 22 * MS)
    assert fragment(page) == {"range": f"{bucket_of(22 * MS)}-{bucket_of(40 * MS)}"}
    drag(page, 50 * MS, 400 * MS)
    assert fragment(page) == {"range": f"{bucket_of(50 * MS)}-{max(made.requests[0].buckets)}"}
    assert page.problems() == []


def test_bands_are_buttons(show: Show) -> None:
    made = requests_profile()
    page = show(made)
    assert page.run("[...document.querySelectorAll('#bands button')].map(each => each.textContent)") == [
        "all", "p0–50", "p50–90", "p90–99", "p99–100"
    ]
    page.run("[...document.querySelectorAll('#bands button')].at(-1).click()")
    assert page.run("[...document.querySelectorAll('#bands [aria-pressed=true]')].map(each => each.textContent)") == ["p99–100"]
    mean = time_of(made, 0.99, 1.0)
    assert page.run(WEIGHTS)["waiting chan receive"] == pytest.approx(mean["waiting chan receive"], rel=0.05)
    press(page, "#bands button")
    assert fragment(page) == {}


def test_keys_move_the_range(show: Show) -> None:
    made = requests_profile()
    page, numbers = show(made), sorted(made.requests[0].buckets)
    page.key("l", "l")
    assert page.run("document.activeElement.id") == "latency"
    page.key("End")
    assert fragment(page) == {"range": f"{numbers[-1]}-{numbers[-1]}"}
    page.key("ArrowLeft")
    assert fragment(page) == {"range": f"{numbers[-2]}-{numbers[-2]}"}
    page.send("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", modifiers=8)
    assert fragment(page) == {"range": f"{numbers[-2]}-{numbers[-1]}"}
    assert "requests, " in page.text("#range")
    assert page.run("document.getElementById('latency').getAttribute('aria-valuetext')").endswith("ms")
    page.key("Home")
    assert fragment(page) == {"range": f"{numbers[0]}-{numbers[0]}"}
    page.key("Escape")
    assert fragment(page) == {} and page.run("document.activeElement.id") == "latency"


def test_an_address_that_makes_no_sense_is_left_out(show: Show) -> None:
    made = requests_profile()
    page = show(made, "#range=banana&span=77&part=lunch")
    assert page.run(TOTAL) == pytest.approx(made.requests[0].latency.mean_ns, abs=1) and chosen_part(page) == ["In requests"]
    go_to(page, "range=9999-1")
    assert page.run(TOTAL) > 0
    go_to(page, "range=1-2")
    assert page.run(TOTAL) == 0 and page.text("#range").startswith("0 of 1,000 requests") and page.problems() == []


# ---- compared with all


def test_the_difference_to_all_requests(show: Show) -> None:
    made = requests_profile()
    page = show(made)
    page.run("[...document.querySelectorAll('#bands button')].at(-1).click()")
    page.key("a", "a")
    assert page.run("document.getElementById('compare').checked && document.documentElement.hasAttribute('data-diff')")
    before, after = page.run("[flame.trees[0].before[0], flame.trees[0].total[0]]")
    assert before == pytest.approx(sum(time_of(made, 0, 1).values())) and after == pytest.approx(57.3 * MS, rel=0.01)
    assert page.run("document.getElementById('palette').value") == "growth"
    hover(page, QUERY)
    card = card_of(page)
    assert card["all requests"].endswith("per request") and card["these"].startswith("56.9 ms") and card["change"].startswith("+")
    page.key("t", "t")
    titles = page.run("[...document.querySelectorAll('#table th')].slice(0, 3).map(each => each.textContent)")
    assert titles == ["all", "these", "change ▾"]
    page.key("a", "a")
    assert page.run("document.getElementById('palette').value") == "kind"
    assert not page.run("document.documentElement.hasAttribute('data-diff')")
    assert page.problems() == []


def test_palettes_go_round_without_growth(show: Show) -> None:
    page = show(requests_profile())
    seen = []
    for _ in range(3):
        page.key("p", "p")
        seen.append(page.run("document.getElementById('palette').value"))
    assert seen == ["package", "state", "kind"]
    assert page.run(CONTRAST) == {}


# ---- causes, the slowest


def test_causes_are_of_the_range(show: Show) -> None:
    made = requests_profile()
    page = show(made)
    page.run("[...document.querySelectorAll('#bands button')].at(-1).click()")
    causes = page.run("[...document.querySelectorAll('#causes-list li')].map(each => each.textContent)")
    assert causes[0] == f"89.4 % {FSYNC_CAUSE.text}" and len(causes) == 4
    assert page.text("#causes-name") == "Causes in the end, of 90.1 % of the time"
    press(page, "#bands button")
    assert page.run("document.querySelector('#causes-list b').textContent") == "82.4 %"


def test_a_click_shows_the_path_as_a_waterfall(show: Show) -> None:
    made = requests_profile()
    slow = made.requests[0].exemplars[1]
    page = show(made)
    assert page.run("document.querySelectorAll('#slowest-list button').length") == 10
    page.run("document.querySelectorAll('#slowest-list button')[1].click()")
    assert page.run("document.getElementById('waterfall').open")
    assert page.text("#path-title") == "59.7 ms PUT /kv/1" and "trace_id=4bf92f1" in page.text("#path-facts")
    tracks = page.run("[...document.querySelectorAll('.track > span')].map(each => each.textContent)")
    assert tracks == ["goroutine 101 (the request)", "goroutine 17 main.(*raftNode).start.func1"]
    bars = page.run(
        "[...document.querySelectorAll('.bars button')]"
        "  .map(each => [+each.dataset.step, parseFloat(each.style.left), parseFloat(each.style.width)])"
    )
    steps = slow.path[::-1]
    assert sorted(at for at, *_ in bars) == list(range(len(steps)))
    for at, left, width in bars:
        assert left == pytest.approx(100 * (steps[at].start_ns - slow.start_ns) / slow.duration_ns, abs=0.01)
        assert width == pytest.approx(max(0.1, 100 * steps[at].duration_ns / slow.duration_ns), abs=0.01)
    assert page.run("[...document.querySelectorAll('.arrows i')].map(each => each.className)") == ["down", "up"]
    assert page.run("document.querySelector('[data-step=\"2\"]').title").startswith("fdatasync fd 8 → /var/kv/0.wal: 59.3 ms, ")
    assert page.problems() == []


def test_keys_move_along_the_path(show: Show) -> None:
    page = show(requests_profile())
    page.run("document.querySelectorAll('#slowest-list button')[1].click()")
    # It opens on the longest step.
    assert page.run("document.activeElement.dataset.step") == "2" and "fdatasync" in page.text("#step")
    page.key("ArrowRight")
    assert page.run("document.activeElement.dataset.step") == "3"
    page.key("ArrowLeft")
    assert page.run("document.activeElement.dataset.step") == "2"
    assert "goroutine 17" in page.text("#step") and "main.(*wal).sync" in page.text("#step") and "/srv/kv/wal.go:77" in page.text("#step")
    page.key("ArrowLeft")
    assert page.run("document.activeElement.dataset.step") == "1"
    page.key("t", "t")  # the page below does not hear it
    assert fragment(page) == {}
    # Chromium closes a dialog by a real key press.
    for kind in ("rawKeyDown", "keyUp"):
        page.send("Input.dispatchKeyEvent", type=kind, key="Escape", code="Escape", windowsVirtualKeyCode=27)
    assert not page.run("document.getElementById('waterfall').open")


def test_a_long_path_opens_on_its_longest_step_with_the_ends_of_names(show: Show) -> None:
    name = "go.example.org/services/internal/storage/raft/v3.(*Node).waitForTheSlowestMember"
    waits = [
        PathStep(100 + number, number * MS, 5 * S if number == 45 else MS, State.WAITING.value, "select", (go(name), GOEXIT), "")
        for number in range(60)
    ]
    made = requests_profile()
    made.requests[0].exemplars = [Exemplar(0, 5 * S + 60 * MS, 100, path=waits[::-1])]
    page = show(made)
    press(page, "#slowest-list button")
    assert page.run("document.activeElement.dataset.step") == "45" and "5.00 s" in page.text("#step")
    chosen, seen = page.run("['[data-step=\"45\"]', '#tracks'].map(each => document.querySelector(each).getBoundingClientRect().toJSON())")
    assert seen["top"] <= chosen["top"] and chosen["bottom"] <= seen["bottom"]
    assert page.run("document.getElementById('step').getBoundingClientRect().bottom <= innerHeight")
    track = "document.querySelectorAll('.track')[45].querySelector('bdi')"
    assert page.run(f"{track}.textContent") == "raft/v3.(*Node).waitForTheSlowestMember"
    assert page.run(f"{track}.closest('.ends').title || {track}.closest('.ends').textContent") == f"goroutine 145 {name}"
    text, room = page.run(f"[{track}, {track}.parentNode].map(each => each.getBoundingClientRect().toJSON())")
    assert text["left"] < room["left"] and text["right"] == pytest.approx(room["right"], abs=1), "the end is seen"
    assert page.problems() == []


# ---- the switch for idle time


def test_the_parts_are_all_time(show: Show) -> None:
    made = requests_made()
    page = show(made.profile)
    sums = {}
    for part in ("work", "idle", "all"):
        page.key("w", "w")
        assert fragment(page) == {"part": part}
        sums[part] = page.run(TOTAL)
    inside = sum(ns for one in made.requests for _, ns in one.waits)
    whole = made.profile.total().total_ns
    assert sums == {"idle": 60 * S, "work": whole - 60 * S - inside, "all": whole}
    page.key("w", "w")
    assert chosen_part(page) == ["In requests"]


def test_work_comes_first_without_requests(show: Show) -> None:
    made = requests_profile()
    made.requests = []
    page = show(made)
    assert parts(page) == ["Other work", "Waiting for work", "All time"] and chosen_part(page) == ["Other work"]
    assert page.run(TOTAL) == made.total().total_ns - 60 * S
    assert "main.(*Pool).worker" not in page.run(ROOTS)
    assert "Waiting for work: 60.0 s not shown" in page.text("#status")
    page.run("page.showStack(0)")  # of those that wait: as a row of the table would
    assert chosen_part(page) == ["All time"]


def test_only_waits_of_the_whole_window_are_idle() -> None:
    frames = [GOPARK, runtime("chanrecv"), go("main.worker"), GOEXIT]
    for values, in_progress, idle in (
        ([10 * S] * 6, 6, (60 * S, 6)), ([9_990 * MS], 1, None), ([10 * S] * 2 + [3 * S, MS], 3, (20 * S, 2)), ([10 * S], 0, None),
        ([10 * S - 500_000], 1, (10 * S - 500_000, 1)),
    ):
        columns = idle_columns(profile([stat(frames, values, in_progress=in_progress)]))
        assert columns == ({"idle": [idle[0]], "idle_count": [idle[1]]} if idle else {})


def test_several_spans_and_processes(show: Show) -> None:
    made = requests_profile()
    made.targets.append(target(4300, "cart"))
    page = show(made)
    names = page.run("[...document.getElementById('span').options].map(each => each.textContent)")
    assert names == [f"{HTTP}, shop (4242)", f"{QUERY}, shop (4242)"]
    page.run("(s => { s.value = '1'; s.dispatchEvent(new Event('change')); })(document.getElementById('span'))")
    assert fragment(page) == {"span": "1"} and page.run(ROOTS) == [QUERY]
    assert page.run(TOTAL) == pytest.approx(made.requests[1].latency.total_ns / 1000)
    assert page.run(WEIGHTS)["running"] == 10_000


def test_every_view_of_requests_holds_all_time(show: Show) -> None:
    page = show(requests_profile())
    whole = page.run(TOTAL)
    for change in (
        "{reversed: true}", "{reversed: false, machinery: true}", "{machinery: false, objects: true}", "{byName: true, icicle: true}",
    ):
        page.run(f"page.change({change}, [])")
        assert page.run(TOTAL) == pytest.approx(whole)
    page.run("page.change({sandwich: profile.functions.name.findIndex((_, fn) => profile.nameOf(fn) === 'main.(*Store).query')}, [])")
    assert page.run("flame.trees.length") == 2
    assert page.run("[...flame.trees[0].children(0)].map(node => profile.nameOf(flame.trees[0].fn[node]))") == ["main.(*Server).put"]
    assert page.problems() == []


def test_a_stack_without_the_span_function_is_shown_whole(show: Show) -> None:
    made = requests_profile()
    old = next(stack for stack in made.stacks if stack.reason == "sync.Mutex.Lock")
    lost = stat([*old.frames[:4], Frame("[stack deeper than the walk]", kind=FrameKind.LOST)], [5 * MS], State.WAITING, "sync.Mutex.Lock")
    made.stacks.append(lost)
    for bucket in made.requests[0].buckets.values():
        if old.key in bucket.waits:
            bucket.waits[lost.key] = bucket.waits.pop(old.key)
    page = show(made)
    assert set(page.run(ROOTS)) == {HTTP, "[stack deeper than the walk]"}


def test_a_page_of_a_band_opens_with_it(show: Show) -> None:
    made = filter_requests(requests_profile(), (0.99, 1.0))
    page = show(made)
    assert page.text("#range").startswith("13 of 1,000 requests") and "inside requests between p99 and p100" in page.text("#warnings")
    assert page.problems() == []


def test_hostile_names_run_nothing(show: Show) -> None:
    made = hostile_requests()
    page = show(made)
    for number in range(len(made.requests)):
        page.run(f"page.change({{span: '{number}', range: ''}}, [])")
        page.run("document.querySelector('#slowest-list button').click()")
        page.run("document.getElementById('waterfall').close()")
    assert page.problems() == [] and page.run("document.querySelectorAll('img, b script').length") == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_in_both_themes(show: Show, theme: str) -> None:
    page = show(requests_profile(), f"#theme={theme}")
    page.run("document.querySelector('#slowest-list button').click()")
    found = page.run("""(() => {
      const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
      const light = colour => {
        paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...paint.getImageData(0, 0, 1, 1).data].map(byte => byte / 255)
          .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const wrong = [];
      for (const bar of document.querySelectorAll('.bars button, #parts button, #bands button')) {
        const [a, b] = [getComputedStyle(bar).backgroundColor, getComputedStyle(bar).color].map(light).sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5) wrong.push([bar.textContent, (a + 0.05) / (b + 0.05)]);
      }
      return wrong;
    })()""")
    assert found == []
