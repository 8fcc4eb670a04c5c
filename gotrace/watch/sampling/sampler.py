"""One sample of all goroutines: where each one is, and what has changed since the previous sample.

Two stays of a goroutine at one place are told apart by the runtime's count of how often it left the CPU (g.trackingSeq).
g.waitsince does not serve: the collector sets it, to the start of its cycle, and only in goroutines that wait then
(runtime/mgcmark.go: markroot).
"""

from __future__ import annotations

from collections.abc import Callable

from gotrace.common.vocabulary import Loss
from gotrace.kernel.records import RawStack
from gotrace.live.goroutines import EMPTY_STACK, OFF_CPU, Unwinder
from gotrace.live.gstruct import Head, Status
from gotrace.live.scan import Scanner, Snapshot
from gotrace.proc.priority import SamplePriority
from gotrace.profile.estimate import Estimator, Place
from gotrace.watch.backoff import Backoff
from gotrace.watch.inprogress.blocked import IN_SOME_CALL, Asleep, stack_of_thread
from gotrace.watch.sampling.places import Places
from gotrace.watch.sampling.stacks import StackReader
from gotrace.watch.sampling.threads import Threads
from gotrace.watch.target import OpenTarget

_ON_CPU = frozenset((Status.RUNNING, Status.SYSCALL, Status.WAITING, Status.COPYSTACK))
"""States in which a goroutine that is not off the CPU is on it: also in C, in a system call that does not block, and "waiting" while
its own M runs something for it on the system stack."""


_TRIES = 3


