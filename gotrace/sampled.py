"""One process whose goroutines are looked at many times a second, without a probe: `gotrace attach --mode sample`.

What totals, counts and lengths then mean is in `gotrace.profile.estimate`. Two stays of a goroutine at one place are told
apart by the runtime's own count of how often it left the CPU (g.trackingSeq). g.waitsince would not do: the collector sets
it, to the start of its cycle, and only in goroutines that wait then (runtime/mgcmark.go: markroot).
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from gotrace.blocked import system_call, thread_numbers
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.structs import NO_SYSCALL
from gotrace.live.goroutines import OFF_CPU, Unwinder
from gotrace.live.gstruct import Head, Status
from gotrace.live.scan import Scanner, Snapshot, waits_for_first_turn
from gotrace.model.snapshots import interpret
from gotrace.model.stacks import StackModel
from gotrace.proc.descriptors import Descriptors
from gotrace.profile.estimate import Estimator, Place
from gotrace.profile.subwindows import SubWindows
from gotrace.profile.symbolize import Symbolizer
from gotrace.profile.types import Distribution, Pause, SingleInterval, StackStat, Target
from gotrace.promptness import Promptness
from gotrace.target import OpenTarget, cpu_time_ns, open_target
from gotrace.vocabulary import Loss, Stat

DEFAULT_RATE_HZ = 20.0
_TRIES = 3
_AT_ONCE = 4096
_MOST_CALLS = 64
"""Threads that are asked for their system call at one look; the rest are counted as in a call of unknown name."""
_JITTER = 0.25
_BUSIEST = 0.5
"""A look takes at most this share of the time between two."""
_ON_CPU = frozenset((Status.RUNNING, Status.SYSCALL, Status.WAITING, Status.COPYSTACK))
"""States in which a goroutine that is not off the CPU is on it: also in C or in a system call that does not block, and
"waiting" while its own M runs something for it on the system stack."""


@dataclass(frozen=True)
class SampleOptions:
    """`rate_hz` looks a second. `min_block_ns` and `stream_ns` are those of `Estimator`. `syscalls`: the kernel is asked
    for what threads do in it."""

    rate_hz: float = DEFAULT_RATE_HZ
    per_goroutine: bool = False
    only_goid: int = 0
    min_block_ns: int = 0
    stream_ns: int | None = None
    syscalls: bool = True


class SampledProcess:
    """A process that is opened and looked at. Has the shape of `gotrace.traced.TracedProcess`.

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
        self._model = StackModel(target.binary, target.bias)
        self._symbolizer = Symbolizer(self._model, KernelSymbols(), Descriptors(target.process.pid))
        self._estimator = Estimator(options.min_block_ns, options.stream_ns)
        self._period_ns = round(1e9 / options.rate_hz)
        self._random = random.Random()
        self._places: dict[tuple, Place] = {}
        self._unread: set[int] = set()
        self._in_syscall: set[int] = set()
        self._threads: dict[int, int] = {}
        self._subwindows = SubWindows()
        self._last_ns = self._next_ns = 0
        self._cpu_start = self._cpu_ns = 0
        self._open = self._closed = False
        self.start_ns = self.end_ns = 0
        self.samples = 0
        self.losses: dict[Loss, int] = {Loss.STACK_TORN: 0, Loss.LOOK_LATE: 0}
        self.running_ns: int | None = None
        self.goroutines = 0
        self.pauses: list[Pause] = []

    @classmethod
    def prepare(cls, pid: int, options: SampleOptions) -> SampledProcess:
        """Opens the process, reads its binary and checks it against the live process."""
        return cls(open_target(pid, f"sudo gotrace attach {pid} --mode sample"), options)

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
        self._try_to_look()
        self.start_ns = self._last_ns = self._last_ns or time.monotonic_ns()
        self._estimator.begin(self.start_ns)
        self._open = True
        self.losses[Loss.STACK_TORN] += len(self._unread)  # torn in the first look, and still waiting
        self._next_ns = self.start_ns
        self._plan()

    @property
    def paused_ns(self) -> int:
        """None: what happens between two looks is estimated."""
        return 0

    @property
    def execed(self) -> bool:
        """Whether the process has called exec, or ended."""
        return not self.process.same_program()

    def tick(self) -> float:
        """Looks if it is time; returns the seconds until the next look is due."""
        if time.monotonic_ns() >= self._next_ns:
            before = self._last_ns
            if self._try_to_look():
                self._estimator.looked(self._last_ns - before)
                self.cpu_used_ns()
            self._plan()
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
            before = self._last_ns
            if not self.execed and self._try_to_look():
                self._estimator.looked(self._last_ns - before)
                self.end_ns = self._last_ns
            else:
                self.end_ns = time.monotonic_ns()
            self.cpu_used_ns()
        self._estimator.finish(self.end_ns)
        self._open = False
        self.running_ns = self._estimator.running_ns
        self.goroutines = len(self._estimator.goids)
        _, single = self.read()
        return self.stacks(), single

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

    def _plan(self) -> None:
        """Sets the moment of the next look: random within its period, and never so soon that looking is all we do."""
        now = time.monotonic_ns()
        wait = round(self._period_ns * self._random.uniform(1 - _JITTER, 1 + _JITTER))
        rest = round((now - self._last_ns) * (1 / _BUSIEST - 1))
        self._next_ns = max(self._next_ns + wait if self._next_ns + wait > now else now + wait, now + rest)

    def _try_to_look(self) -> bool:
        # After an exec the addresses are another program's: nothing that is read there may be counted.
        if self.execed:
            return False
        moment = time.monotonic_ns()
        self.promptness.begin()
        try:
            self._look((self._last_ns + moment) // 2 if self._last_ns else moment)
        except (ProcessLookupError, PermissionError):
            return False  # the session sees that it is gone
        self._last_ns = moment
        self.samples += self._open
        return True

    def _look(self, middle: int) -> None:
        """Looks at all goroutines. What differs from the last look has differed since `middle`."""
        scanner, stays, wanted = self._scanner, self._estimator.stays, []
        for index in {*scanner.look(), *self._unread, *self._in_syscall}:
            head, stay = scanner.heads[index], stays.get(index)
            if not self._off_cpu(head):
                self._not_off(index, head, middle)
            elif stay is None or index in self._unread or head.status == Status.SYSCALL or stay.key[:-1] != _key(head):
                wanted.append(index)
        calls = self._system_calls([index for index in wanted if scanner.heads[index].status == Status.SYSCALL])
        # Not all at once: at the first look it may be a million.
        for start in range(0, len(wanted), _AT_ONCE):
            self._walk(wanted[start : start + _AT_ONCE], calls, middle)

    def _walk(self, wanted: list[int], calls: dict[int, int | None], middle: int) -> None:
        """Takes goroutines with their stacks, as of now."""
        asked = {index: self._scanner.heads[index] for index in wanted}
        for attempt in range(_TRIES):
            again = []
            for index, snapshot in self._scanner.snapshots(wanted).items():
                if snapshot.pcs is None and self._off_cpu(snapshot.head) and attempt + 1 < _TRIES:
                    again.append(index)
                elif asked[index] == snapshot.head:
                    self._take(index, snapshot, calls.get(index, NO_SYSCALL), middle)
                else:
                    self._take(index, snapshot, NO_SYSCALL, middle)  # it has moved since its thread was asked
            wanted = again
            if not wanted:
                break

    def _off_cpu(self, head: Head) -> bool:
        if self._options.only_goid not in (0, head.goid):
            return False
        # A waiting goroutine that still has an M runs on its system stack (runtime/proc.go: casGToWaiting; park_m drops it).
        return (head.status in OFF_CPU and not (head.status == Status.WAITING and head.m)) or head.status == Status.SYSCALL

    def _not_off(self, index: int, head: Head, middle: int) -> None:
        """The goroutine runs, or is gone."""
        self._unread.discard(index)
        self._note_syscall(index, head)
        key = (head.goid, -1)
        stay = self._estimator.stays.get(index)
        if head.status not in _ON_CPU or self._options.only_goid not in (0, head.goid):
            self._estimator.leave(index, middle)
        elif stay is None or stay.key != key:
            self._estimator.arrive(index, key, head.goid, None, middle)

    def _note_syscall(self, index: int, head: Head) -> None:
        # Whether its thread blocks there can change without a trace in the g: it is asked at every look.
        if head.status == Status.SYSCALL and self._options.only_goid in (0, head.goid):
            self._in_syscall.add(index)
        else:
            self._in_syscall.discard(index)

    def _take(self, index: int, snapshot: Snapshot, call: int | None, middle: int) -> None:
        head = snapshot.head
        if not self._off_cpu(head) or (head.status == Status.SYSCALL and call is None):
            self._not_off(index, head, middle)
            return
        self._note_syscall(index, head)
        key, stay = (*_key(head), call), self._estimator.stays.get(index)
        same = stay is not None and stay.key == key
        if same and (snapshot.pcs is None or index not in self._unread):
            return
        self._unread.discard(index)
        if snapshot.pcs is None:
            self._unread.add(index)
            self.losses[Loss.STACK_TORN] += self._open
        place = self._place(head, snapshot.pcs, call or 0)
        if same:
            self._estimator.correct(index, place)
        else:
            self._estimator.arrive(index, key, head.goid, place, middle)

    def _place(self, head: Head, pcs: tuple[int, ...] | None, call: int) -> Place:
        goid = head.goid if self._options.per_goroutine else 0
        key = (pcs or head.pc, head.status, head.reason, call, waits_for_first_turn(head), goid)
        known = self._places.get(key)
        if known is None:
            known = self._places[key] = self._new_place(head, pcs, call, goid)
        return known

    def _new_place(self, head: Head, pcs: tuple[int, ...] | None, call: int, goid: int) -> Place:
        row, found = interpret(self._model, head, pcs, call, goid)
        stat = StackStat(
            self._symbolizer.frames(found, row), found.state, found.reason, Distribution(), goid=goid or None,
            pid=self.process.pid,
        )
        return self._estimator.place(stat, unread=pcs is None)

    def _system_calls(self, indexes: list[int]) -> dict[int, int | None]:
        """By index, the number of the call in which the goroutine's thread is blocked; None if it is not."""
        if not self._options.syscalls:
            return {}
        found = {}
        for index in indexes[:_MOST_CALLS]:
            tid = self._thread(self._scanner.heads[index].m)
            if tid:
                call = system_call(self.process.pid, tid)
                found[index] = None if call is None else call[0]
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
