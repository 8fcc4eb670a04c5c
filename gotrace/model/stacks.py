"""From raw kernel records to goroutine stacks: the true chain of callers, the state and the reason of each part.

State machine of a goroutine as the probes see it (runtime/proc.go). The BPF programs count any other transition as an anomaly
(`start_while_stopped`, `end_while_running`):

    running --park_m--> waiting            --execute--> running
    running --goschedImpl, goyield_m, preemptPark--> preempted --execute--> running
    running --exitsyscall0/NoP--> runnable --execute--> running
    running --coroswitch_m--> waiting      --coroswitch_m of the other side--> running
    new g   --newproc--> runnable          --execute (sched.bp is 0)--> running
    new g   --coroswitch_m (sched.bp is 0)--> running

Within an interval, in this order, each at most once; the parts add up to the interval:

    waiting  --sk_data_ready--> netpoll    --netpollready--> runnable
    waiting, preempted --ready, netpollready--> runnable

and while Go takes the goroutine for running, as the kernel sees its thread:

    running --sched_switch, asleep--> syscall --sched_waking--> runqueue --sched_switch--> running
    running --sched_switch, runnable--> runqueue --sched_switch--> running
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from gotrace.common.vocabulary import (
    NETPOLL,
    OUTSIDE_CODE,
    READY,
    WOKEN,
    WOKEN_THROTTLED,
    Part,
    StartKind,
    State,
)
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.functions import Call
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.records import IntervalRow, RawStack
from gotrace.kernel.structs import ASYNC_AT, NO_SYSCALL
from gotrace.model.chains import INTERRUPTED, NO_ADDRESSES, Chains, CodePoint
from gotrace.model.kernelstacks import MEMORY_LIMIT, PAGE_FAULT, STOPPED, cause, is_fault, waits_for_vfork
from gotrace.model.syscalls import syscall_name

GOSCHED = "Gosched"
PREEMPTED = "preempted"
YIELD = "yield"
SYSCALL_EXIT = "syscall exit"
COROUTINE = "coroutine"
UNKNOWN = "unknown"
THREAD_PREEMPTED = "thread preempted"
CPU_QUOTA = "CPU quota"
CREATED = "created"
UNKNOWN_SYSCALL = "syscall"

REASON_OF_KIND = {
    StartKind.YIELD: (State.PREEMPTED, YIELD),
    StartKind.PREEMPT_PARK: (State.PREEMPTED, PREEMPTED),
    StartKind.EXIT_SYSCALL: (State.RUNNABLE, SYSCALL_EXIT),
    StartKind.COROSWITCH: (State.WAITING, COROUTINE),
    StartKind.CPU: (State.RUNQUEUE, THREAD_PREEMPTED),
    StartKind.THROTTLED: (State.RUNQUEUE, CPU_QUOTA),
    StartKind.CREATED: (State.RUNNABLE, CREATED),
    StartKind.READY: (State.RUNNABLE, READY),
}
"""State and reason of the kinds that have one of each. PARK has Go's own reason; GOSCHED is Gosched or a preemption."""

_PARTS = {
    Part.NETPOLL: (State.NETPOLL, NETPOLL),
    Part.RUNNABLE: (State.RUNNABLE, READY),
    Part.RUNQUEUE: (State.RUNQUEUE, WOKEN),
    Part.THROTTLED: (State.RUNQUEUE, WOKEN_THROTTLED),
}

OTHER_REASONS = frozenset((
    GOSCHED, PREEMPTED, YIELD, SYSCALL_EXIT, COROUTINE, PAGE_FAULT, MEMORY_LIMIT, STOPPED, UNKNOWN, THREAD_PREEMPTED, CPU_QUOTA, CREATED,
    UNKNOWN_SYSCALL,
))
"""Reasons that are neither Go's own wait reasons nor names of system calls."""

