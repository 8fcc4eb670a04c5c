"""From steps of critical paths to what a reader is told of them: state, reason, frames, and one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gotrace.common.vocabulary import WOKEN_THROTTLED, FrameKind, State
from gotrace.profile.frames import is_goroutine_root, is_program, waker_of, without_waker
from gotrace.profile.requests import RUNNING, UNKNOWN_STATE, Cause
from gotrace.profile.symbolize import kind_of
from gotrace.profile.types import Frame, StackStat
from gotrace.watch.requests.followed import RawCause
from gotrace.watch.requests.path import How, Step

_QUOTAS = frozenset((WOKEN_THROTTLED, "CPU quota"))


class Causes:
    """Of the requests of one process. `stack_of` finds the stack of a row by its hash; None if it is not known. `stop_reasons`: of
    stops of the world, by number. In the methods `function` is the one that serves the request."""

    def __init__(self, stack_of: Callable[[int], StackStat | None], stop_reasons: Sequence[str] = ()) -> None:
        self._stack_of = stack_of
        self._stop_reasons = stop_reasons

    def of(self, step: Step, function: str, own: bool) -> Cause:
        """How the step is told. `own`: it is the request's own goroutine's."""
        if step.how is How.STOPPED:
            why = self._stop_reasons[step.row] if 0 < step.row < len(self._stop_reasons) else ""
            return Cause(f"stop of the world{f': {why}' if why else ''}", (), State.RUNNABLE.value, "stop of the world")
        stack = self._stack_of(step.row) if step.row else None
        if step.how is How.UNKNOWN or (stack is None and step.how is not How.RAN_TO_THE_END):
            return Cause("not known", (), UNKNOWN_STATE, "")
        if step.how is How.WAITED and stack is not None:
            frames = without_waker(stack.frames)
            thing = next((frame.name for frame in frames if frame.kind is FrameKind.SYSCALL), "")
            text = _waited(stack, frames, thing)
            return Cause(text + self._where(frames, step, own), frames, stack.state.value, stack.reason, _inside(thing))
        if stack is None:
            frames = (Frame(function),)
        elif step.how is How.RAN_UNTIL_WAKE:
            frames = tuple(frame._replace(kind=kind_of(frame.name)) for frame in reversed(waker_of(stack.frames)))
        else:
            frames = without_waker(stack.frames)
            frames = tuple(frame for frame in frames if frame.kind not in (FrameKind.KERNEL, FrameKind.SYSCALL))
        place = _place(frames)
        return Cause(f"running{f', up to {place}' if place else ''}{self._where(frames, step, own, place)}", frames, RUNNING, RUNNING)

    def of_raw(self, raw: RawCause, function: str) -> Cause:
        """The same of a step of which when and who are not known any more."""
        return self.of(Step(0, 0, 0, raw.how, raw.row, raw.via, raw.what), function, raw.own)

    def _where(self, frames: tuple[Frame, ...], step: Step, own: bool, said: str = "") -> str:
        """In which goroutine, and why the request waited for it."""
        if own:
            return ""
        roots = [frame.name for frame in frames if frame.kind in (FrameKind.GO, FrameKind.RUNTIME) and not is_goroutine_root(frame)]
        text = f", in goroutine {roots[-1]}" if roots and roots[-1] != said else ""
        via = self._stack_of(step.via) if step.via else None
        return text + (f", waited for by {via.reason}" if via is not None else "")


def waited_text(stack: StackStat) -> str:
    """What goroutines with that stack waited for, in one line."""
    frames = without_waker(stack.frames)
    thing = next((frame.name for frame in frames if frame.kind is FrameKind.SYSCALL), "")
    if thing or stack.waited is None or stack.waited.address is None:
        return _waited(stack, frames, thing)
    place = _place(frames)
    return f"{stack.reason} of {stack.waited.label}" + (f" in {place}" if place else "")


def _waited(stack: StackStat, frames: tuple[Frame, ...], thing: str) -> str:
    place = _place(frames)
    where = f" in {place}" if place else ""
    if stack.state is State.RUNNABLE:
        return f"waiting for a P{where}"
    if stack.state is State.RUNQUEUE:
        return f"out of CPU quota{where}" if stack.reason in _QUOTAS else f"waiting for a CPU{where}"
    if stack.state is State.PREEMPTED:
        return f"preempted, waiting for a P{where}"
    if stack.state is State.NETPOLL:
        return f"waiting for the netpoller{where}"
    if thing:
        call, inside = thing.partition("(")[0], _inside(thing)
        name = stack.reason if stack.state is State.WAITING else call
        return f"{name} of {inside}{where}" if inside else f"{name}{where}"
    return f"{stack.reason}{where}"


def _inside(thing: str) -> str:
    return thing.partition("(")[2].removesuffix(")")


def _place(frames: tuple[Frame, ...]) -> str:
    """The innermost function of the program's own; of others where there is none."""
    go = [frame for frame in frames if frame.kind is FrameKind.GO]
    return next((frame.name for frame in go if is_program(frame)), go[0].name if go else "")
