"""Go stacks to frames with names, files and lines; inlined calls expanded, what is unknown shown as such."""

from __future__ import annotations

from gotrace.model.stacks import CodePoint, GoStack, StackModel
from gotrace.profile.types import Frame
from gotrace.vocabulary import FrameKind

_RUNTIME_PREFIXES = ("runtime.", "runtime/internal/", "internal/runtime/")


class Symbolizer:
    """Frames of one process's stacks. `unknown` counts the distinct program counters that no function claims."""

    def __init__(self, model: StackModel) -> None:
        self._model = model
        self._frames: dict[CodePoint, tuple[Frame, ...]] = {}
        self.unknown = 0

    def frames(self, stack: GoStack) -> tuple[Frame, ...]:
        """Leaf first, without the compiler's wrappers; a stack whose root is missing ends in a frame of kind ``lost`` that
        says why."""
        frames: list[Frame] = []
        for point in stack.points:
            frames += self._expand(point)
        if stack.broken:
            frames.append(Frame(f"[{stack.broken}]", kind=FrameKind.LOST))
        return tuple(frames)

    def _expand(self, point: CodePoint) -> tuple[Frame, ...]:
        known = self._frames.get(point)
        if known is None:
            calls = self._model.calls(point)
            if calls:
                known = tuple(
                    Frame(shown_name(call.function), call.file, call.line, kind_of(call.function), call.inlined)
                    for call in calls
                    if not self._model.is_wrapper(call)
                )
            else:
                self.unknown += 1
                known = (Frame(f"[unknown function at {point.pc:#x}]", kind=FrameKind.LOST),)
            self._frames[point] = known
        return known


def kind_of(function: str) -> FrameKind:
    """``runtime`` for the functions of package runtime and its internals, else ``go``."""
    return FrameKind.RUNTIME if function.startswith(_RUNTIME_PREFIXES) else FrameKind.GO


def shown_name(function: str) -> str:
    """The name as Go's tracebacks print it: type arguments as ``[...]`` (runtime/traceback.go: printFuncName)."""
    start, end = function.find("["), function.rfind("]")
    return function[:start] + "[...]" + function[end + 1 :] if 0 <= start < end else function
