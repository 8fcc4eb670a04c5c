"""The window of a trace by probes: where it begins and ends, and what is known there of goroutines that no probe sees."""

from __future__ import annotations

import contextlib
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from gotrace.common.vocabulary import ONGOING, Loss
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.program import Options
from gotrace.kernel.tracer import Tracer
from gotrace.live.gstruct import Status
from gotrace.plan.probes import Plan, ProbeSet
from gotrace.profile.types import Missing
from gotrace.watch.inprogress.collect import InProgress
from gotrace.watch.inprogress.cutoff import CutOff, Follow, Parked
from gotrace.watch.inprogress.earlier import EarlierThreads
from gotrace.watch.inprogress.ongoing import Ongoing
from gotrace.watch.inprogress.parked import ParkedReader
from gotrace.watch.inprogress.waited import WaitedReader
from gotrace.watch.labels import WantedLabels
from gotrace.watch.protocol import Waits
from gotrace.watch.rows import Rows
from gotrace.watch.target import OpenTarget
from gotrace.watch.witness import Witness

_FIRST_SCAN = 20_000
_ON_CPU = frozenset((Status.RUNNING, Status.SYSCALL))
_MOST_RUNNING = 4096


@dataclass
class Remaining:
    """Goroutines that are off the CPU as a window ends: those that were read, the addresses of those to be read once the probes are gone,
    and whether the process is still there. `running`: the ids of those that Go takes for running or for being in a system call, if they
    were asked for."""

    parked: dict[int, Parked] = field(default_factory=dict)
    later: array[int] = field(default_factory=lambda: array("Q"))
    alive: bool = True
    running: tuple[int, ...] = ()


