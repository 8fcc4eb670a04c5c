"""What the screen of `gotrace top` says, and what its keys do. Pure: from figures to lines of text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from gotrace.common.histogram import bucket_range
from gotrace.common.units import format_duration
from gotrace.profile.frames import folded_frames, plain_name
from gotrace.profile.types import StackStat
from gotrace.render.columns import Column, cells, fitting, heading, width_of
from gotrace.render.text import sanitize
from gotrace.sched.types import Snapshot
from gotrace.top.history import Window
from gotrace.top.text import REQUEST_COLUMNS, ROW_COLUMNS, cause_of, request_notes, short, title_of
from gotrace.top.types import Row, Screen

TABS = ("places", "requests", "threads", "goroutines")
WINDOWS = (Window.START, Window.LAST, Window.FADING)
_WINDOW_TEXT = {Window.START: "since the start", Window.LAST: "last 10 s", Window.FADING: "fading"}
_ROW_ORDER = ("waiting_now", "rate_per_s", "total_ns", "share", "p50_ns", "p99_ns", "max_ns")
_REQUEST_ORDER = ("rate_per_s", "in_progress", "p50_ns", "p90_ns", "p99_ns", "max_ns")
_LEAST_TITLE = 30
_HISTOGRAM_ROWS, _BAR = 12, 40
HELP = """\
Tab, Shift-Tab   next, previous tab       Up, Down   choose a row
1 to 7           sort by that column      Enter      its stacks, histogram; back
s                only one state, or all   r          only its reason, or all
p                with or without peers    /          only what matches a regex
i                with waits that are idle m          since start, 10 s, fading
Space            freeze                   R          begin again
f                write a capture and a flame graph of the window
d                read all goroutines      q          end the trace
?                this help; back"""


@dataclass(frozen=True)
class Group:
    """Goroutines of a dump that are alike: how many, and in words what they do and where."""

    count: int
    title: str


@dataclass
class Display:
    """What is chosen. `sort` is the sorted column of each tab, from 0 on; `state` and `reason` are filters, "" for all; `opened` says
    whether the chosen row is shown in detail, and `helping` whether the help is."""

    tab: int = 0
    sort: list[int] = field(default_factory=lambda: [2, 0, 0, 0])
    cursor: int = 0
    state: str = ""
    reason: str = ""
    objects: bool = True
    pattern: str = ""
    idle: bool = False
    window: Window = Window.START
    frozen: bool = False
    opened: bool = False
    helping: bool = False
    searching: str | None = None
    """The regular expression that is being typed; None if none is."""

    # -- keys ------------------------------------------------------------------------------------------------------------

    def press(self, key: str, screen: Screen | None) -> bool:
        """Does what a key means for the display; False if it means nothing here."""
        if key in ("tab", "shift+tab"):
            self.tab = (self.tab + (1 if key == "tab" else -1)) % len(TABS)
            self.cursor, self.opened = 0, False
        elif key in ("up", "down", "home"):
            self.cursor = 0 if key == "home" else max(0, self.cursor + (1 if key == "down" else -1))
        elif key in "1234567":
            count = len(_ROW_ORDER) if self.tab == 0 else len(_REQUEST_ORDER) if self.tab == 1 else 1
            self.sort[self.tab] = min(int(key) - 1, count - 1)
        elif key == "s":
            states = ["", *(screen.states if screen is not None else ())]
            self.state = states[(states.index(self.state) + 1) % len(states)] if self.state in states else ""
        elif key == "r":
            rows = self.rows(screen) if screen is not None else []
            self.reason = "" if self.reason or not rows else rows[min(self.cursor, len(rows) - 1)].place.reason
        elif key == "p":
            self.objects = not self.objects
        elif key == "i":
            self.idle = not self.idle
        elif key == "m":
            self.window = WINDOWS[(WINDOWS.index(self.window) + 1) % len(WINDOWS)]
        elif key == "space":
            self.frozen = not self.frozen
        elif key == "enter":
            self.opened = not self.opened and self.tab == 0
        elif key == "slash":
            self.searching = self.pattern
        elif key == "question_mark":
            self.helping = not self.helping
        elif key == "escape":
            self.opened = self.helping = False
        else:
            return False
        return True

    def type(self, key: str, character: str) -> str:
        """Takes a key of a regular expression that is being typed. Returns a message, "" if there is none."""
        text = self.searching or ""
        if key == "escape":
            self.searching = None
        elif key == "backspace":
            self.searching = text[:-1]
        elif key == "ctrl+u":
            self.searching = ""
        elif key == "enter":
            self.searching = None
            try:
                re.compile(text)
            except re.error as error:
                return f"no regular expression: {error}"
            self.pattern, self.cursor = text, 0
        elif character.isprintable() and character:
            self.searching = text + character
        return ""

    # -- rows ------------------------------------------------------------------------------------------------------------

    def rows(self, screen: Screen) -> list[Row]:
        """The places that are shown, in their order."""
        wanted = re.compile(self.pattern) if self.pattern else None
        chosen = [
            row for row in screen.rows
            if self.state in ("", row.place.state) and self.reason in ("", row.place.reason)
            and (wanted is None or wanted.search(title_of(row)))
        ]
        return sorted(chosen, key=lambda row: -(getattr(row, _ROW_ORDER[self.sort[0]]) or 0))

    def chosen(self, screen: Screen) -> Row | None:
        """The row of the cursor."""
        rows = self.rows(screen)
        return rows[min(self.cursor, len(rows) - 1)] if rows else None

    # -- lines -----------------------------------------------------------------------------------------------------------

    def head(self, screen: Screen | None, sched: Snapshot | None, width: int) -> list[Text]:
        """Three lines: the process, its scheduler, what is shown."""
        if screen is None:
            return [Text("the trace begins"), Text(), Text()]
        target = screen.target
        cost = f", tracing costs about {100 * screen.cost:.1f} %" if screen.cost is not None else ""
        lost = f"{screen.losses:,} lost" if screen.losses else "no losses"
        first = f"{target.comm} (pid {target.pid}) {target.go_version}  {screen.intervals_per_s:,.0f} waits/s{cost}, {lost}"
        tabs = "  ".join(f"[{name}]" if number == self.tab else name for number, name in enumerate(TABS))
        shown = [_WINDOW_TEXT[self.window] if self.window is not Window.START else f"since {format_duration(screen.span_ns)}"]
        shown += filter(None, (
            "FROZEN" if self.frozen else "", self.state, self.reason, f"/{self.pattern}" if self.pattern else "",
            "" if self.objects else "no peers",
            "with idle" if self.idle else "",
        ))
        lines = (Text(first, "bold"), _scheduler(sched, screen.states), Text(f"{tabs}   {', '.join(shown)}"))
        return [_cut(line, width) for line in lines]

    def body(
        self, screen: Screen | None, sched: Snapshot | None, groups: Sequence[Group] | None, stacks: Sequence[StackStat], width: int,
        height: int,
    ) -> list[Text]:
        """The lines below, at most `height`. `stacks` are those of the chosen row, `groups` those of the newest dump."""
        if self.helping:
            lines = [Text(line) for line in HELP.splitlines()]
        elif screen is None:
            lines = []
        elif self.tab == 0:
            unseen = [Text(f"! what waits now is not known: {screen.unseen}", "yellow")] if screen.unseen else []
            table = self._table(ROW_COLUMNS, self.rows(screen), title_of, "place", width, height - len(unseen)) + unseen
            lines = stack_lines(stacks) if self.opened else table
        elif self.tab == 1:
            order = _REQUEST_ORDER[self.sort[1]]
            ranked = sorted(screen.requests, key=lambda row: -getattr(row, order))
            notes = [Text(f"! {note}", "yellow") for note in request_notes(screen)]
            lines = self._table(REQUEST_COLUMNS, ranked, cause_of, "request", width, max(2, height - len(notes))) + notes
        elif self.tab == 2:
            lines = thread_lines(sched)
        elif groups is None:
            lines = [Text("d reads all goroutines")]
        else:
            self.cursor = min(self.cursor, max(0, len(groups) - height))
            lines = [Text(f"{group.count:7,}  {group.title}") for group in groups[self.cursor :]]
        return [_cut(line, width) for line in lines[:height]]

    def _table(
        self, columns: Sequence[Column[Any]], rows: Sequence[Any], title: Any, last: str, width: int, height: int
    ) -> list[Text]:
        marked = columns[self.sort[self.tab]]
        shown = [column._replace(heading=f"{column.heading}*", rank=0) if column is marked else column for column in columns]
        kept = fitting(shown, width - _LEAST_TITLE - 2)
        room = max(_LEAST_TITLE, width - width_of(kept) - 2)
        self.cursor = min(self.cursor, max(0, len(rows) - 1))
        first = max(0, self.cursor - max(1, height - 1) + 1)
        lines = [Text(f"{heading(kept)}  {last}", "bold")]
        for number, row in enumerate(rows[first : first + height - 1], first):
            mark = ">" if number == self.cursor else " "
            lines.append(Text(f"{cells(kept, row)} {mark}{title(row, room)}", "reverse" if number == self.cursor else ""))
        return lines if rows else [*lines, Text("nothing here")]


def _scheduler(sched: Snapshot | None, states: dict[str, int]) -> Text:
    total = sum(states.values())
    parts = [f"{state} {100 * ns / total:.0f}%" for state, ns in list(states.items())[:2] if total]
    if sched is not None:
        quota = f"/{sched.cpu_quota:.3g}" if sched.cpu_quota is not None else ""
        known = {
            "G": sched.goroutines.total, "ready": sched.goroutines.runnable, "P": f"{sched.gomaxprocs}{quota}", "idle": sched.idle_procs,
            "throttled": short(sched.throttled_ns) if sched.throttled_ns is not None else None,
            "GC": f"{sched.gc.cycles}{'*' if sched.gc.running else ''}",
        }
        parts += [f"{name} {value}" for name, value in known.items() if value is not None]
    return Text("  ".join(parts))


def stack_lines(stacks: Sequence[StackStat]) -> list[Text]:
    """The stacks of a place with their wakers, and a histogram of their waits."""
    lines: list[Text] = []
    counts: Counter[int] = Counter()
    for stack in stacks:
        counts.update({bucket: count for bucket, count in stack.distribution.histogram.items() if count > 0})
        d = stack.distribution
        lines.append(Text(sanitize(f"{stack.state.value}: {stack.reason}  {d.count:,} waits, {format_duration(d.total_ns)}"), "bold"))
        for frame in folded_frames(stack.frames):
            where = f"  {frame.file.rpartition('/')[2]}:{frame.line}" if frame.line else ""
            lines.append(Text(sanitize(f"  {frame.kind.value:7} {plain_name(frame.name)}{where}")))
    return histogram_lines(counts) + lines if lines else [Text("nothing is known of it yet")]


def histogram_lines(counts: Counter[int]) -> list[Text]:
    """How many waits took how long, a line for each power of two."""
    powers: Counter[int] = Counter()
    for bucket, count in counts.items():
        powers[max(1, bucket_range(bucket)[0]).bit_length() - 1] += count
    if not powers:
        return []
    lowest, highest = min(powers), max(powers)
    lowest = max(lowest, highest - _HISTOGRAM_ROWS + 1)
    most = max(powers.values())
    return [
        Text(f"{short(1 << power):>8} {'#' * -(-_BAR * powers[power] // most):{_BAR}} {powers[power]:,}")
        for power in range(lowest, highest + 1)
    ]


def thread_lines(sched: Snapshot | None) -> list[Text]:
    """The threads by what they do."""
    if sched is None:
        return [Text("the scheduler can't be read")]
    named = [
        ("run Go code", sched.running_threads), ("search for work", sched.spinning_threads), ("wait for work", sched.idle_threads),
        ("in C code", sched.cgo_threads), *((f"in {name}", count) for name, count in (sched.syscall_threads or {}).items()),
    ]
    lines = [Text(f"{'threads':>7}  of {'?' if sched.threads is None else sched.threads}", "bold")]
    return lines + [Text(f"{'?' if count is None else count:>7}  {sanitize(what)}") for what, count in named]


def _cut(line: Text, width: int) -> Text:
    plain = sanitize(line.plain, 4 * max(1, width))
    return Text(plain if len(plain) <= width else plain[: max(1, width - 1)] + "…", line.style)
