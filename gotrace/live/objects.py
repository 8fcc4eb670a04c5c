"""The thing that a parked goroutine waits for, read from the process's memory: a channel, a lock, a descriptor, a timer.

Layouts of package sync are the same from Go 1.19 to 1.27 (sync/mutex.go, internal/sync/mutex.go, rwmutex.go, waitgroup.go).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gotrace.gobin.binary import GoBinary
from gotrace.live.channels import Case, Channels
from gotrace.live.conds import Conds
from gotrace.live.pages import Pages, signed_at, word_at
from gotrace.live.polled import Polled
from gotrace.live.semaphores import waiters
from gotrace.live.timers import Timers
from gotrace.live.typenames import TypeNames
from gotrace.proc.memory import Memory

CHAN, SELECT, MUTEX, RWMUTEX, WAITGROUP, COND, SEMAPHORE, FD, TIMER = (
    "chan", "select", "mutex", "rwmutex", "waitgroup", "cond", "semaphore", "fd", "timer",
)
SLEEP = "sleep"
COND_WAIT = "sync.Cond.Wait"
"""The wait reason for which `Parked.stack` is needed."""
_MOST_BLOCKS = 2048
_MAX_READERS = 1 << 30
_LOCKED, _STARVING, _WAITERS_SHIFT = 1, 4, 3
_OLD_TIMER_ARG, _OLD_TIMER_NEXT = 40, 56
_RUNTIME_SEMAPHORES = ("runtime.worldsema", "runtime.gcsema", "runtime.work.startSema", "runtime.work.markDoneSema")


@dataclass(frozen=True, slots=True)
class Waited:
    """What a goroutine waits for. `address` is None for what has none (a nil channel, a select); `cases` are those of a select or the one
    operation on a channel; `detail` has what else is known, by the names that docs/dump.md explains."""

    kind: str
    address: int | None
    detail: dict[str, object] = field(default_factory=dict)
    cases: tuple[Case, ...] = ()


class Parked(NamedTuple):
    """A parked goroutine: the address of its g, its wait reason, the names of its functions, leaf first, what its g has in `waiting`,
    `timer` and `sleepWhen` (0: nothing, or unknown), and its stack from the stack pointer up (only if it waits for a Cond)."""

    g: int
    reason: str
    functions: Sequence[str]
    waiting: int
    timer: int
    due_ns: int
    stack: bytes


class ObjectReader:
    """Reads what the goroutines of one process wait for, at one time.

    Raises:
        ProcessLookupError, PermissionError: the memory can't be read (all methods).
    """

    def __init__(self, memory: Memory, binary: GoBinary, bias: int) -> None:
        self._pages = Pages(memory, _MOST_BLOCKS)
        self._layout = binary.wait_layout
        self._channels = Channels(self._pages, self._layout, TypeNames(self._pages, binary, bias), Timers(self._pages, binary, bias))
        self._conds = Conds(self._pages)
        table = binary.semtable
        self._waiters = waiters(memory, self._pages, table + bias, self._layout) if table is not None else {}
        symbols = binary.symbols
        self._named = {at + bias: name for name in _RUNTIME_SEMAPHORES if (at := symbols.address(name)) is not None}

    @property
    def refused(self) -> int:
        """How many goroutines had records that make no sense."""
        return self._channels.refused

    def cases(self, waiting: dict[int, int]) -> dict[int, tuple[Case, ...]]:
        """The operations on channels that goroutines wait for (`Channels.cases`)."""
        return self._channels.cases(waiting)

    def objects(self, parked: Sequence[Parked], polled: dict[int, Polled]) -> dict[int, Waited]:
        """What each waits for, by the address of its g; those for which it is not known are left out. `polled` are the goroutines that the
        netpoller knows."""
        cases = self._channels.cases({one.g: one.waiting for one in parked if one.waiting and _is_channel(one.reason)})
        found = {}
        for one in parked:
            waited = self._object(one, cases.get(one.g), polled.get(one.g))
            if waited is not None:
                found[one.g] = waited
        return found

    def _object(self, one: Parked, cases: tuple[Case, ...] | None, polled: Polled | None) -> Waited | None:
        reason = one.reason
        if "(nil chan)" in reason:
            return Waited(CHAN, None, {"op": "send" if "send" in reason else "receive", "nil": True})
        if reason == "select (no cases)":
            return Waited(SELECT, None)
        if cases is not None:
            if reason.startswith("select"):
                return Waited(SELECT, None, cases=cases)
            return Waited(CHAN, cases[0].channel.address, cases=cases[:1])
        if one.g in self._waiters:
            return self._semaphore(self._waiters[one.g], one.functions)
        if reason == COND_WAIT:
            cond = self._conds.of(one.g, one.stack)
            return Waited(COND, cond.address, {"waiters": cond.waiters, "locker": cond.locker}) if cond is not None else None
        if reason == "IO wait" and polled is not None:
            op = "write" if polled.writes else "read"
            return Waited(FD, polled.address, {"fd": polled.fd, "op": op, "deadline_ns": polled.deadline_ns})
        return self._sleep(one) if reason == SLEEP else None

    def _sleep(self, one: Parked) -> Waited | None:
        if one.due_ns:
            return Waited(TIMER, one.timer or None, {"due_ns": one.due_ns})
        # Before Go 1.23 the timer has the moment, and as its argument the g (runtime/time.go: timeSleep).
        raw = self._pages.read(one.timer, 64) if one.timer else None
        if raw is None or word_at(raw, _OLD_TIMER_ARG) != one.g:
            return None
        due = signed_at(raw, _OLD_TIMER_NEXT)
        return Waited(TIMER, one.timer, {"due_ns": due}) if due > 0 else None

    def _semaphore(self, address: int, functions: Sequence[str]) -> Waited:
        kind, start, op = of_semaphore(address, functions)
        if kind == RWMUTEX:
            return self._rwmutex(start, op)
        if kind == WAITGROUP:
            return self._waitgroup(start)
        if kind == MUTEX:
            return self._mutex(start)
        name = self._named.get(address)
        value = self._pages.word(address & ~7)
        detail: dict[str, object] = {"value": value >> 8 * (address & 4) & 0xFFFFFFFF} if value is not None else {}
        return Waited(SEMAPHORE, address, {"name": name, **detail} if name else detail)

    def mutex_is_locked(self, address: int) -> bool:
        """Whether the sync.Mutex at that address is locked now."""
        raw = self._pages.read(address, 8)
        return raw is not None and bool(raw[0] & _LOCKED)

    def _mutex(self, address: int) -> Waited:
        raw = self._pages.read(address, 8)
        if raw is None:
            return Waited(MUTEX, address)
        state = int.from_bytes(raw[:4], "little", signed=True)
        return Waited(MUTEX, address, {
            "locked": bool(state & _LOCKED), "starving": bool(state & _STARVING), "waiters": state >> _WAITERS_SHIFT,
        })

    def _rwmutex(self, address: int, op: str) -> Waited:
        raw = self._pages.read(address, 24)
        if raw is None:
            return Waited(RWMUTEX, address, {"op": op})
        count, leaving = (int.from_bytes(raw[at : at + 4], "little", signed=True) for at in (16, 20))
        # A writer announces itself by making the count negative, then waits until the readers that were there have left.
        if count >= 0:
            return Waited(RWMUTEX, address, {"op": op, "readers": count, "readers_waiting": 0, "writer": "none"})
        leaving = max(leaving, 0)
        return Waited(RWMUTEX, address, {
            "op": op, "readers": leaving, "readers_waiting": count + _MAX_READERS - leaving, "writer": "waiting" if leaving else "locked",
        })

    def _waitgroup(self, address: int) -> Waited:
        raw = self._pages.read(address, 8)
        if raw is None:
            return Waited(WAITGROUP, address)
        return Waited(WAITGROUP, address, {
            "counter": int.from_bytes(raw[4:8], "little", signed=True), "waiters": int.from_bytes(raw[:4], "little") & 0x7FFFFFFF,
        })


def of_semaphore(address: int, functions: Sequence[str]) -> tuple[str, int, str]:
    """To what a semaphore belongs for which a goroutine waits: kind, address, and the method of a RWMutex. `functions` are the names on the
    goroutine's stack, leaf first."""
    inner = _of_sync(functions)
    slow = any(name.endswith("sync.(*Mutex).lockSlow") for name in inner)
    if "sync.(*RWMutex).RLock" in inner:
        return RWMUTEX, address - 12, "RLock"
    if "sync.(*RWMutex).Lock" in inner:
        return RWMUTEX, address - 4 if slow else address - 8, "Lock"
    if "sync.(*WaitGroup).Wait" in inner:
        return WAITGROUP, address - 8, ""
    return (MUTEX, address - 4, "") if slow else (SEMAPHORE, address, "")


def _is_channel(reason: str) -> bool:
    return reason.startswith(("chan ", "select"))


def _of_sync(functions: Sequence[str]) -> list[str]:
    """The functions of package sync at the leaf: what was called last, outside the runtime."""
    found: list[str] = []
    for name in functions:
        if name.startswith(("sync.", "internal/sync.", "internal/poll.")):
            found.append(name)
        elif found or not name.startswith("runtime."):
            break
    return found
