"""From rows of the kernel's tables, and the single intervals that it streams, to symbolized stacks."""

from __future__ import annotations

import time
from collections.abc import Iterable

from gotrace.common.vocabulary import Loss
from gotrace.gobin.binary import GoBinary
from gotrace.kernel.records import IntervalRow, KernelEvent
from gotrace.kernel.tracer import Tracer
from gotrace.model.stacks import StackModel
from gotrace.profile.subwindows import SubWindows
from gotrace.profile.types import Pause, SingleInterval, StackKey, StackStat
from gotrace.watch.inprogress.cutoff import CutOff
from gotrace.watch.tally import Tally

_ROWS_AT_ONCE = 512


class Rows:
    """The rows of one process. `losses` are the process's; those that stacks reveal are kept up to date here. `sampled_incomplete`:
    intervals whose stacks were incomplete in samples of its memory."""

    def __init__(self, tracer: Tracer, model: StackModel, tally: Tally, losses: dict[Loss, int]) -> None:
        self.tally = tally
        self.sampled_incomplete = 0
        self.pauses: list[Pause] = []
        self._tracer = tracer
        self._model = model
        self._losses = losses
        self._subwindows = SubWindows()
        self._changed: list[StackStat] = []
        self._unplaced: list[KernelEvent] = []

    def take(self, rows: list[IntervalRow]) -> list[StackStat]:
        """Takes these rows; returns the stacks that they change."""
        changed = self.tally.take(rows)
        self._losses[Loss.UNKNOWN_FUNCTION] = self.tally.unknown
        self._losses[Loss.STACK_INCOMPLETE] = self.tally.incomplete() + self.sampled_incomplete
        self._tracer.tables.writer.put_frame_sizes(self._model.frame_sizes)
        return changed

    def keep(self, cut: CutOff) -> None:
        """Takes waits that a window's end has cut off; the next `read` returns their stacks."""
        self._changed += self.take(list(cut.rows.values()))

    def put(self, stacks: Iterable[StackStat]) -> None:
        """Has the next `read` return these as well."""
        self._changed += stacks

    def read(self, limit_ns: int, start_ns: int, end_ns: int, others: Iterable[StackStat]) -> tuple[list[StackStat], list[SingleInterval]]:
        """Returns the stacks whose figures changed since the last call, `others` among them, and the single intervals streamed since then.
        With `limit_ns` it stops soon after that time; the next calls return the rest. The window began at `start_ns` and ends at
        `end_ns`, 0 for now."""
        deadline = time.monotonic_ns() + limit_ns
        found = {id(stack): stack for stack in (*self._changed, *others)}
        self._changed = []
        while True:
            rows = self._tracer.tables.read_rows(_ROWS_AT_ONCE if limit_ns else 0)
            found |= {id(stack): stack for stack in self.take(rows)}
            if len(rows) < _ROWS_AT_ONCE or not limit_ns or time.monotonic_ns() > deadline:
                break
        changed = list(found.values())
        intervals, events = [], self._unplaced + self._tracer.read_events()
        self._unplaced = []
        held: set[int] = set()
        for event in events:
            key = self.tally.key_of(event.key)
            if key is not None and event.goid not in held:
                intervals.append(_interval(event, key, start_ns))
            elif limit_ns:
                # Its row has not been read yet. Intervals of one goroutine keep their order.
                held.add(event.goid)
                self._unplaced.append(event)
        self._subwindows.add(changed, (end_ns or time.monotonic_ns()) - start_ns)
        return changed, intervals

    def read_pauses(self, binary: GoBinary, pid: int, start_ns: int, end_ns: int) -> list[Pause]:
        """Returns the stop-the-world pauses that ended since the last call; with `end_ns` also one that still lasts."""
        found = self._tracer.tables.read_pauses(len(self.pauses))
        if found and not found[-1].duration_ns and not end_ns:
            found.pop()
        reasons = binary.stop_reasons
        new = [
            Pause(
                reasons[pause.reason] if 0 < pause.reason < len(reasons) else "stop the world",
                pause.start_ns - start_ns, pause.duration_ns or max(0, end_ns - pause.start_ns), pid,
            )
            for pause in found
        ]
        self.pauses += new
        return new


def _interval(event: KernelEvent, key: StackKey, start_ns: int) -> SingleInterval:
    start = max(0, event.start_ns - start_ns)
    return SingleInterval(event.goid, start, event.duration_ns, key, event.waker_goid, event.tid, event.may_go_on, event.goes_on)
