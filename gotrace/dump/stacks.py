"""Names for what was read of a goroutine: its stack, its state, who created it. Goroutines at the same place share all of it."""

from __future__ import annotations

from typing import NamedTuple

from gotrace.common.vocabulary import FrameKind
from gotrace.gobin.functions import Call
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.records import KernelObject, RawStack
from gotrace.live.gstruct import Head, Status
from gotrace.live.scan import waits_for_first_turn
from gotrace.model.chains import CodePoint
from gotrace.model.objects import describe
from gotrace.model.snapshots import interpret
from gotrace.model.stacks import StackModel
from gotrace.proc.descriptors import Descriptors
from gotrace.profile.symbolize import Symbolizer, shown_name
from gotrace.profile.types import Frame
from gotrace.watch.inprogress.blocked import Asleep
from gotrace.watch.target import OpenTarget

_MOST_KNOWN = 1 << 16


class Seen(NamedTuple):
    """A stack with its state and reason; `incomplete`: it ends before its root."""

    frames: tuple[Frame, ...]
    state: str
    reason: str
    incomplete: bool = False


class Stacks:
    """The stacks of one process's goroutines."""

    def __init__(self, target: OpenTarget, kernel: KernelSymbols) -> None:
        self._binary, self._bias = target.binary, target.bias
        self._model = StackModel(target.binary, target.bias, kernel)
        self._names = Descriptors(target.process.pid)
        self._symbolizer = Symbolizer(self._model, kernel, self._names)
        self._seen: dict[tuple[object, ...], Seen] = {}
        self._creators: dict[int, tuple[str, str]] = {}
        self._functions: dict[int, str] = {}

    @property
    def unknown(self) -> int:
        """How many distinct program counters belong to no function."""
        return self._symbolizer.unknown

    def reason(self, head: Head) -> str:
        """Go's wait reason, "" if it does not wait."""
        reasons = self._binary.wait_reasons
        return reasons[head.reason] if head.status in (Status.WAITING, Status.LEAKED) and head.reason < len(reasons) else ""

    def seen(
        self, head: Head, pcs: tuple[int, ...] | None, call: Asleep | None, own: RawStack | None, thing: KernelObject | None
    ) -> Seen:
        """The goroutine with this head and stack; `call` is what its thread sleeps in, `own` its stack by the thread's registers, `thing`
        the file concerned."""
        if call is not None or own is not None:
            return self._read(head, pcs, call, own, thing)
        key = (head.status, head.reason, pcs if pcs is not None else head.pc, waits_for_first_turn(head))
        if thing is not None:
            return self._at_file(head, pcs, thing, (*key, "file"))
        found = self._seen.get(key)
        if found is None:
            if len(self._seen) >= _MOST_KNOWN:
                self._seen.clear()
            found = self._seen[key] = self._read(head, pcs, None, None, None)
        return found

    def _at_file(self, head: Head, pcs: tuple[int, ...] | None, thing: KernelObject, key: tuple[object, ...]) -> Seen:
        """Goroutines at files differ in the boundary alone, which comes first."""
        like = self._seen.get(key)
        if like is None:
            if len(self._seen) >= _MOST_KNOWN:
                self._seen.clear()
            like = self._seen[key] = self._read(head, pcs, None, None, thing)
        name, _, _ = like.frames[0].name.partition("(") if like.frames else ("", "", "")
        if not like.frames or like.frames[0].kind is not FrameKind.SYSCALL:
            return self._read(head, pcs, None, None, thing)
        boundary = Frame(f"{name}({describe(thing, self._names)})", kind=FrameKind.SYSCALL)
        return like._replace(frames=(boundary, *like.frames[1:]))

    def _read(
        self, head: Head, pcs: tuple[int, ...] | None, call: Asleep | None, own: RawStack | None, thing: KernelObject | None
    ) -> Seen:
        if call is not None:
            row, stack = interpret(self._model, head, pcs, call.number, thing=thing, kind=call.kind, kernel=call.kernel, own=own)
        else:
            row, stack = interpret(self._model, head, pcs, 0, thing=thing)
        return Seen(self._symbolizer.frames(stack, row), stack.state.value, stack.reason, stack.incomplete)

    def creator(self, pc: int) -> tuple[str, str]:
        """The function that created a goroutine with a go statement before `pc`, and where that is; "" if there is none."""
        if pc not in self._creators:
            calls: list[Call] = list(self._model.calls(CodePoint(pc - self._bias))) if pc else []
            # As in Go's tracebacks: the function that contains the code, and the line of the code (printcreatedby1).
            self._creators[pc] = (shown_name(calls[-1].function), f"{calls[0].file}:{calls[0].line}") if calls else ("", "")
        return self._creators[pc]

    def function(self, pc: int) -> str:
        """The function that contains `pc`, "" if there is none."""
        if pc not in self._functions:
            function = self._binary.table.function_at(pc - self._bias) if pc else None
            self._functions[pc] = shown_name(function.name) if function else ""
        return self._functions[pc]
