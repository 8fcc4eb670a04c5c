"""What a request waited for in the end: its critical path, followed backwards from its end through those who ended its waits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from gotrace.common.vocabulary import Part, StartKind
from gotrace.kernel.history import PartRecord
from gotrace.kernel.records import WorldPause
from gotrace.watch.requests.timelines import Timelines

_MOST_STEPS = 4096
_READY_KINDS = frozenset((StartKind.GOSCHED, StartKind.YIELD, StartKind.PREEMPT_PARK, StartKind.EXIT_SYSCALL, StartKind.CREATED))
_DEEPEST = 24
"""A wait for one that waits for one, and so on."""


class How(IntEnum):
    """What a goroutine did in a step."""

    WAITED = 0
    """It was off its CPU, in the step's row."""
    RAN_UNTIL_WAIT = 1
    """It ran, until it left its CPU as the step's row says."""
    RAN_UNTIL_WAKE = 2
    """It ran, until it ended the wait of the step's row: it is the waker there."""
    RAN_TO_THE_END = 3
    """It ran, until the request ended."""
    UNKNOWN = 4
    """Nothing is known of that time, or it would lead in a circle."""
    STOPPED = 5
    """It was ready to run, and the world was stopped: the step's row is the number of the reason."""


class Step(NamedTuple):
    """A stretch of a request's time. `row` is the `rows.row_hash` of what `how` says; `via` that of the wait of the request's own goroutine
    inside which it lies, 0 if that goroutine itself did it."""

    goid: int
    start_ns: int
    duration_ns: int
    how: How
    row: int
    via: int
    what: int = 0
    """As `PartRecord.what`, of a wait."""


def follow(timelines: Timelines, goid: int, start_ns: int, end_ns: int) -> list[Step]:
    """The path of a request of goroutine `goid` from `start_ns` to `end_ns`: steps without gaps and overlaps, the latest first."""
    path = _Path(timelines, goid)
    path.follow(goid, start_ns, end_ns, How.RAN_TO_THE_END, 0, 0, (goid,))
    return path.steps


def with_stops(steps: list[Step], stops: Sequence[WorldPause]) -> list[Step]:
    """The same path, in which stretches of waits for a P, while the world was stopped, say so. `stops` are in the order of time."""
    if not stops:
        return steps
    result: list[Step] = []
    for step in steps:
        if step.how is How.WAITED and _is_ready(step.what):
            result += _divided(step, stops)
        else:
            result.append(step)
    return result


def _is_ready(what: int) -> bool:
    """Whether a part is one in which the goroutine could have run."""
    return what >> 18 == Part.RUNNABLE or (what >> 18 == Part.MAIN and what >> 2 & 0xFF in _READY_KINDS)


def _divided(step: Step, stops: Sequence[WorldPause]) -> list[Step]:
    """The pieces of a step, the latest first."""
    pieces: list[Step] = []
    end = step.start_ns + step.duration_ns
    for stop in reversed(stops[: bisect_left(stops, end, key=lambda stop: stop.start_ns)]):
        low, high = max(stop.start_ns, step.start_ns), min(stop.start_ns + stop.duration_ns, end)
        if high <= step.start_ns:
            break
        if high > low:
            if end > high:
                pieces.append(step._replace(start_ns=high, duration_ns=end - high))
            pieces.append(step._replace(start_ns=low, duration_ns=high - low, how=How.STOPPED, row=stop.reason))
            end = low
    if end > step.start_ns:
        pieces.append(step._replace(duration_ns=end - step.start_ns))
    return pieces


class _Path:
    def __init__(self, timelines: Timelines, goid: int) -> None:
        self.steps: list[Step] = []
        self._timelines = timelines
        self._own = goid

    def _add(self, goid: int, start_ns: int, end_ns: int, how: How, row: int, via: int, what: int = 0) -> None:
        if end_ns <= start_ns:
            return
        known = self._timelines.since_ns
        if start_ns < known and how is not How.WAITED:
            # That it ran is known only by there being nothing else.
            if end_ns > known:
                self.steps.append(Step(goid, known, end_ns - known, how, row, via, what))
            end_ns, how, row, what = min(known, end_ns), How.UNKNOWN, 0, 0
        self.steps.append(Step(goid, start_ns, end_ns - start_ns, how, row, via, what))

    def follow(self, goid: int, start_ns: int, end_ns: int, ran: How, ran_row: int, via: int, chain: tuple[int, ...]) -> None:
        """What `goid` did in that time. Where it runs at the end of it, it ran until what `ran` and `ran_row` say."""
        parts = self._timelines.of(goid, start_ns)
        index = bisect_left(parts, (end_ns,)) - 1
        at = end_ns
        while index >= 0 and at > start_ns:
            part = parts[index]
            if part.start_ns + part.duration_ns < start_ns:
                break
            if len(self.steps) > _MOST_STEPS:
                self._add(goid, start_ns, at, How.UNKNOWN, 0, via)
                return
            begin, end = max(part.start_ns, start_ns), min(part.start_ns + part.duration_ns, at)
            self._add(goid, end, at, ran, ran_row, via)
            if self._is_new(part):
                # It waits for its first turn, not for its creator; what came before that is its creator's.
                self._add(goid, begin, end, How.WAITED, part.row, via, part.what)
                if begin == part.start_ns:
                    self._enter(part, start_ns, begin, via, chain)
                    return
            elif part.waker_goid and part.waker_goid != goid and end > begin:
                self._enter(part, begin, end, via or part.row, chain)
            else:
                self._add(goid, begin, end, How.WAITED, part.row, via, part.what)
            at, ran, ran_row = begin, How.RAN_UNTIL_WAIT, part.row
            index -= 1
        self._add(goid, start_ns, at, ran, ran_row, via)

    def _is_new(self, part: PartRecord) -> bool:
        return part.kind == StartKind.CREATED and not part.part

    def _enter(self, part: PartRecord, start_ns: int, end_ns: int, via: int, chain: tuple[int, ...]) -> None:
        """The waker of a part, or the creator of its goroutine, in that time."""
        goid = part.waker_goid
        if not goid or goid in chain or len(chain) >= _DEEPEST:
            own = part.start_ns < end_ns
            self._add(part.goid, start_ns, end_ns, How.WAITED if own else How.UNKNOWN, part.row if own else 0, via, part.what if own else 0)
            return
        self.follow(goid, start_ns, end_ns, How.RAN_UNTIL_WAKE, part.row, via, (*chain, goid))
