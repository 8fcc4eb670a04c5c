"""The places at which samples find goroutines: symbolized stacks with state and reason, each made once."""

from __future__ import annotations

from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.records import LabelValues, RawStack
from gotrace.live.gstruct import Head
from gotrace.live.scan import waits_for_first_turn
from gotrace.model.snapshots import interpret
from gotrace.model.stacks import StackModel
from gotrace.proc.descriptors import Descriptors
from gotrace.profile.estimate import Estimator, Place
from gotrace.profile.symbolize import Symbolizer
from gotrace.profile.types import Distribution, StackStat
from gotrace.watch.inprogress.blocked import Asleep
from gotrace.watch.tally import named
from gotrace.watch.target import OpenTarget


class Places:
    """The places of one process, which `estimator` sums up. `per_goroutine`: each goroutine has its own."""

    def __init__(
        self, target: OpenTarget, symbols: KernelSymbols, estimator: Estimator, per_goroutine: bool, label_keys: tuple[str, ...] = (),
        fold_ports: bool = False,
    ) -> None:
        self._pid = target.process.pid
        self._model = StackModel(target.binary, target.bias, symbols)
        self._symbolizer = Symbolizer(self._model, symbols, Descriptors(self._pid), fold_ports)
        self._estimator = estimator
        self.per_goroutine = per_goroutine
        self._label_keys = label_keys
        self._places: dict[tuple[object, ...], Place] = {}

    @property
    def unknown(self) -> int:
        """How many program counters had no function."""
        return self._symbolizer.unknown

    def place(
        self, head: Head, pcs: tuple[int, ...] | None, call: Asleep | None, kernel: tuple[int, ...], own: RawStack | None = None,
        labels: LabelValues = (),
    ) -> Place:
        """Returns the goroutine's place. `pcs` is its stack, None if it could not be read; `call` is what its thread sleeps in, and
        `kernel` where in the kernel; `own` is the stack by the thread's registers, where Go takes the goroutine for running;
        `labels` are its wanted labels."""
        goid = head.goid if self.per_goroutine else 0
        asleep_in = call and (call.kind, call.number, kernel)
        key = (own or pcs or head.pc, head.status, head.reason, asleep_in, waits_for_first_turn(head), goid, labels)
        known = self._places.get(key)
        if known is None:
            known = self._places[key] = self._new(head, pcs, call, goid, kernel, own, labels)
        return known

    def _new(
        self, head: Head, pcs: tuple[int, ...] | None, call: Asleep | None, goid: int, kernel: tuple[int, ...], own: RawStack | None,
        labels: LabelValues,
    ) -> Place:
        if call is None:
            row, found = interpret(self._model, head, pcs, 0, goid)
        else:
            row, found = interpret(self._model, head, pcs, call.number, goid, kind=call.kind, kernel=kernel, own=own)
        frames = self._symbolizer.frames(found, row)
        stat = StackStat(
            frames, found.state, found.reason, Distribution(), goid=goid or None, pid=self._pid, labels=named(self._label_keys, labels),
        )
        return self._estimator.place(stat, unread=own.unreadable if own is not None else pcs is None, incomplete=found.incomplete)
