"""The figures of one process by symbolized stack: the rows of the kernel's tables, summed up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

from gotrace.common.vocabulary import Part, StartKind, State
from gotrace.kernel.records import NO_STACK, IntervalRow, LabelValues, RowKey
from gotrace.kernel.rows import member_hash
from gotrace.model.stacks import StackModel
from gotrace.profile.symbolize import Symbolizer
from gotrace.profile.types import Distribution, Labels, StackKey, StackStat
from gotrace.profile.waited import ObjectNames

_CONFIDENCE = 1.96
_OF_THREADS = frozenset((StartKind.SYSCALL, StartKind.FAULT, StartKind.CPU, StartKind.THROTTLED, StartKind.STOPPED))

_Place: TypeAlias = tuple[int, int, int, int, int, int]
"""The part of a row's key that tells where a goroutine stopped, and for what, if that is told apart."""


@dataclass(slots=True)
class _Sampled:
    """What samples found at a stack: estimates, by stretch of time without probes, and the goids that were there."""

    estimates: dict[int, StackStat] = field(default_factory=dict)
    goids: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Stack:
    stat: StackStat
    rows: dict[tuple[object, ...], IntervalRow] = field(default_factory=dict)
    sampled: _Sampled | None = None


class Tally:
    """Takes rows as often as they change, and keeps one StackStat for all rows of the same symbolized stack.

    `inferred` and `sampled` may be set at any time: from then on the starts of intervals are inferred (mode lean), or short
    intervals are sampled.
    """

    def __init__(
        self, pid: int, model: StackModel, symbolizer: Symbolizer, inferred: bool, sampled: bool, objects: ObjectNames | None = None,
        label_keys: tuple[str, ...] = (),
    ) -> None:
        self.sampled = sampled
        self._pid = pid
        self._label_keys = label_keys
        self._model = model
        self._symbolizer = symbolizer
        self._objects = objects
        self.inferred = inferred
        self._stacks: dict[StackKey, _Stack] = {}
        self._final: list[StackStat] = []
        self._of_row: dict[RowKey, _Stack] = {}
        self._incomplete: set[RowKey] = set()
        self._passing: dict[RowKey, StackStat] = {}

    def incomplete(self, threads: bool = False) -> int:
        """How many intervals have a stack that does not end at a root. Counts goroutines that left their CPU by Go's own doing, or with
        `threads` those whose thread was stopped, possibly between any two instructions."""
        found = (key for key in self._incomplete if key in self._of_row and (key.kind in _OF_THREADS) == threads)
        return sum(self._of_row[key].rows[key].count for key in found)

    def without_object(self, kind: str) -> int:
        """How many intervals that began and ended in the window waited for an object of kind ``unknown`` or ``other``."""
        if self._objects is None:
            return 0
        found = (stat for stat in self.stacks() if stat.waited is not None and stat.waited.kind == kind)
        return sum(max(0, stat.distribution.count - stat.in_progress) for stat in found)

    @property
    def unknown(self) -> int:
        """How many program counters had no function."""
        return self._symbolizer.unknown

    def stacks(self) -> list[StackStat]:
        """Returns all stacks."""
        return self._final or [stack.stat for stack in self._stacks.values()]

    def close(self) -> None:
        """Makes the stacks final: takes no more rows, and frees those it has, which take more memory than the stacks."""
        self._final = self.stacks()
        self._stacks.clear()
        self._of_row.clear()
        self._passing.clear()

    def key_of(self, row: RowKey) -> StackKey | None:
        """Returns the key of the stack to which a row belongs; None if the row has not been taken yet."""
        stack = self._of_row.get(row)
        return None if stack is None else stack.stat.key

    def stack_of(self, row: RowKey) -> StackStat | None:
        """The stack to which a row belongs; None if it was not taken yet."""
        stack = self._of_row.get(row)
        return None if stack is None else stack.stat

    def rows_from(self, number: int) -> list[RowKey]:
        """The rows that were taken, in their order, but for the first so many."""
        return list(islice(self._of_row, number, None)) if len(self._of_row) > number else []

    def why(self, row: RowKey) -> tuple[State, str]:
        """State and reason of a row whose stack is not known."""
        stack = self._model.interpret(IntervalRow(row, NO_STACK))
        return stack.state, stack.reason

    def take(self, rows: list[IntervalRow]) -> list[StackStat]:
        """Takes rows as they are now; each replaces its earlier version. Returns the stacks that changed."""
        touched: dict[int, _Stack] = {}
        for row in rows:
            stack = self._of_row.get(row.key)
            if stack is None:
                stat = self._stat(row)
                stack = self._of_row[row.key] = self._stacks.setdefault(stat.key, _Stack(stat))
            stack.rows[row.key] = row
            touched[id(stack)] = stack
        for stack in touched.values():
            self._sum_up(stack)
        return [stack.stat for stack in touched.values()]

    def passing(self, rows: list[IntervalRow]) -> tuple[list[StackStat], list[tuple[StackStat, StackStat]]]:
        """Takes rows of what is in progress, which are not kept. Returns those that stand alone as stacks of their own; where a row
        prolongs an interval that a stack has counted, returns that stack, and the stack with the row."""
        known, self._passing = self._passing, {}
        found: dict[StackKey, _Stack] = {}
        for row in rows:
            taken = self._of_row.get(row.key)
            stat = self._passing[row.key] = taken.stat if taken else known.get(row.key) or self._stat(row)
            if stat.key not in found:
                own = StackStat(
                    stat.frames, stat.state, stat.reason, Distribution(), goid=stat.goid, pid=stat.pid, waited=stat.waited,
                    labels=stat.labels,
                )
                found[stat.key] = _Stack(own)
            found[stat.key].rows[row.key] = row
        grown = []
        for key, stack in list(found.items()):
            base = self._stacks.get(key) if any(min(row.histogram.values(), default=0) < 0 for row in stack.rows.values()) else None
            if base is not None:
                # Not by its own key: a row that an earlier window cut off has the same one.
                stack.rows = {**base.rows, **{("in progress", row): each for row, each in stack.rows.items()}}
                stack.sampled, stack.stat.subwindows = base.sampled, base.stat.subwindows
                grown.append((base.stat, found.pop(key).stat))
            self._sum_up(stack)
            if base is None:
                _make_whole(stack.stat.distribution)
        return [stack.stat for stack in found.values()], grown

    def take_samples(self, stretch: int, found: Iterable[tuple[StackStat, Iterable[int]]]) -> list[StackStat]:
        """Takes what samples found in one stretch of time without probes: estimates, which replace earlier ones of that stretch, and the
        goids that were there. Returns the stacks concerned."""
        changed = []
        for estimate, goids in found:
            waited = self._objects.of_sample(estimate.state, estimate.reason, estimate.frames) if self._objects is not None else None
            stack = self._stacks.get(estimate.key) if waited is None else None
            if stack is None:
                stat = StackStat(
                    estimate.frames, estimate.state, estimate.reason, Distribution(), goid=estimate.goid, pid=estimate.pid,
                    labels=estimate.labels, waited=waited,
                )
                stack = self._stacks.setdefault(stat.key, _Stack(stat))
            if stack.sampled is None:
                stack.sampled = _Sampled()
            stack.sampled.estimates[stretch] = estimate
            stack.sampled.goids.update(goids)
            self._sum_up(stack)
            changed.append(stack.stat)
        return changed

    def _stat(self, row: IntervalRow) -> StackStat:
        stack = self._model.interpret(row)
        if stack.incomplete and row.part is Part.MAIN:
            self._incomplete.add(row.key)
        frames = self._symbolizer.frames(stack, row)
        waited = self._objects.of(row, stack.state, stack.reason, frames) if self._objects is not None else None
        return StackStat(
            frames, stack.state, stack.reason, Distribution(), goid=row.key.goid or None, pid=self._pid, waited=waited,
            labels=named(self._label_keys, row.labels),
        )

    def _sum_up(self, stack: _Stack) -> None:
        stat, estimates = stack.stat, stack.sampled.estimates.values() if stack.sampled else ()
        if len(stack.rows) == 1 and not estimates:
            # Most of tens of thousands of stacks have one row, and share its histogram.
            _take_figures(stat, next(iter(stack.rows.values())), self.inferred or self.sampled)
            return
        late = variance = 0
        stat.in_progress = stat.stopped_ns = stat.halted_ns = stat.late_ns = stat.long_runs = stat.long_run_max_ns = 0
        distributions = [Distribution(row.count, row.total_ns, row.max_ns, row.squares, row.histogram) for row in stack.rows.values()]
        stat.distribution = _sum([*distributions, *(estimate.distribution for estimate in estimates)])
        for row in stack.rows.values():
            late += row.margin_ns
            variance += row.variance
            stat.in_progress += row.in_progress
            stat.stopped_ns += row.stopped_ns
            stat.halted_ns += row.halted_ns
            stat.late_ns += row.late_ns
            stat.long_runs += row.long_runs
            stat.long_run_max_ns = max(stat.long_run_max_ns, row.long_run_max_ns)
        for estimate in estimates:
            stat.in_progress += estimate.in_progress
            late += estimate.margin_ns or 0
        estimated = self.inferred or self.sampled or estimates
        stat.margin_ns = late + round(_CONFIDENCE * 256 * math.sqrt(variance)) if estimated else None

    def count_goroutines(self, members: Iterable[tuple[int, int]], in_progress: dict[RowKey, set[int]]) -> int:
        """Counts each goroutine once per stack, no matter how it was recorded and who woke it; returns how many there
        were in total. `members` are those that the kernel side counted (`Tables.read_members`), `in_progress` the goids of rows that were
        added from memory."""
        objects = self._objects is not None
        by_member: dict[tuple[int, int], set[_Place]] = {}  # with the goroutine, 0 where goroutines are not kept apart
        goids: dict[_Place, set[int]] = {}
        for row in self._of_row:
            place = _place(row, objects)
            # Not copied if it is the only one: it may have a million goids.
            found = in_progress.get(row, set())
            goids[place] = goids[place] | found if goids.get(place) else found
            if row.stack >= 0:
                by_member.setdefault((member_hash(row, objects), row.goid), set()).add(place)
        for member, goid in members:
            for place in (*by_member.get((member, 0), ()), *by_member.get((member, goid), ())):
                goids[place].add(goid)
        there = _whatever_for(goids) if objects else goids
        counted: dict[int, set[int]] = {}
        counted_there: dict[int, set[int]] = {}
        for row, stack in self._of_row.items():
            _count_in(counted, id(stack), goids[_place(row, objects)] if _has_own(row) else there[_place(row, False)])
            if objects:
                _count_in(counted_there, id(stack), there[_place(row, False)])
        for stack in self._stacks.values():
            of_rows = counted.get(id(stack), set())
            stack.stat.goroutines = len(of_rows | stack.sampled.goids if stack.sampled else of_rows)
            stack.stat.goroutines_there = len(counted_there.get(id(stack), ()))
        return len(set().union(*counted.values(), *(stack.sampled.goids for stack in self._stacks.values() if stack.sampled)))


