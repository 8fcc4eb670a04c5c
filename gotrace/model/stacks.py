"""From raw kernel records to goroutine stacks: the true chain of callers, the state and the reason of the wait.

State machine of a goroutine as the probes see it (runtime/proc.go); what is not listed is counted as an anomaly, by the
BPF programs (`start_while_stopped`, `end_while_running`):

    running --park_m--> waiting            --gogo--> running
    running --goschedImpl, goyield_m, preemptPark--> preempted --gogo--> running
    running --exitsyscall0/NoP--> runnable --gogo--> running
    running --coroswitch_m--> waiting      --gogo--> running
    new g   --gogo (sched.bp is 0)--> running
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gotrace.gobin.binary import GoBinary
from gotrace.gobin.pclntab import Call
from gotrace.kernel.records import KernelStack
from gotrace.vocabulary import StartKind, State

GOSCHED = "Gosched"
PREEMPTED = "preempted"
YIELD = "yield"
SYSCALL_EXIT = "syscall exit"
COROUTINE = "coroutine"
UNKNOWN = "unknown"

REASON_OF_KIND = {
    StartKind.YIELD: (State.PREEMPTED, YIELD),
    StartKind.PREEMPT_PARK: (State.PREEMPTED, PREEMPTED),
    StartKind.EXIT_SYSCALL: (State.RUNNABLE, SYSCALL_EXIT),
    StartKind.COROSWITCH: (State.WAITING, COROUTINE),
}
"""State and reason of the kinds that have one of each. PARK has Go's own reason; GOSCHED is Gosched or preemption."""

_LEAF_KINDS = (
    ("runtime.gopark", StartKind.PARK),
    ("runtime.goyield", StartKind.YIELD),
    ("runtime.exitsyscall", StartKind.EXIT_SYSCALL),
    ("runtime.coroswitch", StartKind.COROSWITCH),
    ("runtime.coroswitch_m", StartKind.COROSWITCH),
    ("runtime.coroexit", StartKind.COROSWITCH),
    ("runtime.corostart", StartKind.COROSWITCH),
)
_VOLUNTARY = frozenset(("runtime.Gosched", "runtime.goschedguarded", "runtime.goschedIfBusy"))


@dataclass(frozen=True)
class CodePoint:
    """A program counter at its link-time address. `exact`: the instruction itself, not a return address behind it."""

    pc: int
    exact: bool = False


@dataclass
class GoStack:
    """A goroutine's stack where it left the CPU, leaf first, and why. `broken` says what is missing at its root."""

    points: tuple[CodePoint, ...]
    state: State
    reason: str
    source: KernelStack
    broken: str = field(default="")


class StackModel:
    """Interprets the records of one process."""

    def __init__(self, binary: GoBinary, bias: int) -> None:
        self._binary = binary
        self._bias = bias

    def interpret(self, stack: KernelStack) -> GoStack:
        """The stack with its callers complete, its state and its reason."""
        points = self._chain(stack)
        state, reason = self._why(stack, points)
        broken = ""
        if stack.truncated:
            broken = "stack deeper than the walk"
        elif stack.unreadable:
            broken = "rest of the stack unreadable"
        return GoStack(points, state, reason, stack, broken)

    def _chain(self, stack: KernelStack) -> tuple[CodePoint, ...]:
        table, bias = self._binary.table, self._bias
        points: list[CodePoint] = []
        exact = False
        for index, pc in enumerate(stack.pcs):
            pc -= bias
            points.append(CodePoint(pc, exact))
            if index == 0 and stack.prologue_caller:
                points.append(CodePoint(stack.prologue_caller - bias))
            if exact and index == stack.async_at and stack.async_caller and table.stack_delta(pc) == 0:
                points.append(CodePoint(stack.async_caller - bias))
            function = table.function_at(pc if exact else pc - 1)
            # Where a signal struck, the frame above asyncPreempt is the interrupted instruction (runtime/preempt.go).
            exact = function is not None and function.name in ("runtime.asyncPreempt", "runtime.sigpanic")
        return tuple(points)

    def _why(self, stack: KernelStack, points: tuple[CodePoint, ...]) -> tuple[State, str]:
        kind = StartKind(stack.kind) if stack.kind in StartKind._value2member_map_ else StartKind.BEFORE
        leaf = self.calls(points[0]) if points else []
        names = {call.function for call in leaf}
        if not points and kind is not StartKind.PARK and kind not in REASON_OF_KIND:
            return State.WAITING, UNKNOWN
        if kind in (StartKind.BEFORE, StartKind.SCHEDULE):
            kind = next((found for name, found in _LEAF_KINDS if name in names), StartKind.GOSCHED)
        if kind is StartKind.PARK:
            reasons = self._binary.wait_reasons
            text = reasons[stack.reason] if stack.reason < len(reasons) else ""
            return State.WAITING, text or UNKNOWN
        if kind is StartKind.GOSCHED:
            # Called through mcall from Gosched and its kin, from asyncPreempt2, or by newstack in a function's prologue.
            asked = not stack.prologue_caller and "runtime.asyncPreempt2" not in names
            return State.PREEMPTED, GOSCHED if asked or names & _VOLUNTARY else PREEMPTED
        return REASON_OF_KIND[kind]

    def calls(self, point: CodePoint) -> list[Call]:
        """The calls that a point stands for, innermost first; [] outside Go code."""
        return self._binary.table.expand(point.pc, not point.exact)

    def is_wrapper(self, call: Call) -> bool:
        """Whether the compiler made the function (gowrap1, ABI wrappers): Go's own tracebacks leave those out
        (runtime/traceback.go: elideWrapperCalling)."""
        return call.func_id == self._binary.table.wrapper_id
