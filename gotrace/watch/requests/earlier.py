"""Requests that began before the window: stacks tell them, and for those that end in it the probes on ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import NamedTuple

from gotrace.kernel.history import Completed
from gotrace.kernel.records import RawStack
from gotrace.watch.inprogress.cutoff import CutOff, Parked
from gotrace.watch.requests.serving import Serving
from gotrace.watch.requests.timelines import Timelines


class Served(NamedTuple):
    """A request by what serves it: the number of its function, and its goroutine. One goroutine serves one of a function at a time."""

    function: int
    goid: int


class EarlierRequests:
    """Of one process. `timelines` are its; `stack_of` gives the stack of a row by its hash."""

    def __init__(self, serving: Serving, timelines: Timelines, stack_of: Callable[[int], RawStack | None]) -> None:
        self._serving = serving
        self._timelines = timelines
        self._stack_of = stack_of
        self._known: set[Served] = set()
        self._opened_ns = 0
        self._ended: dict[Served, int] = {}

    def begin(self, opened_ns: int, parked: Iterable[Parked]) -> None:
        """A window opens, with these goroutines parked."""
        self._opened_ns = opened_ns
        self._known = {Served(function, found.goid) for found in parked for function in self._serving.functions(found.stack)}
        self._ended.clear()

    def take(self, ended: Iterable[Completed]) -> None:
        """Requests without a beginning that have ended. Of calls within each other the outermost ends last."""
        for each in ended:
            served = Served(each.function, each.goid)
            self._ended[served] = max(each.start_ns, self._ended.get(served, 0))

    def now(self, seen: Set[tuple[int, int]]) -> set[Served] | None:
        """Those that were found as the window opened and have not ended since; None if that is not known, as some of what has happened is
        lost, maybe ends. `seen`: function and goroutine of all requests that were seen to begin: before that, the goroutine had ended what
        it served."""
        if self._timelines.since_ns > self._opened_ns:
            return None
        return {served for served in self._known if served not in seen and served not in self._ended}

    def end(self, cut: CutOff, running: Iterable[int], seen: Set[tuple[int, int]]) -> set[Served]:
        """The window is over: returns those in progress at its end. `cut` has the goroutines that were off the CPU then, with their stacks
        as they were then; of those `running`, and of those whose waits lasted to the end, the last wait tells what they serve, unless that
        has ended since."""
        found: set[Served] = set()
        for part, key in cut.parts:
            found |= {Served(function, part.goid) for function in self._serving.functions(cut.rows[key].stack)}
        off_cpu = {part.goid for part, _ in cut.parts}
        for goid in {*running, *self._timelines.ending_at(cut.end_ns)} - off_cpu:
            parts = self._timelines.of(goid)
            stack = self._stack_of(parts[-1].row) if parts else None
            if stack is not None:
                last_ns = parts[-1].start_ns + parts[-1].duration_ns
                of_stack = (Served(function, goid) for function in self._serving.functions(stack))
                found |= {served for served in of_stack if max(self._ended.get(served, 0), self._timelines.since_ns) < last_ns}
        return found - seen
