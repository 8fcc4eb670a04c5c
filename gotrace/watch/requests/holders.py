"""Who held a lock while others waited for it, from the parts of intervals in the rings of the CPUs.

Go keeps no owner. What is known is who ended each wait: the goroutine that unlocked. In the order of their ends, the waits for one lock
divide the time in which somebody waited into stretches, each of which ends with an unlock by a known goroutine. That goroutine held the
lock at the end of the stretch. As far as unlocks tell it held it from the stretch's beginning on where the first waiter of all found the
lock taken, and from the moment at which it ran on where it is the one that the unlock before had woken. Otherwise, and before the woken
goroutine ran, somebody may have taken the lock and left it unseen (normal mode): the stretch is then the most that it can have been.

An unlock wakes a waiter, but not while another goroutine spins for the lock or has been woken already (sync/mutex.go: unlockSlow). Who gets
the lock from such an unlock, without a wait, is not seen: that time counts for the one who ends the stretch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from gotrace.common.vocabulary import Part, StartKind
from gotrace.kernel.history import Happened, PartRecord
from gotrace.kernel.records import RowKey
from gotrace.kernel.waited import Reasons
from gotrace.live.objects import MUTEX, RWMUTEX
from gotrace.profile.frames import waker_of
from gotrace.profile.holders import NOT_KNOWN, RUNNING, Holder, HolderWait, LockHolders
from gotrace.profile.symbolize import kind_of
from gotrace.profile.things import Waited
from gotrace.profile.types import Frame, StackStat
from gotrace.watch.requests.causes import waited_text
from gotrace.watch.requests.timelines import Timelines

_SETTLED_NS = 1_500_000_000
"""A wait is accounted for so long after its end: the goroutine has resumed, and its row has been read, by then."""
_MOST_AT_ONCE = 5_000
"""Waits for locks of one reading of the rings: some tens of milliseconds."""
_MOST_PENDING = 50_000
_MOST_IN_PROGRESS = 65_536
"""Waits for locks that the window's end cuts off: some 30 MB."""
_MOST_LOCKS = 1_024
_MOST_HOLDERS = 64
"""Of a lock; what is beyond is not explained."""
_LOCKS_TOLD, _HOLDERS_TOLD, _WAITS_TOLD = 100, 8, 6
_PARKS = frozenset((StartKind.PARK, StartKind.BEFORE))


class _Wait(NamedTuple):
    end_ns: int
    start_ns: int
    goid: int
    waker_goid: int
    row: int


@dataclass(slots=True)
class _Holder:
    stack: StackStat
    held_ns: int = 0
    sure_ns: int = 0
    count: int = 0
    did: dict[int, int] = field(default_factory=dict)
    """By row, 0: it ran, -1: it is not known."""


@dataclass(slots=True)
class _Lock:
    waited: Waited
    contended_ns: int = 0
    explained_ns: int = 0
    last_end_ns: int = 0
    last_goid: int = 0
    """The goroutine that was woken then."""
    holders: dict[int, _Holder] = field(default_factory=dict)


