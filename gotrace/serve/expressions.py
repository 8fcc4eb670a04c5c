"""The language of triggers: ``p99(state=runnable) > 50ms for 10s``.

    trigger   = condition {"and" condition} ["for" duration]
    condition = figure ["(" filter {"," filter} ")"] ["over" duration] (">" | ">=" | "<" | "<=") value | "deadlock"
    filter    = key ("=" word | "~" regular expression); with blanks, commas or parentheses between quotes
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from gotrace.common.errors import UsageError
from gotrace.common.vocabulary import State

LONGEST_NS = 60_000_000_000
"""How long `over` may be at most, and how much of the past is kept at least where triggers need it."""
OVER_NS = 10_000_000_000
_LONGEST_TEXT = 1000
_MOST_CONDITIONS = 8


class Unit(Enum):
    """What a figure is measured in."""

    DURATION = "duration"
    NUMBER = "number"
    PERCENT = "percent"


class Figure(NamedTuple):
    """What can be compared. `filters` are the keys that it takes; `over`: it is of a stretch of the past, of which the length can be
    chosen."""

    unit: Unit
    filters: tuple[str, ...]
    over: bool
    text: str


_WAITS = ("state", "reason", "place", "request")
FIGURES = {
    "max": Figure(Unit.DURATION, _WAITS, True, "the longest wait that ended or still lasts; with request: the longest that ended"),
    "p50": Figure(Unit.DURATION, _WAITS, True, "the median of the waits that ended, or of requests"),
    "p90": Figure(Unit.DURATION, _WAITS, True, "their 90th percentile"),
    "p99": Figure(Unit.DURATION, _WAITS, True, "their 99th percentile"),
    "p999": Figure(Unit.DURATION, _WAITS, True, "their 99.9th percentile"),
    "rate": Figure(Unit.NUMBER, _WAITS, True, "how many waits, or requests, ended in a second"),
    "stalled": Figure(Unit.DURATION, ("state", "reason", "place"), False, "the longest wait that still lasts, as far as it was traced"),
    "deadlock": Figure(Unit.NUMBER, (), False, "how many goroutines are in deadlocks that are certain; without a value: more than 0"),
    "goroutines": Figure(Unit.NUMBER, ("state",), False, "how many there are: all, or running, runnable, waiting or syscall"),
    "growing": Figure(Unit.DURATION, (), False, "for how long the number of goroutines has grown, minute by minute (the least of each)"),
    "throttled": Figure(Unit.PERCENT, (), True, "the share of the time in which the control group had no CPU quota left"),
    "stopped": Figure(Unit.DURATION, (), True, "the longest stop of the world"),
    "losses": Figure(Unit.NUMBER, (), True, "how often something was not recorded, of all kinds but goroutine_set_full"),
    "overhead": Figure(Unit.PERCENT, (), True, "what tracing costs, of the CPU time that the process uses for itself, or of one CPU"),
}
GOROUTINE_STATES = ("running", "runnable", "waiting", "syscall")
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}
_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000}
_TOKEN = re.compile(r"""\s*(?:(?P<quoted>"[^"]*"|'[^']*')|(?P<symbol>>=|<=|[()=~,<>])|(?P<word>[^\s()=~,<>"']+))""")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Filter:
    """``key=text``, or ``key~pattern``: the regular expression matches somewhere."""

    key: str
    text: str
    pattern: re.Pattern[str] | None = None

    def fits(self, value: str) -> bool:
        """Whether a value passes."""
        return self.pattern.search(value) is not None if self.pattern is not None else value == self.text


@dataclass(frozen=True)
class Condition:
    """A comparison. `value` is in ns, a number, or a fraction for percents. `text` is as it was written."""

    figure: str
    filters: tuple[Filter, ...]
    over_ns: int
    comparison: str
    value: float
    text: str

    @property
    def unit(self) -> Unit:
        """What the value is measured in."""
        return FIGURES[self.figure].unit

    def holds(self, value: float) -> bool:
        """Whether the figure, as it is now, fulfils it."""
        return OPERATORS[self.comparison](value, self.value)


@dataclass(frozen=True)
class Trigger:
    """Fires when all conditions have held for `for_ns`."""

    text: str
    conditions: tuple[Condition, ...]
    for_ns: int = 0


class _Token(NamedTuple):
    text: str
    at: int
    end: int
    quoted: bool = False


def parse(text: str) -> Trigger:
    """The trigger that `text` says.

    Raises:
        UsageError: it is none; the message has the column (from 1).
    """
    return _Parser(text).trigger()


def duration_ns(text: str) -> int | None:
    """``250us``, ``1.5s`` in ns; None if it is no duration."""
    match = _DURATION.fullmatch(text)
    return round(float(match[1]) * _UNITS[match[2]]) if match is not None else None


def rules() -> str:
    """What a trigger can say, as text."""
    lines = ["A trigger: FIGURE[(FILTER, ...)] [over DURATION] OPERATOR VALUE [and ...] [for DURATION]", "", "Figures:"]
    for name, figure in FIGURES.items():
        takes = f"({', '.join(figure.filters)})" if figure.filters else ""
        over = " (over)" if figure.over else ""
        lines.append(f"  {name + takes:<38} {figure.unit.value}: {figure.text}{over}")
    lines += [
        "", "Filters: KEY=TEXT is exactly that, KEY~REGEX matches somewhere; quotes where it has blanks, commas or parentheses.",
        f"  state    {', '.join(state.value for state in State)}; of goroutines: {', '.join(GOROUTINE_STATES)}",
        "  reason   Go's wait reason: reason='chan receive', reason~Mutex; or that of another state, as the summary of a trace has it",
        "  place    a function in the stack: place~'main\\.handle'",
        "  request  the function that serves it: request~ServeHTTP; the figure is then of requests, and other filters are not allowed",
        "  Waits for work or for a time, which are idle by design, count only where reason or place is given.",
        "  Deadlocks are searched for where a goroutine has waited for a lock for 2 s: at most every 10 s, with at most 1 % of a CPU.",
        "", f"Operators: {'  '.join(OPERATORS)}    Values: 250us 10ms 1.5s 2m, 1000, 20%",
        f"over: figures with (over) are of the last {OVER_NS // 1_000_000_000}s; over DURATION is another length, at most "
        f"{LONGEST_NS // 1_000_000_000}s. for: how long all conditions must hold before it fires.", "", "Examples:",
        *(f"  {example}" for example in EXAMPLES),
    ]
    return "\n".join(lines)


EXAMPLES = (
    "p99(state=runnable) > 50ms for 10s",
    "max(reason~Mutex) > 500ms",
    "p99(request~ServeHTTP) over 30s > 1s and rate(request~ServeHTTP) over 30s > 10",
    "goroutines > 100000",
    "growing > 15m",
    "goroutines(state=runnable) > 64 for 5s",
    "throttled > 20% for 10s",
    "stopped > 5ms",
    "stalled(place~'main\\.') > 30s",
    "deadlock",
    "losses > 0",
)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._next = 0
        if len(text) > _LONGEST_TEXT:
            raise UsageError(f"a trigger of {len(text)} characters: at most {_LONGEST_TEXT} are allowed", "gotrace serve --rules")
        self._tokens = self._split()

    def _split(self) -> list[_Token]:
        tokens, at = [], 0
        while at < len(self._text.rstrip()):
            match = _TOKEN.match(self._text, at)
            if match is None:
                raise self._fault(len(self._text[:at]) + len(self._text[at:]) - len(self._text[at:].lstrip()), "a quote that is not closed")
            kind = match.lastgroup or ""
            value = match[kind]
            quoted = kind == "quoted"
            tokens.append(_Token(value[1:-1] if quoted else value, match.start(kind), match.end(kind), quoted))
            at = match.end()
        return tokens

    def _fault(self, at: int, what: str, hint: str = "gotrace serve --rules") -> UsageError:
        return UsageError(f"trigger '{self._text}': column {at + 1}: {what}", hint)

    def _peek(self) -> _Token:
        return self._tokens[self._next] if self._next < len(self._tokens) else _Token("", len(self._text.rstrip()), len(self._text))

    def _take(self) -> _Token:
        token = self._peek()
        self._next += 1
        return token

    def _is(self, text: str) -> bool:
        token = self._peek()
        return token.text == text and not token.quoted

    def _said(self, token: _Token) -> str:
        return repr(token.text) if token.text or token.quoted else "the end"

    def trigger(self) -> Trigger:
        conditions = [self._condition()]
        while self._is("and"):
            if len(conditions) >= _MOST_CONDITIONS:
                raise self._fault(self._peek().at, f"more than {_MOST_CONDITIONS} conditions")
            self._take()
            conditions.append(self._condition())
        for_ns = 0
        if self._is("for"):
            self._take()
            for_ns = self._duration(self._take())
        if self._next < len(self._tokens):
            raise self._fault(self._peek().at, f"{self._said(self._peek())} where the trigger could end, or 'and' or 'for' stand")
        return Trigger(self._text.strip(), tuple(conditions), for_ns)

    def _condition(self) -> Condition:
        name = self._take()
        if name.quoted or name.text not in FIGURES:
            raise self._fault(name.at, f"{self._said(name)} is no figure", f"one of {' '.join(FIGURES)}; gotrace serve --rules")
        figure = FIGURES[name.text]
        filters = self._filters(name.text, figure) if self._is("(") else ()
        over_ns = OVER_NS
        if self._is("over"):
            at = self._take()
            if not figure.over:
                raise self._fault(at.at, f"{name.text} is of now: it takes no 'over'")
            length = self._take()
            over_ns = self._duration(length)
            if not 0 < over_ns <= LONGEST_NS:
                raise self._fault(length.at, f"{length.text} is not between 0 and {LONGEST_NS // 1_000_000_000}s")
        if name.text == "deadlock" and (self._is("and") or self._is("for") or self._next >= len(self._tokens)):
            return Condition(name.text, (), over_ns, ">", 0.0, name.text)
        comparison = self._take()
        if comparison.quoted or comparison.text not in OPERATORS:
            raise self._fault(comparison.at, f"{self._said(comparison)} where one of {' '.join(OPERATORS)} belongs")
        value = self._take()
        return Condition(
            name.text, filters, over_ns, comparison.text, self._value(value, figure.unit), self._text[name.at : value.end]
        )

    def _filters(self, name: str, figure: Figure) -> tuple[Filter, ...]:
        found: list[Filter] = []
        opening = self._take()
        while True:
            found.append(self._filter(name, figure, found))
            if self._is(","):
                self._take()
                continue
            if not self._is(")"):
                raise self._fault(self._peek().at, f"{self._said(self._peek())} where ',' or ')' belongs")
            self._take()
            break
        if any(one.key == "request" for one in found) and len(found) > 1:
            raise self._fault(opening.at, "request stands alone: the figure is then of requests, not of waits")
        return tuple(found)

    def _filter(self, name: str, figure: Figure, known: list[Filter]) -> Filter:
        key, sign, value = self._take(), self._take(), self._take()
        if key.quoted or key.text not in figure.filters:
            takes = f"{name} takes {', '.join(figure.filters)}" if figure.filters else f"{name} takes none"
            raise self._fault(key.at, f"{self._said(key)} is no filter here", f"{takes}; gotrace serve --rules")
        if any(one.key == key.text for one in known):
            raise self._fault(key.at, f"{key.text} is given twice")
        if sign.quoted or sign.text not in ("=", "~"):
            raise self._fault(sign.at, f"{self._said(sign)} where '=' or '~' belongs")
        if not value.quoted and (not value.text or _TOKEN_SYMBOL.fullmatch(value.text)):
            raise self._fault(value.at, f"{self._said(value)} where a text belongs")
        if sign.text == "=":
            states = GOROUTINE_STATES if name == "goroutines" else tuple(state.value for state in State)
            if key.text == "state" and value.text not in states:
                raise self._fault(value.at, f"no state is called {value.text!r}", f"one of {' '.join(states)}")
            return Filter(key.text, value.text)
        try:
            return Filter(key.text, value.text, re.compile(value.text))
        except re.error as error:
            raise self._fault(value.at, f"{value.text!r} is no regular expression: {error}") from None

    def _duration(self, token: _Token) -> int:
        found = duration_ns(token.text)
        if found is None or token.quoted:
            raise self._fault(token.at, f"{self._said(token)} is no duration (250us, 10ms, 1.5s, 2m)")
        return found

    def _value(self, token: _Token, unit: Unit) -> float:
        if unit is Unit.DURATION:
            return self._duration(token)
        digits = token.text.removesuffix("%") if unit is Unit.PERCENT else token.text
        if token.quoted or _NUMBER.fullmatch(digits) is None or unit is Unit.PERCENT and not token.text.endswith("%"):
            example = "a share (20%)" if unit is Unit.PERCENT else "a number (1000)"
            raise self._fault(token.at, f"{self._said(token)} where {example} belongs")
        return float(digits) / 100 if unit is Unit.PERCENT else float(digits)


_TOKEN_SYMBOL = re.compile(r">=|<=|[()=~,<>]")
