"""The page of `gotrace serve` in a real browser: what it shows, by mouse and by keyboard, and that no name can act in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from profiles import HOSTILE
from webs import Web, put_target

from gotrace.serve.push.options import Endpoint, PushOptions
from gotrace.serve.tracing import Condition


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    web = Web(tmp_path_factory.mktemp("page"))
    put_target(web.service, "shop")
    yield web
    web.close()


@pytest.fixture
def page(browser: Browser, web: Web) -> Browser:
    browser.open(f"http://127.0.0.1:{web.port}/")
    until(browser, "document.querySelectorAll('#places tbody tr').length")
    return browser


def until(browser: Browser, script: str) -> Any:
    deadline = time.monotonic() + 60
    while not (found := browser.run(script)):
        assert time.monotonic() < deadline, (script, browser.problems())
        time.sleep(0.05)
    return found


def cells(browser: Browser, table: str) -> list[list[str]]:
    return browser.run(f"[...document.querySelectorAll('#{table} tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))")


def box(browser: Browser) -> dict[str, float]:
    return browser.run("document.getElementById('axis').getBoundingClientRect().toJSON()")


def drag(browser: Browser, from_s: float, to_s: float) -> None:
    """Along the axis, of a minute that ends with the last second; in seconds before that."""
    axis = box(browser)
    y = axis["top"] + 40
    x = [axis["left"] + axis["width"] * (60 - before) / 60 for before in (from_s, to_s)]
    browser.mouse("mousePressed", x[0], y)
    browser.mouse("mouseMoved", (x[0] + x[1]) / 2, y)
    browser.mouse("mouseReleased", x[1], y)


def test_what_it_shows(page: Browser) -> None:
    target, = cells(page, "targets")
    assert [target[0], *target[3:5], *target[6:9]] == ["shop", "tracing", "everything", "50", "7", "20.0 ms"]
    assert page.text("#one-title").startswith("shop (") and "all that is kept" in page.text("#range") and "40.0 s" in page.text("#range")
    assert cells(page, "requests")[0][:2] == ["main.serve", "280"]
    lock, cpu = cells(page, "places")
    assert lock[:3] == ["main.shop", "waiting: sync.Mutex.Lock", "400"] and lock[-1] == "2.00 s"
    assert cpu[:3] == ["main.compute", "runqueue: thread preempted", "5"] and cpu[-1] == "1.00 s"
    assert "waiting 2.00 s" in page.text("#key") and "runqueue 1.00 s" in page.text("#key")
    assert page.run("document.getElementById('empty').hidden") is False
    assert page.problems() == []


def test_dragging_chooses_a_stretch_and_shows_its_flame_graph(page: Browser) -> None:
    compute = "[...document.querySelectorAll('#places tbody tr')].some((row) => row.cells[0].textContent === 'main.compute')"
    drag(page, 35, 30)
    until(page, f"!{compute}")
    drag(page, 20, 15)
    until(page, compute)
    assert "5.00 s" in page.text("#range") or "4.9" in page.text("#range")
    found = dict((row[0], int(row[2])) for row in cells(page, "places"))
    assert found["main.compute"] in (4, 5) and 40 <= found["main.shop"] <= 70
    inner = "document.getElementById('graph').contentDocument"
    until(page, f"{inner}.documentElement?.dataset.ready")
    assert "shop" in page.run(f"{inner}.querySelector('h1').textContent")
    assert page.problems() == []


def test_by_keyboard(page: Browser) -> None:
    page.run("document.getElementById('axis').focus()")
    page.key("ArrowLeft")
    assert "all that is kept" not in page.text("#range")
    first = page.run("axis.stretch.to - axis.stretch.from")
    page.send("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", modifiers=8)
    assert page.run("axis.stretch.to - axis.stretch.from") == pytest.approx(first + 1, abs=0.01)
    assert " to " in page.run("document.getElementById('axis').getAttribute('aria-valuetext')")
    page.key("Enter")
    until(page, "!document.getElementById('graph').hidden")
    page.key("Escape")
    assert "all that is kept" in page.text("#range")
    reached = page.run("[...document.querySelectorAll('button, select, canvas')].every((one) => one.tabIndex >= 0)")
    assert reached and page.problems() == []


def test_a_capture_is_listed(page: Browser, web: Web) -> None:
    page.run("document.getElementById('capture').click()")
    until(page, "document.querySelectorAll('#captures tbody tr').length")
    row, = cells(page, "captures")
    assert row[1].startswith("shop (") and row[2] == "POST /capture" and ".gotrace" in row[3]
    assert web.service.evidence.counts["written"] == 1 and page.problems() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(page: Browser, scheme: str) -> None:
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    try:
        back = page.run("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") == (scheme == "light")
        contrast = page.run(
            "(() => { const light = (colour) => { const [r, g, b] = colour.match(/\\d+/g).map((v) => (v /= 255, v <= 0.04045 ? v / 12.92 :"
            " ((v + 0.055) / 1.055) ** 2.4)); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };"
            " const back = light(getComputedStyle(document.body).backgroundColor);"
            " return [...document.querySelectorAll('h1, h2, th, td, .quiet, button, .key span')].map((one) => {"
            " const text = light(getComputedStyle(one).color), [a, b] = text > back ? [text, back] : [back, text];"
            " return (a + 0.05) / (b + 0.05); }).reduce((a, b) => Math.min(a, b)); })()"
        )
        assert contrast > 4.5
    finally:
        page.send("Emulation.setEmulatedMedia", features=[])


def test_it_updates_and_says_when_there_is_no_answer(browser: Browser, tmp_path: Path) -> None:
    web = Web(tmp_path)
    try:
        browser.open(f"http://127.0.0.1:{web.port}/")
        assert browser.run("document.getElementById('none').hidden") is False
        put_target(web.service, "late")
        until(browser, "document.querySelector('#targets tbody tr')?.cells[0].textContent === 'late'")
    finally:
        web.close()
    until(browser, "document.getElementById('problem').textContent.startsWith('No answer')")
    browser.send("Page.navigate", url="about:blank")


def test_a_clock_that_is_set_back(page: Browser, web: Web) -> None:
    """What is shown comes again, by the clock as it is now, and new seconds do."""
    until(page, "page.seconds.length")
    page.run("page.seconds = page.seconds.map((one) => ({ ...one, end: one.end + 3600 }))")
    page.run("axis.stretch = { from: page.seconds[20].end, to: page.seconds[30].end }")
    until(page, "page.seconds.length && page.seconds[page.seconds.length - 1].end <= page.found.now && axis.stretch === null")
    assert page.run("page.seconds.length") == 40 and "all that is kept" in page.text("#range") and page.problems() == []


def test_a_pid_that_is_used_again(browser: Browser, tmp_path: Path) -> None:
    """It means the process that lives, whatever the clock says of their order."""
    web = Web(tmp_path)
    try:
        old = put_target(web.service, "old")
        web.service.supervisor._traced.clear()
        old.identity, old.condition = replace(old.identity, started=1), Condition.ENDED
        web.service.supervisor.put(old)
        new = put_target(web.service, "new")
        for since in (new.since - 1, new.since + 1):
            old.since = since
            browser.open(f"http://127.0.0.1:{web.port}/")
            until(browser, "document.querySelectorAll('#targets tbody tr').length === 2")
            assert browser.text("#one-title") == f"new ({new.pid})"
            assert browser.run("document.querySelector('#targets tr[aria-selected=true]').cells[0].textContent") == "new"
        assert browser.problems() == []
    finally:
        web.close()


def test_why_there_is_no_capture_is_shown(browser: Browser, tmp_path: Path) -> None:
    web = Web(tmp_path, per_hour=1)
    try:
        put_target(web.service, "shop")
        assert web.service.evidence.permits("request")
        browser.open(f"http://127.0.0.1:{web.port}/")
        until(browser, "document.querySelectorAll('#places tbody tr').length")
        ticks = int(browser.run("document.getElementById('capture').click() || document.documentElement.dataset.ready"))
        until(browser, f"Number(document.documentElement.dataset.ready) > {ticks + 1}")
        assert browser.text("#range").startswith("the captures by request of this hour are used up (1)")
    finally:
        web.close()


def test_names_can_not_act(browser: Browser, tmp_path: Path) -> None:
    web = Web(tmp_path)
    try:
        put_target(web.service, "".join(HOSTILE[name] for name in ("markup", "closing", "quote", "bidi")))
        browser.open(f"http://127.0.0.1:{web.port}/")
        until(browser, "document.querySelectorAll('#places tbody tr').length")
        assert "<script>alert(1)</script>" in cells(browser, "targets")[0][0]
        assert browser.run("document.querySelectorAll('img, td script').length") == 0 and browser.problems() == []
    finally:
        web.close()


def test_what_is_pushed(browser: Browser, tmp_path: Path) -> None:
    """What waits and why; without it there is no such table."""
    push = PushOptions((Endpoint("pyroscope", "http://127.0.0.1:1/push.v1.PusherService/Push"),), tmp_path / "profiles")
    web = Web(tmp_path, push=push)
    try:
        put_target(web.service, "shop")
        browser.open(f"http://127.0.0.1:{web.port}/")
        until(browser, "[...document.querySelectorAll('#pushed tbody tr')].some((row) => /refused/i.test(row.cells[4].textContent))")
        sent, written = cells(browser, "pushed")
        assert sent[0].startswith("pyroscope http://127.0.0.1:1/") and sent[1:4] == ["0", "1", "0"]
        assert written == [f"directory {tmp_path / 'profiles'}", "1", "0", "0", ""]
    finally:
        web.close()


def test_nothing_is_pushed(page: Browser) -> None:
    assert page.run("document.getElementById('push').hidden")