class Holders:
    """Of the locks of one process. `key_of` finds the key of a row by its hash, `stack_of` its stack; None if it is not known yet. `why_of`
    says what an interval was of which no stack is kept, "" if that is not known. `ran`: what a holder did that was in no interval.
    `unfollowed` counts waits of which it is not told who ended them, because there were too many, or because no stack is kept of them."""

    def __init__(
        self, pid: int, timelines: Timelines, reasons: Reasons, key_of: Callable[[int], RowKey | None],
        stack_of: Callable[[int], StackStat | None], why_of: Callable[[int], str] = lambda _row: "", ran: str = RUNNING,
    ) -> None:
        self.unfollowed = 0
        self._pid = pid
        self._timelines = timelines
        self._key_of = key_of
        self._stack_of = stack_of
        self._why_of = why_of
        self._ran = ran
        self._tails = frozenset(
            kind << 2 | reason << 10 | Part.MAIN << 18
            for kind in _PARKS for reason in range(64) if reasons.semaphores >> reason & 1
        )
        self._pending: list[_Wait] = []
        self._cut_off = 0
        self._gaps: list[tuple[int, int]] = []
        self._unknown: list[int] = []
        self._since_ns = self._until_ns = 0
        self._locks: dict[Waited, _Lock] = {}
        self._final: list[LockHolders] | None = None

    def take(self, happened: Happened) -> None:
        """Notes the waits for locks among the parts that were recorded since the last call."""
        if self._timelines.since_ns > max(self._since_ns, self._until_ns):
            self._gaps.append((self._until_ns, self._timelines.since_ns))
        self._since_ns, self._until_ns = self._timelines.since_ns, happened.until_ns
        found = happened.parts_of(self._tails)
        room = min(_MOST_AT_ONCE, _MOST_PENDING - len(self._pending))
        if len(found) > room:
            # Whole stretches of time are left out, so that each that is taken is complete.
            found.sort(key=_end)
            self.unfollowed += len(found) - room
            self._gaps.append((_end(found[room]), _end(found[-1])))
            found = found[:room]
        self._pending += [_wait(part) for part in found]

    def settle(self, until_ns: int) -> None:
        """Accounts for the waits that ended `_SETTLED_NS` before that moment."""
        self._pending.sort()
        ripe = bisect_left(self._pending, (until_ns - _SETTLED_NS,))
        waits, self._pending = self._pending[:ripe], self._pending[ripe:]
        self._account(waits, waits + self._pending)
        over = [gap for gap in self._gaps if gap[1] <= until_ns - _SETTLED_NS]
        self._gaps = over[-1:] + self._gaps[len(over) :]

    def wanted(self) -> Callable[[int], bool]:
        """Tells which waits that a window's end cuts off `finish` needs, by their `PartRecord.what`: those for locks, up to a number. What
        a holder waits for then began after its unlock, and is in no stretch."""
        self._cut_off = 0

        def wants(what: int) -> bool:
            of_lock = what & ~3 in self._tails
            self._cut_off += of_lock
            return of_lock and self._cut_off <= _MOST_IN_PROGRESS

        return wants

    def finish(self, in_progress: Iterable[PartRecord], end_ns: int) -> None:
        """Accounts for all waits; `in_progress` are parts that the window's end has cut off, as far as they are `wanted`."""
        self.unfollowed += self._left_out
        self._pending.sort()
        cut = [_wait(part)._replace(end_ns=end_ns, waker_goid=0) for part in in_progress if part.what & ~3 in self._tails]
        waits, self._pending = self._pending + cut, []
        self._account(waits, waits)
        self._final = self.found()

    @property
    def _left_out(self) -> int:
        """Of the waits that were cut off; for which locks they were is not known."""
        return max(0, self._cut_off - _MOST_IN_PROGRESS)

    def _account(self, waits: list[_Wait], known: list[_Wait]) -> None:
        """`known`: these, and later ones that had begun by then."""
        # For which locks these were is not known: no stretch in which one ends is sure.
        self._unknown = [wait.end_ns for wait in known if self._stack_of(wait.row) is None]
        locks: dict[Waited, list[_Wait]] = {}
        for wait in waits:
            self.unfollowed += self._stack_of(wait.row) is None
            waited = self._waited(wait)
            if waited is not None:
                locks.setdefault(waited, []).append(wait)
        later: dict[Waited, int] = {}
        for wait in known[len(waits) :]:
            waited = self._waited(wait)
            if waited is not None and waited in locks:
                later[waited] = min(later.get(waited, wait.start_ns), wait.start_ns)
        for waited, of_lock in locks.items():
            lock = self._locks.get(waited)
            if lock is None:
                if len(self._locks) >= _MOST_LOCKS:
                    self.unfollowed += len(of_lock)
                    continue
                lock = self._locks[waited] = _Lock(waited)
            self._divide(lock, of_lock, later.get(waited, 1 << 63))

    def _waited(self, wait: _Wait) -> Waited | None:
        stack = self._stack_of(wait.row)
        waited = stack.waited if stack is not None else None
        return waited if waited is not None and waited.kind in (MUTEX, RWMUTEX) else None

    def _divide(self, lock: _Lock, waits: list[_Wait], later_ns: int) -> None:
        """`waits`, in the order of their ends; the first that ends after them began at `later_ns`."""
        first, firsts = later_ns, []
        for wait in reversed(waits):
            first = min(first, wait.start_ns)
            firsts.append(first)
        for wait, first in zip(waits, reversed(firsts), strict=True):
            whole, end = self._whole_since(wait.end_ns), wait.end_ns
            start = max(lock.last_end_ns, first, whole)
            if end > start:
                lock.contended_ns += end - start
                if wait.waker_goid:
                    sure = end
                    if start == first:
                        sure = start
                    elif wait.waker_goid == lock.last_goid and start == lock.last_end_ns:
                        sure = min(end, self._ran_from(wait.waker_goid, start))
                    unknown = self._left_out or bisect_left(self._unknown, start) < bisect_left(self._unknown, end)
                    self._charge(lock, wait, start, end, end if unknown or start < self._timelines.since_ns else sure)
            lock.last_end_ns, lock.last_goid = max(lock.last_end_ns, end), wait.goid

    def _whole_since(self, end_ns: int) -> int:
        """From when on all waits are known that ended up to then."""
        return max((until for since, until in self._gaps if since < end_ns), default=0)

    def _ran_from(self, goid: int, woken_ns: int) -> int:
        """From when on a goroutine ran that was woken then."""
        for part in self._timelines.of(goid, woken_ns):
            if part.start_ns <= woken_ns and part.what >> 18 >= Part.RUNNABLE:
                woken_ns = max(woken_ns, _end(part))
        return woken_ns

    def _charge(self, lock: _Lock, wait: _Wait, start_ns: int, end_ns: int, sure_ns: int) -> None:
        key, stack = self._key_of(wait.row), self._stack_of(wait.row)
        if key is None or stack is None or not key.waker:
            return
        holder = lock.holders.get(key.waker)
        if holder is None:
            if len(lock.holders) >= _MOST_HOLDERS:
                return
            holder = lock.holders[key.waker] = _Holder(stack)
        length = end_ns - start_ns
        lock.explained_ns += length
        holder.held_ns += length
        holder.sure_ns += end_ns - sure_ns
        holder.count += 1
        for row, amount in self._did(wait.waker_goid, start_ns, end_ns).items():
            holder.did[row] = holder.did.get(row, 0) + amount

    def _did(self, goid: int, start_ns: int, end_ns: int) -> dict[int, int]:
        """What a goroutine did in that time, as in `_Holder.did`."""
        parts = self._timelines.of(goid, start_ns)
        index, left = bisect_left(parts, (end_ns,)) - 1, end_ns - start_ns
        found: dict[int, int] = {}
        while index >= 0 and parts[index].start_ns + parts[index].duration_ns > start_ns:
            part = parts[index]
            amount = min(part.start_ns + part.duration_ns, end_ns) - max(part.start_ns, start_ns)
            if amount > 0:
                found[part.row] = found.get(part.row, 0) + amount
                left -= amount
            index -= 1
        unseen = max(0, min(left, self._timelines.since_ns - start_ns))
        found[-1], found[0] = unseen, max(0, left - unseen)
        return found

    def found(self) -> list[LockHolders]:
        """The locks for which was waited longest, with those who held them longest."""
        if self._final is not None:
            return self._final
        locks = sorted(self._locks.values(), key=lambda lock: -lock.contended_ns)[:_LOCKS_TOLD]
        return [
            LockHolders(lock.waited, self._pid, lock.contended_ns, lock.explained_ns, _holders(lock, self._text))
            for lock in locks if lock.contended_ns
        ]

    def _text(self, row: int) -> str:
        if row <= 0:
            return NOT_KNOWN if row else self._ran
        stack = self._stack_of(row)
        return waited_text(stack) if stack is not None else self._why_of(row) or NOT_KNOWN


