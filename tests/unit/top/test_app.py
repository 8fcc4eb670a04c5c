"""The full screen, driven by Textual's pilot: a person's tasks, each done in at most five keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from liveviews import SCHED, hand_on, now_waiting, viewed
from profiles import S, shop_profile

from gotrace.common.errors import GotraceError
from gotrace.top.app import TopApp, groups_of
from gotrace.top.history import Window
from gotrace.top.view import LiveView


class Screened:
    """The app over a view, with what was asked of it."""

    def __init__(self, view: LiveView, groups: Callable[[], list] | None = None) -> None:
        self.saved: list[Window] = []
        self.ended = 0
        self.view = view
        self.app = TopApp(view, lambda: SCHED, groups or (lambda: groups_of([("waiting", "select", "main.f")] * 3)), self.save, self.end)
        self.app.display_state.idle = True

    def save(self, window: Window, tell: Callable[[str], None]) -> None:
        self.saved.append(window)
        tell("wrote x.gotrace")

    def end(self) -> None:
        self.ended += 1
        self.app.over()

    def text(self) -> str:
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text.rstrip() for strip in strips)

    def run(self, *keys: str, size: tuple[int, int] = (80, 24)) -> str:
        """The screen after those keys."""
        async def drive() -> str:
            async with self.app.run_test(size=size) as pilot:
                await pilot.pause(0.1)
                for key in keys:
                    await pilot.press(key)
                    await pilot.pause(0.05)
                await pilot.pause(0.2)
                return self.text()

        return asyncio.run(drive())


@pytest.fixture
def shown() -> Screened:
    made = shop_profile()
    return Screened(viewed(made, [now_waiting(made.stacks[0], S)]))


def test_the_first_screen(shown: Screened) -> None:
    lines = shown.run().splitlines()
    assert len(lines) == 24 and max(map(len, lines)) <= 80
    assert "shop (pid 4242)" in lines[0] and "P 64/2" in lines[1] and "[places]" in lines[2] and "total*" in lines[3]
    assert lines[-1].startswith("q quit  ? help")


@pytest.mark.parametrize("size", [(80, 24), (200, 50), (40, 8)])
def test_sizes(shown: Screened, size: tuple[int, int]) -> None:
    lines = shown.run(size=size).splitlines()
    assert len(lines) == size[1] and max(map(len, lines)) <= size[0]


def test_which_lock_is_hot(shown: Screened) -> None:
    text = shown.run("slash", "M", "u", "t", "e", "x", "enter")
    assert "/Mutex" in text and "sync.Mutex.Lock" in text and "[places]" in text


def test_which_place_is_slow(shown: Screened) -> None:
    text = shown.run("6", "enter")
    assert "#" in text and "waits, " in text


def test_what_grew_in_the_last_10_s(shown: Screened) -> None:
    assert "last 10 s" in shown.run("m")


def test_who_holds_the_threads(shown: Screened) -> None:
    text = shown.run("tab", "tab")
    assert "[threads]" in text and "of 41" in text and "5  in read" in text and "4  in C code" in text


def test_save_this(shown: Screened) -> None:
    assert "wrote x.gotrace" in shown.run("f") and shown.saved == [Window.START]


def test_save_the_last_10_s(shown: Screened) -> None:
    assert "wrote x.gotrace" in shown.run("m", "f") and shown.saved == [Window.LAST]


def test_a_dump(shown: Screened) -> None:
    text = shown.run("d")
    assert "[goroutines]" in text and "3  waiting: select  main.f" in text and "3 goroutines" in text


def test_a_dump_that_fails() -> None:
    def fails() -> list:
        raise GotraceError("process 42 has ended")

    assert "process 42 has ended" in Screened(viewed(shop_profile()), fails).run("d")


def test_a_frozen_screen_stays(shown: Screened) -> None:
    made = shop_profile()

    async def drive() -> tuple[str, str, str]:
        async with shown.app.run_test(size=(120, 40)) as pilot:
            await pilot.press("space")
            await pilot.pause(0.1)
            first = shown.text()
            hand_on(shown.view, replace(made, stacks=made.stacks[:1]))
            shown.app.changed()
            await pilot.pause(0.2)
            second = shown.text()
            await pilot.press("space")
            shown.app.changed()
            await pilot.pause(0.2)
            return first, second, shown.text()

    first, second, third = asyncio.run(drive())
    assert "FROZEN" in first and first.splitlines()[2:] == second.splitlines()[2:] and "FROZEN" not in third


def test_it_ends(shown: Screened) -> None:
    shown.run("q")
    assert shown.ended == 1


def test_new_figures_are_shown_as_they_come() -> None:
    made = shop_profile()
    view = viewed(replace(made, stacks=[]))
    shown = Screened(view)
    view.on_change(shown.app.changed)

    async def drive() -> tuple[str, str]:
        async with shown.app.run_test(size=(120, 40)) as pilot:
            await pilot.pause(0.1)
            before = shown.text()
            await asyncio.to_thread(hand_on, view, made)
            await pilot.pause(0.3)
            return before, shown.text()

    before, after = asyncio.run(drive())
    assert "nothing here" in before and "nothing here" not in after and "main." in after
