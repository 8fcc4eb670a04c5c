"""The flame graph's page in a real browser: what it draws, how it answers, and that no name can act in it."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import unavailable
from profiles import HOSTILE, S, hostile_profile, many_stacks, profile, shop_profile, two_processes

from gotrace.profile.types import Profile
from gotrace.render.frames import folded_frames, reason_label
from gotrace.render.html import render_html
from gotrace.vocabulary import Loss

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
    "--window-size=1400,900",
)


class Browser:
    """Chromium spoken to over its debugging pipe: NUL-ended JSON, commands on its descriptor 3, answers on 4."""

    def __init__(self, program: str, folder: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # Numbers above 9 cannot be overwritten by the shell's redirections to 3 and 4.
        passed = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs_in, theirs_out)]
        script = f'exec "$@" 3<&{passed[0]} 4>&{passed[1]}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=passed,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (theirs_in, theirs_out, *passed):
            os.close(fd)
        self.read_from, self.write_to = ours_in, ours_out
        self.buffer, self.number = b"", 0
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read_from], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self.read_from, 1 << 20) if ready else b""
            assert data, "the browser ended or was silent for a minute"
            self.buffer += data
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def run(self, script: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, url: str) -> None:
        self.events.clear()
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=url)
        deadline = time.monotonic() + 60
        while not self.run("location.protocol === 'file:' && document.readyState === 'complete'"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # Two frames: everything that the page's start asked to be laid out and drawn has been.
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def key(self, key: str, text: str = "") -> None:
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.send(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            button="left" if kind != "mouseMoved" else "none",
            clickCount=int(kind != "mouseMoved"),
        )

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({json.dumps(selector)}).textContent")

    def problems(self) -> list[Any]:
        """Exceptions, refusals by the page's policy, and requests for anything but the page itself."""
        self.run("0")
        found: list[Any] = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method in ("Runtime.exceptionThrown", "Log.entryAdded"):
                found.append(params)
            elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "about:")):
                found.append(params["request"]["url"])
        return found

    def picture(self, path: str) -> None:
        Path(path).write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        os.close(self.write_to)
        os.close(self.read_from)
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        unavailable("needs a browser (remedy: apt-get install chromium)")
    started = Browser(str(program), tmp_path_factory.mktemp("browser"))
    yield started
    started.close()


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Callable[..., Browser]:
    def open_page(profile: Profile, fragment: str = "") -> Browser:
        page = tmp_path / "page.html"
        page.write_bytes(render_html(profile))
        browser.open(page.as_uri() + fragment)
        assert browser.run("document.documentElement.dataset.ready") == str(len(profile.stacks))
        return browser

    return open_page


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
        f"(() => {{ let node = profile.build([{index}], false);"
        "  while (node.children.size) node = profile.childrenOf(node)[0];"
        "  const { stacks, max, goroutines, progress, p50, p99 } = profile.figures(node);"
        "  return { label: profile.labelOf(node), total: node.total,"
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
        "(() => { const top = profile.build(profile.stacks.total.map((_, i) => i), false);"
        "  const { p50, p99, max } = profile.figures(top);"
        "  return [top.total, top.count, p50, p99, max]; })()"
    )
    total = made.total()
    assert root == [total.total_ns, total.count, total.percentile_ns(0.5), total.percentile_ns(0.99), total.max_ns]


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


def test_folding_is_the_same_in_page_and_terminal(show: Show) -> None:
    made = two_processes()
    page = show(made)
    paths = page.run(
        "profile.stacks.node.map((_, stack) =>"
        "  profile.pathOf(stack, false).map(frame => profile.nameOf(profile.frames.function[frame])))"
    )
    roots = {4242: "shop (4242)", 4300: "cart (4300)"}
    assert paths == [
        [roots[stack.pid], *(frame.name for frame in reversed(folded_frames(stack.frames))), reason_label(stack)]
        for stack in made.stacks
    ]


def test_address_brings_the_view_back(show: Show) -> None:
    page = show(shop_profile(), "#state=syscall&search=pipe&icicle=1&rf=1&rg=1&theme=dark&table=1")
    assert page.run("document.getElementById('state').value") == "syscall"
    assert page.run("document.documentElement.dataset.theme") == "dark"
    assert page.text("#matched") == "matched 100.0 %"
    rows = page.run("[...document.querySelectorAll('#table tbody tr')].map(row => row.cells[8].textContent)")
    assert rows == ["[syscall: read]"]
    assert page.run("location.hash.slice(1).split('&').sort().join('&')") == (
        "icicle=1&rf=1&rg=1&search=pipe&state=syscall&table=1&theme=dark"
    )


def test_table_sorts_and_opens_the_graph(show: Show) -> None:
    made = shop_profile()
    page = show(made, "#table=1&rg=1")
    page.run("[...document.querySelectorAll('th button')].find(b => b.textContent === 'count').click()")
    counts = page.run("[...document.querySelectorAll('#table tbody tr')].map(row => row.cells[2].textContent)")
    assert counts == [f"{count:,}" for count in sorted((s.distribution.count for s in made.stacks), reverse=True)]
    assert page.run("document.querySelectorAll('#table th')[2].getAttribute('aria-sort')") == "descending"
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
    assert page.text("#crumbs span").startswith("net/http.(*Server).Serve.gowrap3  ")
    page.key("Backspace")
    assert page.text("#crumbs") == ""


@pytest.mark.parametrize("fragment", ["", "#table=1", "#theme=dark&search=%3Cscript%3E"])
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


def test_twenty_thousand_stacks(show: Show) -> None:
    made = many_stacks(20_000)
    page = show(made)
    assert page.run("profile.build(profile.stacks.total.map((_, i) => i), false).total") == made.total().total_ns
    assert page.run("document.querySelectorAll('canvas').length") == 1
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
