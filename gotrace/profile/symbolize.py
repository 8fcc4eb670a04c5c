"""Go stacks to frames with names, files and lines: expands inlined calls, and shows unknown code as such."""

from __future__ import annotations

from gotrace.common.vocabulary import OUTSIDE_CODE, SANITIZER_CODE, FrameKind, StartKind
from gotrace.kernel.kallsyms import KernelFunction, KernelSymbols
from gotrace.kernel.placing import POLL_CALLBACK
from gotrace.kernel.records import IntervalRow, RawStack
from gotrace.model.chains import CodePoint
from gotrace.model.objects import Names, describe, folded
from gotrace.model.stacks import GoStack, StackModel
from gotrace.profile.types import KERNEL_PATH, Frame

_RUNTIME_PREFIXES = ("runtime.", "runtime/internal/", "internal/runtime/")


class Symbolizer:
    """The frames of one process's stacks. `unknown` counts the distinct program counters without a function. `fold_ports`: connections
    are named without their client's port."""

    def __init__(self, model: StackModel, kernel: KernelSymbols, names: Names, fold_ports: bool = False) -> None:
        self._model = model
        self._kernel = kernel
        self._names = names
        self._fold_ports = fold_ports
        self._frames: dict[CodePoint, tuple[Frame, ...]] = {}
        # One object per frame for all stacks: there may be thousands.
        self._in_kernel: dict[int, Frame] = {}
        self._of_wakers: dict[tuple[Frame, str], Frame] = {}
        self.unknown = 0

    def frames(self, stack: GoStack, row: IntervalRow) -> tuple[Frame, ...]:
        """The frames, leaf first: the waker's stack from its root on, the kernel's, the boundary with what lies behind it, and the
        goroutine's own, without the compiler's wrappers. A stack whose root is missing ends in a frame of kind ``lost`` that says
        why."""
        if row.waker is not None and row.waker.kernel:
            # Data arrived, by this path. Its innermost function is where the data arrived, the others are the way there.
            path = self._kernel_frames(row.waker)
            frames = [self._of_waker(frame, KERNEL_PATH) for frame in reversed(path[1:])]
            frames += [self._of_waker(frame, frame.file) for frame in path[:1]]
        else:
            frames = self._waker_frames(stack)
        if row.kernel_stack is not None:
            frames += self._kernel_frames(row.kernel_stack)
        if stack.boundary:
            thing = folded(row.object) if row.object is not None and self._fold_ports else row.object
            what = f"({describe(thing, self._names)})" if thing is not None else ""
            frames.append(Frame(stack.boundary + what, kind=FrameKind.SYSCALL))
        own = [frame for point in stack.points for frame in self._expand(point)]
        if row.key.kind == StartKind.CREATED and stack.points:
            # For `go f(x)` the compiler's wrapper is all there is yet.
            own = [*self._physical(stack.points[0]), *(f for point in stack.points[1:] for f in self._expand(point))]
        # On the scheduler's stack for the goroutine: the mark of where it switched is not a call.
        frames += own[1:] if own and own[0].name == "runtime.systemstack_switch" else own
        if stack.broken:
            frames.append(Frame(f"[{stack.broken}]", kind=FrameKind.LOST))
        return tuple(frames)

    def _waker_frames(self, stack: GoStack) -> list[Frame]:
        """From its root on; without the last steps into runtime.ready, and without the scheduler's way to what it ran."""
        frames: list[Frame] = []
        for point in stack.waker:
            frames += self._expand(point)
            if frames and (frames[-1].name in _FINDERS or frames[-1].name.startswith("runtime.mstart")):
                break  # below is the way to the scheduler; with cgo it goes through C
        start = next((index for index, frame in enumerate(frames) if not _leads_to_ready(frame.name)), 0)
        end = next((index for index, frame in enumerate(frames) if frame.name in _FINDERS and index > start), len(frames))
        return [self._of_waker(frame, frame.file) for frame in reversed(frames[start:end])]

    def _of_waker(self, frame: Frame, file: str) -> Frame:
        known = self._of_wakers.get((frame, file))
        if known is None:
            known = self._of_wakers[frame, file] = frame._replace(kind=FrameKind.WAKER, file=file)
        return known

    def _kernel_frames(self, stack: RawStack) -> list[Frame]:
        found = [self._kernel.function(pc) for pc in stack.pcs]
        # Above __schedule, or the probed function, is only the kernel's way to us.
        names = [function.name if function else "" for function in found]
        start = next((index + 1 for index, name in enumerate(names) if name.startswith("__schedule")), 0)
        if not start:
            start = names.index(POLL_CALLBACK) if POLL_CALLBACK in names else 0
            start = next((index for index, name in enumerate(names) if index >= start and not name.startswith(_WAYS_TO_US)), 0)
        # What an interrupt interrupted has nothing to do with it.
        end = next((index for index, name in enumerate(names) if name.startswith(_INTERRUPT)), len(names))
        known = zip(stack.pcs[start:end], found[start:end], strict=True)
        return [self._in_kernel.get(pc) or self._new_kernel_frame(pc, function) for pc, function in known]

    def _new_kernel_frame(self, pc: int, function: KernelFunction | None) -> Frame:
        if function is not None:
            frame = Frame(function.name, function.module, kind=FrameKind.KERNEL)
        else:
            frame = Frame("[kernel]" if self._kernel.restricted else f"[kernel at {pc:#x}]", kind=FrameKind.KERNEL)
        self._in_kernel[pc] = frame
        return frame

    def _physical(self, point: CodePoint) -> list[Frame]:
        return [
            Frame(shown_name(call.function), call.file, call.line, kind_of(call.function))
            for call in self._model.calls(point)[-1:]
        ]

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
                if known and known[-1].inlined:
                    # It was inlined into a wrapper, which is left out: the next frame does not contain it.
                    known = (*known[:-1], known[-1]._replace(inlined=False))
            elif point.pc in _OUTSIDE:
                known = (Frame(_OUTSIDE[point.pc], kind=FrameKind.LOST),)
            else:
                self.unknown += 1
                known = (Frame(f"[unknown function at {point.pc:#x}]", kind=FrameKind.LOST),)
            self._frames[point] = known
        return known


_WAYS_TO_US = ("bpf_", "__bpf_", "__traceiter_", "__probestub_")
_INTERRUPT = ("asm_common_interrupt", "asm_sysvec_")
_OUTSIDE = {OUTSIDE_CODE: "[code outside the binary]", SANITIZER_CODE: "[in the memory access checks of -race, -asan or -msan]"}
_FINDERS = frozenset(("runtime.findRunnable", "runtime.findrunnable", "runtime.schedule"))
"""Where the scheduler searches for work: it called from there what made the goroutine runnable."""


def _leads_to_ready(name: str) -> bool:
    # systemstack_switch marks where a goroutine switched to the scheduler's stack; it is not a call.
    return name in ("runtime.systemstack_switch", "runtime.goready", "runtime.goroutineReady") or ".goready.func" in name


def kind_of(function: str) -> FrameKind:
    """``runtime`` for the functions of package runtime and its internals, else ``go``."""
    return FrameKind.RUNTIME if function.startswith(_RUNTIME_PREFIXES) else FrameKind.GO


def shown_name(function: str) -> str:
    """The name as printed in Go's tracebacks: type arguments as ``[...]`` (runtime/traceback.go: printFuncName)."""
    start, end = function.find("["), function.rfind("]")
    return function[:start] + "[...]" + function[end + 1 :] if 0 <= start < end else function