def _take_figures(stat: StackStat, row: IntervalRow, estimated: bool) -> None:
    stat.distribution = Distribution(row.count, row.total_ns, row.max_ns, row.squares, row.histogram)
    stat.in_progress, stat.stopped_ns, stat.halted_ns, stat.late_ns = row.in_progress, row.stopped_ns, row.halted_ns, row.late_ns
    stat.long_runs, stat.long_run_max_ns = row.long_runs, row.long_run_max_ns
    stat.margin_ns = row.margin_ns + round(_CONFIDENCE * 256 * math.sqrt(row.variance)) if estimated else None


def _sum(distributions: Iterable[Distribution]) -> Distribution:
    result = Distribution()
    for each in distributions:
        result.add(each)
    return result


def _make_whole(distribution: Distribution) -> None:
    """Turns what prolongs a wait whose beginning has not been read into a wait of its own."""
    distribution.histogram = {bucket: count for bucket, count in distribution.histogram.items() if count > 0}
    distribution.count = sum(distribution.histogram.values())
    distribution.squares = max(0, distribution.squares)


def _place(key: RowKey, objects: bool) -> _Place:
    return key.stack, key.reason, key.kind, key.goid, key.labels, key.object if objects else 0


def _has_own(key: RowKey) -> bool:
    """Whether goroutines are counted for its object: later parts of an interval have none."""
    return bool(key.object) or not key.part


def _whatever_for(goids: dict[_Place, set[int]]) -> dict[_Place, set[int]]:
    """The same without objects."""
    found: dict[_Place, set[int]] = {}
    for place, of_place in goids.items():
        whole = (*place[:5], 0)
        found[whole] = found[whole] | of_place if found.get(whole) else of_place
    return found


def _count_in(counted: dict[int, set[int]], stack: int, goids: set[int]) -> None:
    known = counted.get(stack)
    counted[stack] = goids if known is None or known is goids else known | goids


def named(keys: tuple[str, ...], values: LabelValues) -> Labels:
    """The labels that a goroutine has, of those with these keys."""
    return tuple((key, value) for key, value in zip(keys, values, strict=False) if value is not None)
