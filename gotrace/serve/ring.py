"""The last seconds of one process, bounded in time and in bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from gotrace.profile.types import StackStat
from gotrace.serve.steps import Step


class Ring:
    """Steps of the last `keep_ns`, of at most `keep_bytes` together; may be used by several threads. `dropped_ns`: how much was dropped
    before its time because there was no room for it, `dropped_waits`: how many stacks of single steps. `gone_ns`: up to when nothing is
    there any more."""

    def __init__(self, keep_ns: int, keep_bytes: int) -> None:
        self.keep_ns = keep_ns
        self.dropped_ns = self.dropped_waits = self.gone_ns = 0
        self._limit = keep_bytes
        self._bytes = 0
        self._steps: deque[Step] = deque()
        self._ongoing: tuple[int, Sequence[StackStat]] = (0, ())
        self._lock = threading.Lock()

    def add(self, step: Step, ongoing: Sequence[StackStat] = ()) -> None:
        """Adds the latest step, with the waits that are in progress at its end."""
        step.measure()
        with self._lock:
            self._shorten(step)
            self._steps.append(step)
            self._bytes += step.size
            self._ongoing = step.end_ns, ongoing
            while self._steps[0].end_ns < step.end_ns - self.keep_ns:
                self._forget_oldest()
            self._drop()

    def limit(self, keep_bytes: int) -> None:
        """Sets how many bytes there may be."""
        with self._lock:
            self._limit = keep_bytes
            self._drop()

    def _drop(self) -> None:
        while self._bytes > self._limit and len(self._steps) > 1:
            oldest = self._forget_oldest()
            self.dropped_ns += oldest.end_ns - oldest.begin_ns

    def _forget_oldest(self) -> Step:
        oldest = self._steps.popleft()
        self._bytes -= oldest.size
        self.gone_ns = oldest.end_ns
        return oldest

    def _shorten(self, step: Step) -> None:
        """Keeps the stacks with most time of a step that is too large by itself."""
        if step.size <= self._limit:
            return
        step.waits.sort(key=lambda wait: -wait.gained.total_ns)
        while step.size > self._limit and step.waits:
            half = len(step.waits) // 2
            self.dropped_waits += len(step.waits) - half
            del step.waits[half:]
            step.measure()

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return self._bytes

    @property
    def span(self) -> tuple[int, int]:
        """From when to when there is something; (0, 0) if it is empty."""
        with self._lock:
            return (self._steps[0].begin_ns, self._steps[-1].end_ns) if self._steps else (0, 0)

    def since(self, begin_ns: int) -> tuple[list[Step], int, Sequence[StackStat]]:
        """The steps that end after `begin_ns`, in their order, and the waits in progress at the end, with that moment."""
        with self._lock:
            return [step for step in self._steps if step.end_ns > begin_ns], *self._ongoing

    def latest(self) -> Step | None:
        """The last step."""
        with self._lock:
            return self._steps[-1] if self._steps else None
