"""One sample of all goroutines: where each one is, and what has changed since the previous sample.

Two stays of a goroutine at one place are told apart by the runtime's count of how often it left the CPU (g.trackingSeq).
g.waitsince does not serve: the collector sets it, to the start of its cycle, and only in goroutines that wait then
(runtime/mgcmark.go: markroot).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from itertools import chain

from gotrace.common.vocabulary import Loss
from gotrace.kernel.records import LabelValues, RawStack
from gotrace.live.alike import Crowd
from gotrace.live.goroutines import Unwinder
from gotrace.live.gstruct import Head, Status
from gotrace.live.labels import Values
from gotrace.live.scan import Scanner, Snapshot
from gotrace.proc.priority import SamplePriority
from gotrace.profile.estimate import Estimator, Place
from gotrace.watch.backoff import Backoff
from gotrace.watch.inprogress.blocked import IN_SOME_CALL, Asleep, stack_of_thread
from gotrace.watch.labels import WantedLabels
from gotrace.watch.sampling.places import Places
from gotrace.watch.sampling.stacks import StackReader
from gotrace.watch.sampling.threads import Threads
from gotrace.watch.sampling.whose import Whose
from gotrace.watch.target import OpenTarget

_ON_CPU = frozenset((Status.RUNNING, Status.SYSCALL, Status.WAITING, Status.COPYSTACK))
"""States in which a goroutine that is not off the CPU is on it: also in C, in a system call that does not block, and "waiting" while
its own M runs something for it on the system stack."""


_TRIES = 3
_MANY = 1024
"""So many stacks are worth being read together."""


class Sampler:
    """Samples one process for `estimator`. With `only_goid`, if not 0, that goroutine alone.

    `losses` are the process's, counted while `counting`.
    """

    def __init__(
        self, target: OpenTarget, estimator: Estimator, places: Places, threads: Threads, priority: SamplePriority, losses: dict[Loss, int],
        only_goid: int, labels: WantedLabels | None = None,
    ) -> None:
        self.counting = False
        self._reader = target.reader
        self._estimator = estimator
        self._places = places
        self._threads = threads
        self._priority = priority
        self._losses = losses
        self._whose = Whose(only_goid)
        self._labels = labels
        self._label_values: dict[Values, LabelValues] = {}
        self._scanner = Scanner(target.memory, target.reader, Unwinder(target.binary, target.bias), target.binary.layout, priority)
        self._stacks = StackReader(self._scanner, self._whose.off_cpu)
        self._unread: set[int] = set()
        self._to_ask: set[int] = set()
        self._handing_over = Backoff()

    @property
    def outside(self) -> set[int]:
        """Goroutines of C's threads that were seen outside Go."""
        return self._whose.outside

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
        away, wanted = array("I"), array("I")  # there may be a million
        asked_for: list[int] = []
        changed = scanner.sample()
        again = self._unread | self._to_ask
        for index in chain(changed, again.difference(changed) if again else ()):
            head = scanner.heads[index]
            if self._whose.is_to_be_asked(head):
                asked_for.append(index)
            if not self._whose.off_cpu(head):
                away.append(index)
            elif index not in stays or index in self._unread or head.status == Status.SYSCALL or not stays.has_stem(index, _key(head)):
                wanted.append(index)
        few = wanted if len(wanted) < _MANY else ()
        self._stacks.begin([index for index in few if scanner.heads[index].status != Status.SYSCALL])
        calls = self._threads.asleep(scanner.heads, asked_for)
        blocked = {index: call for index in away if (call := calls.get(index)) is not None}
        away = array("I", [index for index in away if index not in blocked])
        left: list[int] = []
        for crowd in self._crowds(wanted, left):
            if execed():
                return False
            self._take_alike(crowd, middle)
        for portion in self._stacks.portions(left):
            copies, asked = self._stacks.copies(portion)
            labels = self._labels_of(list(copies))
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
                call = calls.get(index, IN_SOME_CALL)
                snapshot = self._stacks.walked(index, copy, asked[index], call is None)
                same = asked[index] == snapshot.head  # it has not moved since its thread was asked
                self._take(index, snapshot, call if same else IN_SOME_CALL, middle, labels.get(index, ()))
        for index, found in blocked.items():
            self._take_blocked(index, found, middle)
        return True

    def _crowds(self, wanted: array[int], left: list[int]) -> Iterator[Crowd]:
        """Those of many goroutines that have the same stack, together; `left` gets the others."""
        if len(wanted) < _MANY or self._labels is not None:
            left += wanted
            return
        for crowd in self._scanner.crowds(wanted, left):
            if self._handing_over.over:
                self._priority.give_back()
            yield crowd

    def _take_alike(self, crowd: Crowd, middle: int) -> None:
        places: dict[tuple[int, int], Place] = {}
        heads, stays, per_goroutine = self._scanner.heads, self._estimator.stays, self._places.per_goroutine
        for index in crowd.indexes:
            head = heads[index]
            if per_goroutine or index in self._unread or index in self._to_ask or not self._whose.off_cpu(head):
                self._take(index, Snapshot(head, crowd.pcs), None, middle, ())
                continue
            key = (*_key(head), None)
            if stays.has_key(index, key):
                continue
            place = places.get(head[1:3])
            if place is None:
                place = places[head[1:3]] = self._places.place(head, crowd.pcs, None, ())
            self._arrive(index, key, head.goid, place, middle)

    def _labels_of(self, indexes: list[int]) -> dict[int, LabelValues]:
        if self._labels is None or not indexes:
            return {}
        addresses = [self._scanner.address(index) for index in indexes]
        found = self._labels.values(addresses, self._label_values, self._losses)
        return {index: found[g] for index, g in zip(indexes, addresses, strict=True) if g in found}

    def _not_off(self, index: int, head: Head, middle: int) -> None:
        """The goroutine runs, or is gone."""
        self._unread.discard(index)
        self._note_to_ask(index, head)
        key = (head.goid, -1)
        elsewhere = self._whose.is_outside(index, head) or self._threads.lacks(head)
        if elsewhere or head.status not in _ON_CPU or not self._whose.wanted(head):
            self._estimator.leave(index, middle)
        elif not self._estimator.stays.has_key(index, key):
            self._estimator.arrive(index, key, head.goid, None, middle)

    def _note_to_ask(self, index: int, head: Head) -> None:
        # Its thread may block without leaving a trace in the g: it is asked in every sample.
        if self._whose.is_to_be_asked(head):
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
        if self._estimator.stays.has_key(index, key):
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
        labels = self._labels_of([index]).get(index, ())
        place = self._places.place(head, None, found, self._threads.kernel_stack(head, found), own, labels)
        self._arrive(index, key, head.goid, place, middle)

    def _arrive(self, index: int, key: tuple[object, ...], goid: int, place: Place, middle: int) -> None:
        self._losses[Loss.STACK_INCOMPLETE] += self.counting and place.incomplete
        self._estimator.arrive(index, key, goid, place, middle)

    def _take(self, index: int, snapshot: Snapshot, call: Asleep | None, middle: int, labels: LabelValues) -> None:
        head = snapshot.head
        if not self._whose.off_cpu(head) or (head.status == Status.SYSCALL and (call is None or self._whose.is_outside(index, head))):
            self._not_off(index, head, middle)
            return
        self._note_to_ask(index, head)
        if head.status != Status.SYSCALL:
            call = None
        key = (*_key(head), call and (call.kind, call.number))
        same = self._estimator.stays.has_key(index, key)
        if same and (snapshot.pcs is None or index not in self._unread):
            return
        self._unread.discard(index)
        if snapshot.pcs is None:
            self._unread.add(index)
            self._losses[Loss.STACK_TORN] += self.counting
        kernel = self._threads.kernel_stack(head, call) if call is not None else ()
        place = self._places.place(head, snapshot.pcs, call, kernel, labels=labels)
        if same:
            self._estimator.correct(index, place)
        else:
            self._arrive(index, key, head.goid, place, middle)


def _key(head: Head) -> tuple[int, ...]:
    # The collector may move the stack of a waiting goroutine (runtime/stack.go: shrinkstack); its depth stays.
    return head.goid, head.status, head.reason, head.tick, head.pc, head.hi - head.sp