def _end(part: PartRecord) -> int:
    return part.start_ns + part.duration_ns


def _wait(part: PartRecord) -> _Wait:
    return _Wait(_end(part), part.start_ns, part.goid, part.waker_goid, part.row)


def _holders(lock: _Lock, text_of: Callable[[int], str]) -> list[Holder]:
    """By the stack of the unlock; `text_of` says what a row was."""
    by_frames: dict[tuple[Frame, ...], Holder] = {}
    did: dict[tuple[Frame, ...], dict[str, int]] = {}
    for each in lock.holders.values():
        frames = tuple(frame for frame in _unlocking(each.stack))
        reading = any(frame.name.startswith("sync.(*RWMutex).RUnlock") or frame.name.endswith("rUnlockSlow") for frame in frames)
        holder = by_frames.setdefault(frames, Holder(frames, 0, 0, 0, reading))
        holder.held_ns += each.held_ns
        holder.sure_ns += each.sure_ns
        holder.count += each.count
        of_frames = did.setdefault(frames, {})
        for row, amount in each.did.items():
            text = text_of(row)
            of_frames[text] = of_frames.get(text, 0) + amount
    for frames, holder in by_frames.items():
        ranked = sorted(did[frames].items(), key=lambda item: -item[1])
        holder.waits = [HolderWait(text, amount) for text, amount in ranked[:_WAITS_TOLD] if amount]
    return sorted(by_frames.values(), key=lambda holder: -holder.held_ns)[:_HOLDERS_TOLD]


def _unlocking(stack: StackStat) -> list[Frame]:
    """The stack with which the lock was unlocked, leaf first."""
    return [Frame(frame.name, frame.file, frame.line, kind_of(frame.name), frame.inlined) for frame in reversed(waker_of(stack.frames))]
