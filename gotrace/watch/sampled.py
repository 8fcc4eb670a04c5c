"""One process whose goroutines are looked at many times a second, without a probe: `gotrace attach --mode sample`.

What totals, counts and lengths then mean is in `gotrace.profile.estimate`. Two stays of a goroutine at one place are told
apart by the runtime's own count of how often it left the CPU (g.trackingSeq). g.waitsince would not do: the collector sets
it, to the start of its cycle, and only in goroutines that wait then (runtime/mgcmark.go: markroot).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from gotrace.common.errors import GotraceError, TargetGone
from gotrace.common.vocabulary import Loss, Stat
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.records import RawStack
from gotrace.live.goroutines import EMPTY_STACK, OFF_CPU, Unwinder
from gotrace.live.gstruct import Head, Status
from gotrace.live.scan import Copy, Scanner, Snapshot, waits_for_first_turn
from gotrace.model.snapshots import interpret
from gotrace.model.stacks import StackModel
from gotrace.proc.descriptors import Descriptors
from gotrace.proc.priority import Promptness
from gotrace.profile.estimate import Estimator, Place
from gotrace.profile.subwindows import SubWindows
from gotrace.profile.symbolize import Symbolizer
from gotrace.profile.types import Distribution, Missing, Pause, SingleInterval, StackStat, Target
from gotrace.watch.backoff import Backoff
from gotrace.watch.protocol import Waits
from gotrace.watch.target import (
    OpenTarget,
    cpu_time_ns,
    forked_copy,
    is_possible,
    missing_fields,
    open_target,
    plugins_loaded,
)
from gotrace.watch.unfinished.blocked import (
    IN_SOME_CALL,
    Asleep,
    asleep,
    asleep_thread,
    is_halted,
    kernel_names,
    stack_of_thread,
    thread_numbers,
    threads_times,
)

DEFAULT_RATE_HZ = 20.0
_TRIES = 3
_NOTED_SHARE = 0.02
"""Of the time in which threads could run: what they wait for a CPU is told from there on."""
_AT_ONCE, _BYTES_AT_ONCE = 1024, 32 << 20
"""Goroutines, and bytes of their stacks, that are copied before they are walked."""
_MOST_CALLS = 64
"""Threads that are asked for their system call at one look; the rest are counted as in a call of unknown name."""
_JITTER = 0.25
_ASKED_NS = 80_000_000
"""So long it is believed that the process has not called exec since a look; longer than between two looks."""
BUSIEST, BUSIEST_AS_ASKED = 0.1, 0.5
"""Looks take at most so much of the time of one CPU, which the target may want: by default, and where a rate was asked for."""
_ON_CPU = frozenset((Status.RUNNING, Status.SYSCALL, Status.WAITING, Status.COPYSTACK))
"""States in which a goroutine that is not off the CPU is on it: also in C or in a system call that does not block, and
"waiting" while its own M runs something for it on the system stack."""


@dataclass(frozen=True)
class SampleOptions:
    """`rate_hz` looks a second, fewer where they would take more than `busiest` of the time of one CPU. `min_block_ns` and
    `stream_ns` are those of `Estimator`. `syscalls`: the kernel is asked for what threads do in it."""

    rate_hz: float = DEFAULT_RATE_HZ
    busiest: float = BUSIEST
    per_goroutine: bool = False
    only_goid: int = 0
    min_block_ns: int = 0
    stream_ns: int | None = None
    syscalls: bool = True


class SampledProcess:
    """A process that is opened and looked at. Has the shape of `gotrace.watch.probed.ProbedProcess`.

    `prepare` raises Refused, TargetGone or BadBinary (all GotraceError) if it can't be read.
    """

    def __init__(self, target: OpenTarget, options: SampleOptions) -> None:
        self.process, self.binary = target.process, target.binary
        self._target = target
        self._options = options
        self.promptness: Promptness | None = Promptness()
        self._scanner = Scanner(
            target.memory, target.reader, Unwinder(target.binary, target.bias), target.binary.layout, self.promptness,
        )
        self._kernel = KernelSymbols()
        self._model = StackModel(target.binary, target.bias, self._kernel)
        self._symbolizer = Symbolizer(self._model, self._kernel, Descriptors(target.process.pid))
        self._estimator = Estimator(options.min_block_ns, options.stream_ns)
        self._period_ns = round(1e9 / options.rate_hz)
        self._random = random.Random()
        self._places: dict[tuple, Place] = {}
        self._unread: set[int] = set()
        self._to_ask: set[int] = set()
        self._outside: set[int] = set()
        self._threads: dict[int, int] = {}
        self._subwindows = SubWindows()
        self._last_ns = self._next_ns = self._asked_ns = 0
        self._execed = False
        self._there: frozenset[int] | None = None
        self._handing_over = Backoff()
        self._cpu_start = self._cpu_ns = 0
        self._times: dict[int, tuple[int, int]] = {}
        self._open = self._closed = False
        self.start_ns = self.end_ns = 0
        self.samples = 0
        self.losses: dict[Loss, int] = {Loss.STACK_TORN: 0, Loss.STACK_INCOMPLETE: 0, Loss.LOOK_LATE: 0}
        self.running_ns: int | None = None
        self.goroutines = 0
        self.pauses: list[Pause] = []
        self.missing: list[Missing] = missing_fields(target.binary, target.process.pid)
        self.notes: list[str] = []
        self.failure: GotraceError | None = None

    @classmethod
    def prepare(cls, pid: int, options: SampleOptions) -> SampledProcess:
        """Opens the process, reads its binary and checks it against the live process."""
        target = open_target(pid, f"sudo gotrace attach {pid} --mode sample")
        try:
            sampled = cls(target, options)
            sampled.notes += filter(None, [forked_copy(target)])
            sampled.missing += plugins_loaded(target, probes=False)
            sampled._there = frozenset(thread_numbers(pid).values()) if sampled.notes else None
        except ProcessLookupError:
            target.close()
            raise TargetGone(f"process {pid} ended while it was being examined") from None
        except BaseException:
            target.close()
            raise
        return sampled

    def describe(self) -> Target:
        """What is known of the process, for the capture and the summary."""
        return self._target.describe()

    # -- the trace -----------------------------------------------------------------------------------------------------

    def ready(self) -> str:
        """What has been made ready, in words."""
        return f"the layout of {self._target.reader.count():,} goroutine structs verified"

    def attach(self) -> None:
        """Places nothing anywhere. Walks the stacks of all goroutines for the first time, before the window opens."""
        self._try_to_look()

    def begin(self) -> None:
        """Opens the window with a look."""
        self._cpu_start = cpu_time_ns(self.process.pid)
        self._times = threads_times(self.process.pid)
        self._try_to_look()
        self.start_ns = self._last_ns = self._last_ns or time.monotonic_ns()
        self._estimator.begin(self.start_ns)
        self._open = True
        if is_halted(self.process.pid, kernel_names(self.process.pid, self.process.pid)):
            self.notes.append("the process was stopped (by a signal, a debugger or a cgroup's freezer) as the window opened")
        self.losses[Loss.STACK_TORN] += len(self._unread)  # torn in the first look, and still waiting
        self.losses[Loss.STACK_INCOMPLETE] += sum(stay.place is not None and stay.place.incomplete for stay in self._estimator.stays.values())
        self._next_ns = self.start_ns
        self._plan(0)

    @property
    def paused_ns(self) -> int:
        """None: what happens between two looks is estimated."""
        return 0

    @property
    def execed(self) -> bool:
        """Whether the process has called exec, or ended: as the last look has seen, if that was not long ago."""
        if time.monotonic_ns() - self._asked_ns > _ASKED_NS:
            self._ask()
        return self._execed

    def _ask(self) -> None:
        self._asked_ns = time.monotonic_ns()
        self._execed = not self.process.same_program()

    def tick(self) -> float:
        """Looks if it is time; returns the seconds until the next look is due."""
        if time.monotonic_ns() >= self._next_ns:
            before, cpu = self._last_ns, time.thread_time_ns()
            if self._try_to_look():
                self._estimator.looked(self._last_ns - before)
                self.cpu_used_ns()
            self._plan(time.thread_time_ns() - cpu)
        return max(0.0, (self._next_ns - time.monotonic_ns()) / 1e9)

    def end(self) -> None:
        """The process is gone, or another program: this is the end of its window."""
        self.promptness.give_back()
        self.end_ns = self.end_ns or time.monotonic_ns()

    def read(self, limit_ns: int = 0) -> tuple[list[StackStat], list[SingleInterval]]:
        """Stacks whose figures changed since the last call, and single intervals where they are wanted; it takes no time worth
        a limit."""
        changed, single = self._estimator.take()
        self._subwindows.add(changed, (self.end_ns or time.monotonic_ns()) - self.start_ns)
        self.losses[Loss.UNKNOWN_FUNCTION] = self._symbolizer.unknown
        return changed, single

    def ongoing(self) -> Waits:
        """None: looks see waits in progress."""
        return Waits()

    def read_pauses(self) -> list[Pause]:
        """None: a stop of the world is not to be seen from looks."""
        return []

    def stacks(self) -> list[StackStat]:
        """All stacks as of now."""
        return self._estimator.stacks()

    def found(self) -> list[tuple[StackStat, set[int]]]:
        """The same, each with the goids of those that were there."""
        return self._estimator.found()

    def finish(self) -> tuple[list[StackStat], list[SingleInterval]]:
        """Closes the window with a look; returns what `read` returns, of all stacks."""
        self.promptness.give_back()
        if not self.end_ns:
            before, seen = self._last_ns, self._try_to_look()
            if seen:
                self._estimator.looked(self._last_ns - before)
            self.cpu_used_ns()
            self.end_ns = self._last_ns if seen else time.monotonic_ns()
        self._estimator.finish(self.end_ns)
        self._open = False
        self.running_ns = self._with_a_cpu(self._estimator.running_ns)
        if self._there is not None:
            self.running_ns = None  # a forked copy: its scheduler's threads are those of another process
        elif not is_possible(self.running_ns, self._cpu_ns):
            self.losses[Loss.RUNNING_UNKNOWN] = 1
            self.running_ns = None
        if self._outside:
            self.notes.append(f"threads outside Go: {len(self._outside):,} of C's own, which had called into Go before; what they wait for is no goroutine's")
        self.goroutines = len(self._estimator.goids)
        _, single = self.read()
        return self.stacks(), single

    def _with_a_cpu(self, running_ns: int) -> int:
        """How much of the time in which goroutines seemed to run their threads had a CPU: of one that waits for it a look can't tell."""
        had = waited = 0
        for tid, (cpu_ns, waited_ns) in threads_times(self.process.pid).items():
            before = self._times.get(tid, (0, 0))
            had, waited = had + max(0, cpu_ns - before[0]), waited + max(0, waited_ns - before[1])
        share = waited / (had + waited) if had + waited else 0.0
        if share >= _NOTED_SHARE:
            self.notes.append(
                f"threads waited for a CPU for {share:.0%} of the time in which they could run: so much is taken off the time that goroutines"
                " seemed to be on one (estimate)"
            )
        return round(running_ns * (1 - share))

    def counters(self) -> dict[Stat, int]:
        """What there is of the kernel side's counters: no hits, and the intervals that were seen."""
        return {Stat.INTERVALS: self._estimator.intervals}

    def current_losses(self) -> dict[Loss, int]:
        """Losses up to now."""
        return self.losses

    def program_fds(self) -> list[int]:
        """No programs."""
        return []

    def cpu_used_ns(self) -> int:
        """CPU time of the process since `begin`, as of its last sign of life in the window."""
        if not self.end_ns:
            self._cpu_ns = max(self._cpu_ns, cpu_time_ns(self.process.pid) - self._cpu_start)
        return self._cpu_ns

    def close(self) -> None:
        """Closes the process."""
        if not self._closed:
            self._closed = True
            self._target.close()

    # -- one look ------------------------------------------------------------------------------------------------------

    def _plan(self, cost_ns: int) -> None:
        """Sets the moment of the next look: random within its period, which is longer where looking, which took `cost_ns` of CPU
        time, would take more than its share. It must not depend on when a CPU was to be had: that is what the target does."""
        chance = self._random.uniform(-_JITTER, _JITTER)
        wait = round(self._period_ns * (1 + chance))
        least = round(cost_ns / self._options.busiest * (1 + _JITTER + chance))
        self._next_ns = max(self._next_ns + wait, self._last_ns + least)
        now = time.monotonic_ns()
        if self._next_ns <= now:
            self._next_ns = now + wait
            self.losses[Loss.LOOK_LATE] += self._open
            self._handing_over.failed()

    def _try_to_look(self) -> bool:
        moment = time.monotonic_ns()
        self.promptness.begin()
        try:
            looked = self._look((self._last_ns + moment) // 2 if self._last_ns else moment)
        except (ProcessLookupError, PermissionError):
            looked = False  # the session sees that it is gone
        if looked:
            self._last_ns = moment
            self.samples += self._open
        return looked

    def _look(self, middle: int) -> bool:
        """Looks at all goroutines. What differs from the last look has differed since `middle`. False after an exec: the
        addresses are another program's then, and nothing that was read there may be counted."""
        scanner, stays, away, wanted = self._scanner, self._estimator.stays, [], []
        asked_for = []
        for index in {*scanner.look(), *self._unread, *self._to_ask}:
            head, stay = scanner.heads[index], stays.get(index)
            if self._is_to_be_asked(head):
                asked_for.append(index)
            if not self._off_cpu(head):
                away.append(index)
            elif stay is None or index in self._unread or head.status == Status.SYSCALL or stay.key[:-1] != _key(head):
                wanted.append(index)
        calls = self._asleep(asked_for)
        blocked = {index: calls[index] for index in away if calls.get(index) is not None}
        away = [index for index in away if index not in blocked]
        for portion in self._portions(wanted):
            asked = {index: scanner.heads[index] for index in portion}
            copies = self._copies(list(asked))
            # What depends on the moment is known. The rest takes longer, and the target's requests need not wait for it where
            # there are CPUs for it: else it would come after the next look is due.
            if self._handing_over.over:
                self.promptness.give_back()
            self._ask()
            if self._execed:
                return False
            while away:
                index = away.pop()
                self._not_off(index, scanner.heads[index], middle)
            for index, copy in copies.items():
                snapshot = self._walked(index, copy)
                same = asked[index] == snapshot.head  # it has not moved since its thread was asked
                self._take(index, snapshot, calls.get(index, IN_SOME_CALL) if same else IN_SOME_CALL, middle)
        for index, found in blocked.items():
            self._take_blocked(index, found, middle)
        return True

    def _portions(self, wanted: list[int]) -> Iterator[list[int]]:
        """Not all at once: at the first look it may be a million. At least one, if it is empty."""
        portion, size = [], 0
        for index in wanted:
            more = self._scanner.copied(index)
            if len(portion) >= _AT_ONCE or portion and size + more > _BYTES_AT_ONCE:
                yield portion
                portion, size = [], 0
            portion.append(index)
            size += more
        yield portion

    def _copies(self, wanted: list[int]) -> dict[int, Copy]:
        """Goroutines and their stacks, as of now."""
        found: dict[int, Copy] = {}
        for _ in range(_TRIES):
            found |= self._scanner.copies(wanted)
            again = [index for index in wanted if index in found and found[index].stack is None and self._off_cpu(found[index].head)]
            wanted = next(self._portions(again))  # their stacks may be larger now
            if not wanted:
                break
        return found

    def _walked(self, index: int, copy: Copy) -> Snapshot:
        """A stack that makes no sense is read again."""
        snapshot = self._scanner.snapshot(copy)
        for _ in range(_TRIES - 1 if copy.stack is not None else 0):
            if snapshot.pcs is not None or not self._off_cpu(snapshot.head):
                break
            snapshot = self._scanner.snapshots([index]).get(index, snapshot)
        return snapshot

    def _off_cpu(self, head: Head) -> bool:
        if self._options.only_goid not in (0, head.goid):
            return False
        # A waiting goroutine that still has an M runs on its system stack (runtime/proc.go: casGToWaiting; park_m drops it).
        return (head.status in OFF_CPU and not (head.status == Status.WAITING and head.m)) or head.status == Status.SYSCALL

    def _is_to_be_asked(self, head: Head) -> bool:
        """Whether what its thread does decides where it is: Go takes it for running, or knows that it is in a system call."""
        return head.status in (Status.SYSCALL, Status.RUNNING) and self._options.only_goid in (0, head.goid)

    def _is_outside(self, index: int, head: Head) -> bool:
        """Whether it is that of a thread of C that is about C's own business (gotrace/live/goroutines.py: Goroutine.outside_go)."""
        outside = head.status == Status.SYSCALL and 0 <= head.hi - head.sp <= EMPTY_STACK
        if outside:
            self._outside.add(index)
        return outside

    def _has_no_thread(self, head: Head) -> bool:
        """Whether the process is a forked copy and the thread that the goroutine is on by Go's account is not one of it."""
        return self._there is not None and head.status in (Status.RUNNING, Status.SYSCALL) and self._thread(head.m) not in self._there

    def _not_off(self, index: int, head: Head, middle: int) -> None:
        """The goroutine runs, or is gone."""
        self._unread.discard(index)
        self._note_to_ask(index, head)
        key = (head.goid, -1)
        stay = self._estimator.stays.get(index)
        elsewhere = self._is_outside(index, head) or self._has_no_thread(head)
        if elsewhere or head.status not in _ON_CPU or self._options.only_goid not in (0, head.goid):
            self._estimator.leave(index, middle)
        elif stay is None or stay.key != key:
            self._estimator.arrive(index, key, head.goid, None, middle)

    def _note_to_ask(self, index: int, head: Head) -> None:
        # Whether its thread blocks there can change without a trace in the g: it is asked at every look.
        if self._is_to_be_asked(head):
            self._to_ask.add(index)
        else:
            self._to_ask.discard(index)

    def _take_blocked(self, index: int, found: Asleep, middle: int) -> None:
        """Go takes the goroutine for running, and its thread sleeps in the kernel: in a page fault, a raw system call, stopped."""
        head, sleep = self._scanner.heads[index], found.sleep
        self._note_to_ask(index, head)
        self._unread.discard(index)
        key, stay = (head.goid, -2, found.kind, found.number, sleep.pc, sleep.sp), self._estimator.stays.get(index)
        if stay is not None and stay.key == key:
            return
        now = self._target.reader.read([self._scanner.address(index)])
        own = stack_of_thread(self._target.reader, now[0], sleep) if now and now[0].goid == head.goid else RawStack((sleep.pc,), exact=True, unreadable=True)
        again = asleep(self.process.pid, self._thread(head.m))
        if again is None or (again.pc, again.sp) != (sleep.pc, sleep.sp):
            own = RawStack((sleep.pc,), exact=True, unreadable=True)  # it went on meanwhile: what was read is of another moment
        self.losses[Loss.STACK_TORN] += self._open and own.unreadable
        self._arrive(index, key, head.goid, self._place(index, head, None, found, own), middle)

    def _arrive(self, index: int, key: tuple, goid: int, place: Place, middle: int) -> None:
        self.losses[Loss.STACK_INCOMPLETE] += self._open and place.incomplete
        self._estimator.arrive(index, key, goid, place, middle)

    def _take(self, index: int, snapshot: Snapshot, call: Asleep | None, middle: int) -> None:
        head = snapshot.head
        if not self._off_cpu(head) or (head.status == Status.SYSCALL and (call is None or self._is_outside(index, head))):
            self._not_off(index, head, middle)
            return
        self._note_to_ask(index, head)
        if head.status != Status.SYSCALL:
            call = None
        key, stay = (*_key(head), call and (call.kind, call.number)), self._estimator.stays.get(index)
        same = stay is not None and stay.key == key
        if same and (snapshot.pcs is None or index not in self._unread):
            return
        self._unread.discard(index)
        if snapshot.pcs is None:
            self._unread.add(index)
            self.losses[Loss.STACK_TORN] += self._open
        place = self._place(index, head, snapshot.pcs, call)
        if same:
            self._estimator.correct(index, place)
        else:
            self._arrive(index, key, head.goid, place, middle)

    def _place(self, index: int, head: Head, pcs: tuple[int, ...] | None, call: Asleep | None, own: RawStack | None = None) -> Place:
        goid = head.goid if self._options.per_goroutine else 0
        kernel = self._kernel_stack(head, call) if call is not None and call.sleep is not None else ()
        asleep_in = call and (call.kind, call.number, kernel)
        key = (own or pcs or head.pc, head.status, head.reason, asleep_in, waits_for_first_turn(head), goid)
        known = self._places.get(key)
        if known is None:
            known = self._places[key] = self._new_place(head, pcs, call, goid, kernel, own)
        return known

    def _kernel_stack(self, head: Head, call: Asleep) -> tuple[int, ...]:
        """Where in the kernel the thread sleeps, if it still does; asked once for each stay."""
        found = asleep_thread(self.process.pid, self._thread(head.m), self._kernel)
        same = found is not None and found.sleep is not None and call.sleep is not None and found.sleep.place == call.sleep.place
        return found.kernel if same and found is not None else ()

    def _new_place(
        self, head: Head, pcs: tuple[int, ...] | None, call: Asleep | None, goid: int, kernel: tuple[int, ...], own: RawStack | None
    ) -> Place:
        if call is None:
            row, found = interpret(self._model, head, pcs, 0, goid)
        else:
            row, found = interpret(self._model, head, pcs, call.number, goid, kind=call.kind, kernel=kernel, own=own)
        stat = StackStat(
            self._symbolizer.frames(found, row), found.state, found.reason, Distribution(), goid=goid or None,
            pid=self.process.pid,
        )
        return self._estimator.place(stat, unread=own.unreadable if own is not None else pcs is None, incomplete=found.incomplete)

    def _asleep(self, indexes: list[int]) -> dict[int, Asleep | None]:
        """By index, what the goroutine's thread sleeps in; None if it does not. All are asked that Go takes for running, of the others not
        too many."""
        if not self._options.syscalls:
            return {}
        heads, found = self._scanner.heads, {}
        in_calls = [index for index in indexes if heads[index].status == Status.SYSCALL]
        for index in [index for index in indexes if heads[index].status == Status.RUNNING] + in_calls[:_MOST_CALLS]:
            tid = self._thread(heads[index].m)
            if tid:
                found[index] = asleep_thread(self.process.pid, tid)
        return found

    def _thread(self, m: int) -> int:
        if m not in self._threads:
            offset = self.binary.layout.m_procid
            number = self._target.memory.u64(m + offset) if m and offset is not None else None
            if not number:
                return 0
            if self.process.namespace_pid == self.process.pid:
                self._threads[m] = number
            else:
                self._threads[m] = thread_numbers(self.process.pid).get(number, 0)
        return self._threads[m]


def _key(head: Head) -> tuple:
    # The collector may move the stack of one that waits (runtime/stack.go: shrinkstack): the depth stays.
    return head.goid, head.status, head.reason, head.tick, head.pc, head.hi - head.sp
