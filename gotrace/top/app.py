"""The full screen of `gotrace top`, by Textual: it shows what `gotrace.top.display` says and hands it the keys."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence

from rich.console import Group as Lines
from rich.text import Text
from textual.app import App, ComposeResult
from textual.events import Key, Resize
from textual.widgets import Static

from gotrace.common.errors import GotraceError
from gotrace.profile.types import StackStat
from gotrace.sched.types import Snapshot
from gotrace.top.display import TABS, Display, Group
from gotrace.top.history import Window
from gotrace.top.types import Screen
from gotrace.top.view import LiveView

_HEAD, _FOOT = 3, 1
_FOOT_TEXT = "q quit  ? help  Tab next tab  Enter stack  / search  1-7 sort  m window  Space freeze  f save  d dump"
_GROUPS_TAB = TABS.index("goroutines")
_SLOWEST_S, _FASTEST_S = 10.0, 1.0
_SHARE = 0.02
"""The scheduler is read so seldom that it takes at most this share of a CPU."""


class TopApp(App[None]):
    """`read_sched` and `read_groups` are called by threads of their own and may raise GotraceError. `save` is given the window, and whom to
    tell what was written. `end` is called when the user wants to end the trace."""

    CSS = """
    Screen { background: transparent; }
    Static { height: auto; }
    """
    ENABLE_COMMAND_PALETTE = False

    def __init__(
        self, view: LiveView, read_sched: Callable[[], Snapshot | None], read_groups: Callable[[], Sequence[Group]],
        save: Callable[[Window, Callable[[str], None]], None], end: Callable[[], None],
    ) -> None:
        super().__init__(ansi_color=True)
        self.display_state = Display()
        self.message = ""
        self._view = view
        self._read_sched, self._read_groups = read_sched, read_groups
        self._save, self._end = save, end
        self._screen_shown: Screen | None = None
        self._sched: Snapshot | None = None
        self._groups: Sequence[Group] | None = None
        self._over = threading.Event()
        self._mounted = self._ended = False

    def compose(self) -> ComposeResult:
        """The head, the table and the line at the bottom."""
        for name in ("head", "body", "foot"):
            yield Static(id=name, markup=False)

    def on_mount(self) -> None:
        """Begins to read the scheduler."""
        self._mounted = True
        self.refresh_figures()
        threading.Thread(target=self._follow_sched, name="scheduler", daemon=True).start()
        if self._ended:
            self.exit()

    def on_unmount(self) -> None:
        """Ends its threads."""
        self._over.set()

    def on_resize(self, _event: Resize) -> None:
        """Draws again."""
        self.draw()

    # -- figures ---------------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """There are new figures. May be called from any thread."""
        if self._mounted and not self._over.is_set():
            self.call_later(self.refresh_figures)

    def over(self) -> None:
        """The trace has ended: so does the screen. May be called from any thread, also before the screen is there."""
        self._ended = True
        if self._mounted and not self._over.is_set():
            self.call_later(self.exit)

    def refresh_figures(self) -> None:
        """Takes the newest figures, unless the screen is frozen, and draws."""
        chosen = self.display_state
        if not chosen.frozen:
            self._screen_shown = self._view.screen(chosen.window, chosen.idle, chosen.objects)
        self.draw()

    def _follow_sched(self) -> None:
        import time

        while not self._over.is_set():
            cpu = time.thread_time()
            try:
                self._sched = self._read_sched()
            except GotraceError:
                return  # the process has ended: the trace will, too
            cost = time.thread_time() - cpu
            self._over.wait(min(_SLOWEST_S, max(_FASTEST_S, cost / _SHARE)))

    def _dump(self) -> None:
        try:
            found: Sequence[Group] = self._read_groups()
            self.call_from_thread(self._dumped, found, f"{sum(group.count for group in found):,} goroutines")
        except GotraceError as error:
            self.call_from_thread(self._dumped, None, str(error))

    def _dumped(self, groups: Sequence[Group] | None, said: str) -> None:
        self._groups = groups if groups is not None else self._groups
        self.say(said)

    def said(self, text: str) -> None:
        """As `say`; may be called from any thread."""
        self.call_later(self.say, text)

    def say(self, text: str) -> None:
        """Shows a message at the bottom until the next key."""
        self.message = text
        self.draw()

    # -- the screen ------------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        """Draws all that has changed."""
        if not self._mounted:
            return
        width, height = self.size
        chosen, screen = self.display_state, self._screen_shown
        stacks: list[StackStat] = []
        if chosen.opened and screen is not None and (row := chosen.chosen(screen)) is not None:
            stacks = self._view.stacks_at(row.place)
        room = max(1, height - _HEAD - _FOOT)
        body = chosen.body(screen, self._sched, self._groups, stacks, width, room)
        body += [Text()] * (room - len(body))
        self.query_one("#head", Static).update(Lines(*chosen.head(screen, self._sched, width)))
        self.query_one("#body", Static).update(Lines(*body))
        foot = self.message or (f"/{chosen.searching}_" if chosen.searching is not None else _FOOT_TEXT)
        self.query_one("#foot", Static).update(Text(foot[:width], "dim" if foot is _FOOT_TEXT else "reverse"))

    def on_key(self, event: Key) -> None:
        """Does what a key means."""
        chosen = self.display_state
        if chosen.searching is not None:
            self.message = chosen.type(event.key, event.character or "")
            self.refresh_figures()
        elif event.key in ("q", "ctrl+c"):
            self._end()
        elif event.character == "R":
            self._view.reset()
            self.say("the windows begin again")
        elif event.key == "f":
            self._save(chosen.window, self.said)
            self.say("writing ...")
        elif event.key == "d":
            chosen.tab = _GROUPS_TAB
            self.say("reading goroutines ...")
            threading.Thread(target=self._dump, name="dump", daemon=True).start()
        elif chosen.press(event.key, self._screen_shown):
            self.message = ""
            self.refresh_figures()
        else:
            return
        event.stop()
        event.prevent_default()


def groups_of(states: Sequence[tuple[str, str, str]]) -> list[Group]:
    """Groups goroutines, each as (state, reason, place), those with most members first."""
    counted = Counter(states)
    return [
        Group(count, f"{state}: {reason}  {place}" if reason else f"{state}  {place}")
        for (state, reason, place), count in counted.most_common()
    ]
