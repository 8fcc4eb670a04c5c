"""The stretches of a trace by probes in which none is placed: how long they are, and samples of the process's memory meanwhile."""

from __future__ import annotations

import time

from gotrace.common.vocabulary import Loss
from gotrace.kernel.tablewriter import TableWriter
from gotrace.proc.priority import SamplePriority
from gotrace.profile.types import StackStat
from gotrace.watch.protocol import Waits
from gotrace.watch.rows import Rows
from gotrace.watch.sampled import SampledProcess, SampleOptions
from gotrace.watch.target import OpenTarget
from gotrace.watch.window import Window

DETACHED = "no probe is placed now, to keep tracing below --max-overhead"


class DetachedWindows:
    """The detached windows of one trace, between those of `window`. `samples` counts those of its memory that were taken in them; what is
    lost of these is added to `losses`, the process's, and to those of `writer`."""

    def __init__(self, target: OpenTarget, window: Window, rows: Rows, writer: TableWriter, losses: dict[Loss, int]) -> None:
        self.samples = 0
        self._target = target
        self._window = window
        self._rows = rows
        self._writer = writer
        self._losses = losses
        self._paused_ns = self._looked_ns = 0
        self._sampled: SampledProcess | None = None
        self._stretches = 0

    # -- where they stand ----------------------------------------------------------------------------------------------

    @property
    def paused_ns(self) -> int:
        """How long the trace has been paused in total, without samples."""
        if self._sampled is not None:
            return self._paused_ns
        now, since = self._window.end_ns or time.monotonic_ns(), self._window.detached_since
        return self._paused_ns + (max(0, now - since) if since else 0)

    @property
    def looked_ns(self) -> int:
        """How long its memory was sampled during pauses."""
        sampled = self._sampled
        return self._looked_ns + (max(0, time.monotonic_ns() - sampled.start_ns) if sampled is not None else 0)

    @property
    def sampling(self) -> bool:
        """Whether its memory is being sampled."""
        return self._sampled is not None

    @property
    def priority(self) -> SamplePriority | None:
        """The priority of those samples; None if none are taken now."""
        return None if self._sampled is None else self._sampled.priority

    def stacks(self) -> list[StackStat]:
        """Returns the stacks that these samples have changed since the last call."""
        if self._sampled is None:
            return []
        return self._rows.tally.take_samples(self._stretches, ((estimate, set()) for estimate in self._sampled.read()[0]))

    def waits(self) -> Waits:
        """What is known in a pause of the waits that are in progress. The stacks already have what was in progress as the window ended."""
        return Waits(unseen=DETACHED) if self._sampled is None else self._sampled.ongoing()

    # -- what happens --------------------------------------------------------------------------------------------------

    def over(self, since_ns: int, opened_ns: int) -> None:
        """A pause that had lasted since then without samples was over as the next window opened."""
        self._paused_ns += opened_ns - since_ns

    def start_sampling(self, options: SampleOptions) -> None:
        """Samples the process's memory during a pause, until the pause is over or `stop_sampling` is called."""
        self._sampled = SampledProcess(self._target, options)
        self._stretches += 1
        self._sampled.attach()
        self._sampled.begin()
        self._paused_ns += self._sampled.start_ns - self._window.detached_since

    def tick(self, wait_s: float) -> float:
        """Takes a sample if one is due; returns the seconds until something is due, at most `wait_s`."""
        return wait_s if self._sampled is None else min(wait_s, self._sampled.tick())

    def end(self) -> None:
        """Ends the samples, if any: the process is gone."""
        if self._sampled is not None:
            self._sampled.end()

    def stop_sampling(self) -> None:
        """Stops the samples, if any; the pause goes on without them."""
        sampled, self._sampled = self._sampled, None
        if sampled is None:
            return
        sampled.finish()
        self._rows.put(self._rows.tally.take_samples(self._stretches, sampled.found()))
        self.samples += sampled.samples
        for loss in (Loss.STACK_TORN, Loss.STACK_INCOMPLETE):
            self._losses[loss] = self._losses.get(loss, 0) + sampled.losses[loss]
        self._writer.labels_left_out += sampled.losses.get(Loss.LABEL_VALUES_FULL, 0)
        self._writer.labels_unread += sampled.losses.get(Loss.LABELS_UNREAD, 0)
        self._rows.sampled_incomplete += sampled.losses[Loss.STACK_INCOMPLETE]
        self._looked_ns += sampled.end_ns - sampled.start_ns
        self._window.detached_since = sampled.end_ns