class Window:
    """The window of one process, from `start_ns` to `end_ns` (CLOCK_MONOTONIC ns; 0: not yet). Where the governor detaches probes it
    consists of shorter windows: `count` so far, the present one opened at `opened_ns`, and `detached_since` is not 0 between two of
    them. `losses` are the process's. `whole`: goroutines that no probe has seen in it have waited for all of it; if not (probe set ready),
    nothing is said of them."""

    def __init__(
        self, target: OpenTarget, plan: Plan, tracer: Tracer, symbols: KernelSymbols, options: Options, losses: dict[Loss, int]
    ) -> None:
        self.start_ns = self.end_ns = self.opened_ns = self.detached_since = 0
        self.count = 0
        self.creation_unseen = self.threads_unseen = False
        self.whole = plan.probe_set is not ProbeSet.READY
        labels = WantedLabels.of(target, options.label_keys)
        self.parked = ParkedReader(target.process.pid, target.binary, target.memory, target.reader, tracer.tables, labels)
        self.earlier = EarlierThreads(target, tracer, symbols, plan.has("syscall"), labels)
        self.witness: Witness | None = None
        self._target = target
        self._tracer = tracer
        self._losses = losses
        if options.objects is not None:
            self.parked.waited = WaitedReader(
                target.memory, target.binary, target.bias, target.reader, tracer.tables.writer, options.objects.reasons,
            )
        self._in_progress = InProgress(tracer.tables, self.parked, options, tracer.knows_files)
        self._ongoing = Ongoing(tracer.tables, self.parked, options, tracer.knows_files)
        self._first_seen: dict[int, Parked] = {}
        self._first_unread = True

    def open(self) -> None:
        """Opens it. Also reads the stacks of goroutines parked now: if the target ends, they can't be read any more."""
        noted = self.earlier.note()
        self.start_ns = self.opened_ns = self._tracer.begin(self.earlier.tgid)
        self.count = 1
        self.earlier.check(noted, self.opened_ns)
        reader = self._target.reader
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it may end at any time, which ends the trace
            self.witness = Witness(reader)
            if self.whole and reader.count() <= _FIRST_SCAN:
                self._first_seen = self.parked.read(reader.addresses())
                self._first_unread = False
                self.parked.note_before(self._first_seen)

    def open_again(self, length_ns: int) -> None:
        """Opens the next one, of `length_ns` (0: without end)."""
        self.opened_ns = self._tracer.begin(self.earlier.tgid, length_ns)
        self.detached_since = 0
        self.count += 1

    def close(self) -> None:
        """Closes it, unless it is closed already."""
        self.end_ns = self.end_ns or (time.monotonic_ns() if self.detached_since else self._tracer.drain())

    def forget(self) -> None:
        """Drops what was seen as the window began: it does not hold once the probes are gone."""
        self.creation_unseen = self.threads_unseen = True
        self._first_seen, self._first_unread = {}, True

    def cut_off_threads(self, now_ns: int) -> CutOff:
        """Returns waits of threads, up to now."""
        return self._in_progress.threads(self.opened_ns, now_ns)

    def cut_off(
        self, remaining: Remaining, end_ns: int, at_the_end: bool = False, followed: Follow | None = None,
    ) -> CutOff:
        """Returns waits that are in progress as the present window ends. If the process is gone `at_the_end`, uses those of its opening.
        `followed`: as in `CutOff`."""
        parked = remaining.parked if remaining.alive or not at_the_end else self._first_seen
        whole = self.whole and not self._losses.get(Loss.GOROUTINE_TABLE_FULL)
        cut = self._in_progress.everything(
            self.opened_ns, end_ns, parked, remaining.alive, remaining.later, self.creation_unseen, whole, followed
        )
        self._losses[Loss.PARKED_UNREAD] = self._in_progress.unread if self.whole else 0
        return cut

    @property
    def first_seen(self) -> Iterable[Parked]:
        """Goroutines that were parked as it opened, as far as they were read then."""
        return self._first_seen.values()

    def read_remaining(self, alive: bool, running: bool = False) -> Remaining:
        """Reads parked goroutines at the end, while the probes are in place, and which others are `running`. That may take seconds: those
        that a probe saw come first."""
        self.parked.ended = set()  # seen by `open`: those g may be in use again
        found, reader = Remaining(alive=alive), self._target.reader
        try:
            if alive and running:
                found.running = tuple(goroutine.goid for goroutine in islice(reader.in_states(_ON_CPU), _MOST_RUNNING))
            if alive and self.whole:
                addresses: Iterable[int] = reader.addresses()
                if reader.count() > _FIRST_SCAN:
                    # No sets of all addresses: a million numbers in one take 67 MB.
                    known = self._tracer.tables.read_open()[1]
                    found.later = array("Q", (g for g in addresses if g not in known))
                    addresses = [g for g in addresses if g in known]
                found.parked = self.parked.read(list(addresses))
                found.parked |= self.parked.read_elusive(found.parked)
        except (ProcessLookupError, PermissionError):
            found.alive = False
        return found

    def waits(self, rows: Rows) -> Waits:
        """Returns the waits that are in progress now."""
        pid = self._target.process.pid
        whole = not self._tracer.tables.losses().get(Loss.GOROUTINE_TABLE_FULL)
        try:
            found = self._ongoing.collect(self.opened_ns, self._first_seen, self.creation_unseen, whole)
        except (ProcessLookupError, PermissionError):
            why, lacks = "the process's memory could not be read", "waits of goroutines that are parked"
            return Waits(lacking=[Missing(ONGOING, why, lacks, pid)])
        lacking = []
        if not found.goroutines_read:
            lacking.append(("there are too many goroutines to read them at each commit", "waits of goroutines that were parked then"))
        elif found.left_out:
            lacking.append(("not all stacks could be read in time", f"the last waits of {found.left_out:,} of the goroutines"))
        if found.goroutines_read and (not whole or (self._first_unread and self._target.reader.count() > found.known)):
            why = "the table of goroutines is full" if not whole else "not all goroutines were read as the window began"
            lacking.append((why, "waits of goroutines that no probe has seen in it"))
        stacks, grown = rows.tally.passing(list(found.cut.rows.values()))
        rows.put(stack for stack, _with_waits in grown)  # the next `read` returns them without these waits
        return Waits(stacks, [stack for _without, stack in grown], [Missing(ONGOING, *each, pid) for each in lacking])