_LEAF_KINDS = (
    ("runtime.gopark", StartKind.PARK),
    ("runtime.goyield", StartKind.YIELD),
    ("runtime.exitsyscall", StartKind.EXIT_SYSCALL),
    ("runtime.coroswitch", StartKind.COROSWITCH),
    ("runtime.coroswitch_m", StartKind.COROSWITCH),
    ("runtime.coroexit", StartKind.COROSWITCH),
    ("runtime.corostart", StartKind.COROSWITCH),
)
_IN_KERNEL = frozenset((StartKind.SYSCALL, StartKind.FAULT, StartKind.STOPPED))
IN_KERNEL = "[kernel]"
"""The boundary of a thread that sleeps in the kernel outside system calls, where its kernel stack does not tell why."""
VFORK = "(vfork)"
_REMEMBERED, _MOST_CALLERS = 1024, 1 << 16
"""How many results of each kind are kept: 10 MB if all stacks are 128 frames deep."""
_VOLUNTARY = frozenset(("runtime.Gosched", "runtime.goschedguarded", "runtime.goschedIfBusy"))
_GIVES_UP = _VOLUNTARY | {"runtime.asyncPreempt2"}


@dataclass(slots=True)
class GoStack:
    """A goroutine's stack where it left the CPU, leaf first, and why. `waker` is the stack of its waker, `boundary` what it was doing in
    the kernel (``read``, ``page fault``, "" if nothing). `broken` says what is missing at its root."""

    points: tuple[CodePoint, ...]
    state: State
    reason: str
    boundary: str
    waker: tuple[CodePoint, ...] = ()
    broken: str = field(default="")
    incomplete: bool = False
    """Its chain of callers ends before a root, and the kernel side did not notice."""