class Sampler:
    """Samples one process for `estimator`. With `only_goid`, if not 0, that goroutine alone.

    `losses` are the process's, counted while `counting`; `outside` are goroutines of C's threads that were seen outside Go.
    """

    def __init__(
        self, target: OpenTarget, estimator: Estimator, places: Places, threads: Threads, priority: SamplePriority, losses: dict[Loss, int],
        only_goid: int,
    ) -> None:
        self.counting = False
        self.outside: set[int] = set()
        self._reader = target.reader
        self._estimator = estimator
        self._places = places
        self._threads = threads
        self._priority = priority
        self._losses = losses
        self._only_goid = only_goid
        self._scanner = Scanner(target.memory, target.reader, Unwinder(target.binary, target.bias), target.binary.layout, priority)
        self._stacks = StackReader(self._scanner, self._off_cpu)
        self._unread: set[int] = set()
        self._to_ask: set[int] = set()
        self._handing_over = Backoff()

    def begin(self) -> None:
        """Counts losses from now on, as the window opens; includes stacks torn in earlier samples whose goroutine still waits."""
        self.counting = True
        self._losses[Loss.STACK_TORN] += len(self._unread)
        stays = self._estimator.stays.values()
        self._losses[Loss.STACK_INCOMPLETE] += sum(stay.place is not None and stay.place.incomplete for stay in stays)

    def came_late(self) -> None:
        """Notes that the next sample was due before this one was over: slow samples keep their priority for a while."""
        self._losses[Loss.LOOK_LATE] += self.counting
        self._handing_over.failed()

    def sample(self, middle: int, execed: Callable[[], bool]) -> bool:
        """Takes a sample. What differs from the last one has differed since `middle`. Returns False after an exec, as `execed` tells: the
        addresses belong to another program then, and nothing that was read may be counted."""
        scanner, stays = self._scanner, self._estimator.stays
        away: list[int] = []
        wanted: list[int] = []
        asked_for: list[int] = []
        for index in {*scanner.sample(), *self._unread, *self._to_ask}:
            head, stay = scanner.heads[index], stays.get(index)
            if self._is_to_be_asked(head):
                asked_for.append(index)
            if not self._off_cpu(head):
                away.append(index)
            elif stay is None or index in self._unread or head.status == Status.SYSCALL or stay.key[:-1] != _key(head):
                wanted.append(index)
        calls = self._threads.asleep(scanner.heads, asked_for)
        blocked = {index: call for index in away if (call := calls.get(index)) is not None}
        away = [index for index in away if index not in blocked]
        for portion in self._stacks.portions(wanted):
            asked = {index: scanner.heads[index] for index in portion}
            copies = self._stacks.copies(list(asked))
            # All that depends on the moment is known. The rest takes longer, and need not delay the target's requests if there are CPUs
            # for it; otherwise it would not be done before the next sample is due.
            if self._handing_over.over:
                self._priority.give_back()
            if execed():
                return False
            while away:
                index = away.pop()
                self._not_off(index, scanner.heads[index], middle)
            for index, copy in copies.items():
                snapshot = self._stacks.walked(index, copy)
                same = asked[index] == snapshot.head  # it has not moved since its thread was asked
                self._take(index, snapshot, calls.get(index, IN_SOME_CALL) if same else IN_SOME_CALL, middle)
        for index, found in blocked.items():
            self._take_blocked(index, found, middle)
        return True

    def _wanted(self, head: Head) -> bool:
        return self._only_goid in (0, head.goid)

    def _off_cpu(self, head: Head) -> bool:
        if not self._wanted(head):
            return False
        # A waiting goroutine that still has an M runs on its system stack (runtime/proc.go: casGToWaiting; park_m drops it).
        return (head.status in OFF_CPU and not (head.status == Status.WAITING and head.m)) or head.status == Status.SYSCALL

    def _is_to_be_asked(self, head: Head) -> bool:
        """Whether its thread decides where it is: Go takes it for running, or knows that it is in a system call."""
        return head.status in (Status.SYSCALL, Status.RUNNING) and self._wanted(head)

    def _is_outside(self, index: int, head: Head) -> bool:
        """Whether it belongs to a thread of C that is outside Go (gotrace/live/goroutines.py: Goroutine.outside_go)."""
        outside = head.status == Status.SYSCALL and 0 <= head.hi - head.sp <= EMPTY_STACK
        if outside:
            self.outside.add(index)
        return outside

    def _not_off(self, index: int, head: Head, middle: int) -> None:
        """The goroutine runs, or is gone."""
        self._unread.discard(index)
        self._note_to_ask(index, head)
        key = (head.goid, -1)
        stay = self._estimator.stays.get(index)
        elsewhere = self._is_outside(index, head) or self._threads.lacks(head)
        if elsewhere or head.status not in _ON_CPU or not self._wanted(head):
            self._estimator.leave(index, middle)
        elif stay is None or stay.key != key:
            self._estimator.arrive(index, key, head.goid, None, middle)

    def _note_to_ask(self, index: int, head: Head) -> None:
        # Its thread may block without leaving a trace in the g: it is asked in every sample.
        if self._is_to_be_asked(head):
            self._to_ask.add(index)
        else:
            self._to_ask.discard(index)

    def _take_blocked(self, index: int, found: Asleep, middle: int) -> None:
        """Handles a goroutine that Go takes for running while its thread sleeps in the kernel: page fault, raw system call, stopped."""
        head, sleep = self._scanner.heads[index], found.sleep
        self._note_to_ask(index, head)
        self._unread.discard(index)
        if sleep is None:
            return
        key: tuple[object, ...] = (head.goid, -2, found.kind, found.number, sleep.pc, sleep.sp)
        stay = self._estimator.stays.get(index)
        if stay is not None and stay.key == key:
            return
        own = RawStack((sleep.pc,), exact=True, unreadable=True)
        for _ in range(_TRIES):
            # The runtime preempts a thread that does not come back, every 10 ms; the wait may continue in another thread.
            now = self._reader.read([self._scanner.address(index)])
            if not now or now[0].goid != head.goid:
                break
            head = head._replace(m=now[0].m)
            read, again = stack_of_thread(self._reader, now[0], sleep), self._threads.sleep(head)
            if again is not None and (again.pc, again.sp) == (sleep.pc, sleep.sp):
                own = read
                break
        else:
            key = (*key, "moving")  # the next sample asks again
        self._losses[Loss.STACK_TORN] += self.counting and own.unreadable
        place = self._places.place(head, None, found, self._threads.kernel_stack(head, found), own)
        self._arrive(index, key, head.goid, place, middle)

    def _arrive(self, index: int, key: tuple[object, ...], goid: int, place: Place, middle: int) -> None:
        self._losses[Loss.STACK_INCOMPLETE] += self.counting and place.incomplete
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
            self._losses[Loss.STACK_TORN] += self.counting
        place = self._places.place(head, snapshot.pcs, call, self._threads.kernel_stack(head, call) if call is not None else ())
        if same:
            self._estimator.correct(index, place)
        else:
            self._arrive(index, key, head.goid, place, middle)


def _key(head: Head) -> tuple[int, ...]:
    # The collector may move the stack of a waiting goroutine (runtime/stack.go: shrinkstack); its depth stays.
    return head.goid, head.status, head.reason, head.tick, head.pc, head.hi - head.sp