class StackModel:
    """Interprets the records of one process. `kernel` names the functions on kernel stacks, which tell why a thread sleeps."""

    def __init__(self, binary: GoBinary, bias: int, kernel: KernelSymbols | None = None) -> None:
        self._binary = binary
        self._kernel = kernel
        self._bias = bias
        # A stack comes with many wakers and sockets, and a leaf with many stacks.
        self._chain = lru_cache(_REMEMBERED)(self._find_chain)
        self._names_at = lru_cache(_REMEMBERED)(self._find_names)
        self._kernel_names = lru_cache(_REMEMBERED)(self._find_kernel_names)
        self._called_morestack = lru_cache(_REMEMBERED)(self._find_called_morestack)
        self._chains = Chains(binary, bias)
        self._callers: dict[int, CodePoint] = {}  # by return address, of functions that no signal calls

    @property
    def frame_sizes(self) -> dict[int, int]:
        """The frame sizes by which the kernel side can pass the places where stacks broke off (`Chains.frame_sizes`)."""
        return self._chains.frame_sizes

    def interpret(self, row: IntervalRow) -> GoStack:
        """Returns the stack with all its callers, its state and its reason."""
        points, whole = self._chain(row.stack)
        state, reason = self._why(row, points)
        broken = ""
        if row.stack.in_transit:
            broken = "its stack was being copied or switched"
            if points and points[0].pc in NO_ADDRESSES:
                points = ()  # in the vDSO, or in C
        elif row.stack.truncated:
            broken = "stack deeper than the walk"
        elif not row.stack.pcs and row.key.kind == StartKind.CPU:
            broken = "where it had its CPU taken, before the window"
        elif row.stack.unreadable:
            broken = "" if self._chains.ends_in_callback(points) else "rest of the stack unreadable"
        elif not whole or not self._chains.at_root(points):
            broken = "its callers are unknown: the chain of frames breaks off"
        incomplete = bool(broken) and not (row.stack.in_transit or row.stack.truncated or row.stack.unreadable)
        if broken and not row.stack.in_transit and not row.stack.truncated:
            while len(points) > 1 and points[-1].pc in NO_ADDRESSES:
                points = points[:-1]
            self._chains.learn(points)
            points = points[: self._chains.believed(points) if whole else self._chains.certain(points)]
        waker, known = self._chain(row.waker) if row.waker is not None and not row.waker.kernel else ((), True)
        if waker and not known:
            self._chains.learn(waker)
            waker = waker[: self._chains.certain(waker)]
        return GoStack(points, state, reason, self._boundary(row), waker, broken, incomplete)

    def _boundary(self, row: IntervalRow) -> str:
        if row.key.kind in _IN_KERNEL:
            return self._in_kernel(row)[1]
        return "netpoll" if row.object is not None else ""

    def _in_kernel(self, row: IntervalRow) -> tuple[str, str]:
        """Why a thread slept in the kernel, and what it was in: a system call, a fault. Decided by what its kernel stack shows; nothing is
        concluded from what is absent."""
        if row.key.kind == StartKind.STOPPED:
            return STOPPED, STOPPED
        names = self._kernel_names(row.kernel_stack) if row.kernel_stack is not None else ()
        why = cause(names)
        if why == STOPPED:
            return STOPPED, STOPPED
        if row.key.kind == StartKind.FAULT:
            # Only the first part of an interval has a kernel stack.
            return why or UNKNOWN, PAGE_FAULT if is_fault(names) else IN_KERNEL if row.part is Part.MAIN else ""
        call = _syscall(row.key.syscall)
        return MEMORY_LIMIT if why == MEMORY_LIMIT else call, f"{call}{VFORK}" if waits_for_vfork(names) else call

    def _find_kernel_names(self, stack: RawStack) -> tuple[str, ...]:
        if self._kernel is None:
            return ()
        found = (self._kernel.function(pc) for pc in stack.pcs)
        return tuple(function.name if function is not None else "" for function in found)

    def _find_chain(self, stack: RawStack) -> tuple[tuple[CodePoint, ...], bool]:
        """The stack's points, and whether they are all of them."""
        points = self._walked(stack)
        return points, self._chains.adds_up(stack, points)

    def _walked(self, stack: RawStack) -> tuple[CodePoint, ...]:
        table, bias = self._binary.table, self._bias
        points: list[CodePoint] = []
        exact = stack.exact or stack.in_transit
        of_thread = exact and stack.span
        callers = self._callers
        for index, pc in enumerate(stack.pcs):
            if index > 1 and not exact and (known := callers.get(pc)) is not None:
                points.append(known)
                continue
            if index == 1 and of_thread and not stack.first:
                continue  # about to call duffzero or duffcopy: their frame is below the stack pointer, and nothing is above it yet
            if pc in NO_ADDRESSES or not table.text <= pc - bias < table.etext:
                pc = pc if pc in NO_ADDRESSES else OUTSIDE_CODE
                if not points or points[-1].pc not in NO_ADDRESSES:
                    points.append(CodePoint(pc))
                if index == 0 and stack.in_prologue:
                    points.append(CodePoint(stack.leaf_caller if stack.leaf_caller in NO_ADDRESSES else stack.leaf_caller - bias))
                exact = False
                continue
            pc -= bias
            points.append(CodePoint(pc, exact))
            in_chain = of_thread and stack.first == 8 and stack.pcs[1:2] == (stack.leaf_caller,)
            if index == 0 and stack.leaf_caller and not in_chain and (stack.in_prologue or table.stack_delta(pc) == 0):
                points.append(CodePoint(stack.leaf_caller if stack.leaf_caller in NO_ADDRESSES else stack.leaf_caller - bias))
            if exact and index == ASYNC_AT and stack.async_caller and table.stack_delta(pc) == 0:
                points.append(CodePoint(stack.async_caller - bias))
            function = table.function_at(pc if exact else pc - 1)
            # Where a signal struck, the frame above asyncPreempt is the interrupted instruction (runtime/preempt.go).
            interrupted = function is not None and function.name in INTERRUPTED
            if index > 1 and not exact and not interrupted:
                if len(callers) >= _MOST_CALLERS:
                    callers.clear()
                callers[pc + bias] = points[-1]
            exact = interrupted
        return self._with_async_caller(stack, tuple(points))

    def _with_async_caller(self, stack: RawStack, points: tuple[CodePoint, ...]) -> tuple[CodePoint, ...]:
        """Inserts the caller that is missing if a signal struck while a frame was being made or taken down: the frame pointer was then
        still the caller's. The sizes of the frames tell whether it is missing."""
        at = ASYNC_AT
        if not stack.async_caller or len(points) <= at or not points[at].exact:
            return points
        if not self._binary.table.stack_delta(points[at].pc) or self._chains.adds_up(stack, points):
            return points
        whole = (*points[: at + 1], CodePoint(stack.async_caller - self._bias), *points[at + 1 :])
        return whole if self._chains.adds_up(stack, whole) else points

    def _why(self, row: IntervalRow, points: tuple[CodePoint, ...]) -> tuple[State, str]:
        if row.part is not Part.MAIN:
            return _PARTS[row.part]
        kind = StartKind(row.key.kind) if row.key.kind in StartKind._value2member_map_ else StartKind.BEFORE
        names = self._names_at(points[0]) if points else frozenset()
        if kind in _IN_KERNEL:
            return State.SYSCALL, self._in_kernel(row)[0]
        if not points and kind is not StartKind.PARK and kind not in REASON_OF_KIND:
            return State.PREEMPTED if kind is StartKind.GOSCHED else State.WAITING, UNKNOWN
        if kind in (StartKind.BEFORE, StartKind.SCHEDULE):
            # By the leaf, or by functions inlined there, and nothing else: it is not known what parks in a plugin.
            gave_up = names & _GIVES_UP or (names and (row.stack.in_prologue or self._called_morestack(points[0])))
            told = next((known for name, known in _LEAF_KINDS if name in names), StartKind.GOSCHED if gave_up else None)
            if told is None:
                return State.WAITING, UNKNOWN
            kind = told
        if kind is StartKind.PARK:
            reasons = self._binary.wait_reasons
            text = reasons[row.key.reason] if row.key.reason < len(reasons) else ""
            return State.WAITING, text or UNKNOWN
        if kind is StartKind.GOSCHED:
            # Called through mcall from Gosched and the like, from asyncPreempt2, or by newstack in a function's prologue.
            asked = not row.stack.in_prologue and "runtime.asyncPreempt2" not in names
            return State.PREEMPTED, GOSCHED if asked or names & _VOLUNTARY else PREEMPTED
        return REASON_OF_KIND[kind]

    def _find_names(self, point: CodePoint) -> frozenset[str]:
        return frozenset(call.function for call in self.calls(point))

    def _find_called_morestack(self, point: CodePoint) -> bool:
        """Whether the goroutine was preempted in a function's prologue, which calls runtime.morestack, which calls newstack."""
        code = self._binary.image.read_up_to(point.pc - 5, 5)
        if point.exact or len(code) < 5 or code[0] != 0xE8:
            return False
        called = self._binary.table.function_at(point.pc + int.from_bytes(code[1:], "little", signed=True))
        return called is not None and called.name in ("runtime.morestack", "runtime.morestack_noctxt")

    def calls(self, point: CodePoint) -> list[Call]:
        """The calls that a point stands for, innermost first; [] outside Go code."""
        return self._binary.table.expand(point.pc, not point.exact)

    def is_wrapper(self, call: Call) -> bool:
        """Whether the compiler generated the function (gowrap1, ABI wrappers): Go's own tracebacks leave those out (runtime/traceback.go:
        elideWrapperCalling)."""
        return call.func_id == self._binary.table.wrapper_id


def _syscall(number: int) -> str:
    return UNKNOWN_SYSCALL if number == NO_SYSCALL else syscall_name(number)
