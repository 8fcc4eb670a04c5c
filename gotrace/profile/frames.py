"""What a reader wants to see in a stack: whose goroutine it is, and which frames are only the machinery of waiting."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import unquote

from gotrace.common.vocabulary import FrameKind
from gotrace.profile.types import KERNEL_PATH, Frame, StackStat

_BENEATH_GO = frozenset({FrameKind.KERNEL, FrameKind.SYSCALL, FrameKind.WAKER, FrameKind.REASON, FrameKind.LOST})
_ROOTS = frozenset({"runtime.goexit", "runtime.goexit0", "runtime.goexit.abi0"})


def is_runtime(frame: Frame) -> bool:
    """Whether the frame is the Go runtime's, also under a name linked into another package (``sync.runtime_Semacquire``)."""
    if frame.kind is FrameKind.RUNTIME:
        return True
    if frame.kind is not FrameKind.GO:
        return False
    return _is_runtime_name(frame.name)


def is_runtime_waker(frame: Frame) -> bool:
    """Whether a frame of a waker's stack is the runtime's, or on the kernel's way to where the data arrived."""
    return frame.kind is FrameKind.WAKER and (frame.file == KERNEL_PATH or _is_runtime_name(frame.name))


# Profiles of 100,000 stacks have a few thousand names, and ask millions of times.
_NAMES_KEPT = 1 << 16


@lru_cache(_NAMES_KEPT)
def _is_runtime_name(name: str) -> bool:
    return name.startswith(("runtime.", "internal/runtime/", "_.goready")) or ".runtime_" in name


_STANDARD = frozenset(
    "archive bufio bytes cmp compress container context crypto database debug embed encoding errors expvar flag fmt go hash html"
    " image index internal io iter log maps math mime net os path plugin reflect regexp runtime slices sort strconv strings"
    " structs sync syscall testing text time unicode unique unsafe vendor weak".split()
)
"""First elements of the standard library's import paths, of Go 1.19 to 1.27 (GOROOT/src)."""


@lru_cache(_NAMES_KEPT)
def package_of(function: str) -> str:
    """The import path in a function's name: ``net/http`` of ``net/http.(*conn).serve``."""
    folder, slash, rest = function.rpartition("/")
    return folder + slash + rest.partition(".")[0]


@lru_cache(_NAMES_KEPT)
def plain_name(function: str) -> str:
    """A function's name with its import path as in the source: ``gopkg.in/yaml.v3.Unmarshal`` for ``gopkg.in/yaml%2ev3.Unmarshal``.

    The linker escapes characters that could be taken for the end of the path, and all that is not plain ASCII, as ``%xx``
    (cmd/internal/objabi/path.go: PathToPrefix). The path ends at the first dot after its last slash.
    """
    if "%" not in function:
        return function
    opened = min((at for at in (function.find("("), function.find("[")) if at >= 0), default=len(function))
    end = function.find(".", function.rfind("/", 0, opened) + 1, opened)
    return unquote(function[:end], errors="backslashreplace") + function[end:] if end >= 0 else function


def is_program(frame: Frame) -> bool:
    """Whether a function belongs to the program or to a library of its own, not to the runtime or the standard library."""
    if frame.kind is FrameKind.CGO:
        return True
    return frame.kind is FrameKind.GO and _is_program_name(frame.name)


@lru_cache(_NAMES_KEPT)
def _is_program_name(name: str) -> bool:
    return not _is_runtime_name(name) and package_of(name).partition("/")[0] not in _STANDARD


def own_frames(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """The goroutine's Go and C calls, without the runtime's; empty for the runtime's own goroutines."""
    return tuple(frame for frame in frames if frame.kind not in _BENEATH_GO and not is_runtime(frame))


def is_goroutine_root(frame: Frame) -> bool:
    """Whether it is the return address below a goroutine's first function; every stack has it, so it says nothing."""
    return frame.name in _ROOTS


def is_background(stack: StackStat) -> bool:
    """Whether the goroutine is the runtime's own (GC workers, sweeper, scavenger, finalizer): idle by design, not by fault.

    A finalizer that waits in user code, and main blocked before its ``main.main``, are the user's business.
    """
    root = None
    for frame in reversed(stack.frames):
        if is_goroutine_root(frame) or frame.kind in _BENEATH_GO:
            continue
        if not is_runtime(frame):
            return False
        root = root or frame
    return root is not None and root.name != "runtime.main"


def label_frames(stack: StackStat) -> tuple[Frame, ...]:
    """The stack's profiler labels as frames for its root, outermost first: ``tenant=a``."""
    return tuple(Frame(f"{key}={value}", kind=FrameKind.LABEL) for key, value in stack.labels)


def without_waker(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """The goroutine's own part of a stack, with the kernel's."""
    return tuple(frame for frame in frames if frame.kind is not FrameKind.WAKER)


def waker_of(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """The waker's stack, its root first; with the runtime's frames only if there are no others."""
    waker = tuple(frame for frame in frames if frame.kind is FrameKind.WAKER and not is_goroutine_root(frame))
    return tuple(frame for frame in waker if not is_runtime_waker(frame)) or waker


def folded_frames(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """`frames` without the leaf-side machinery of waiting and without ``goexit``; all frames if nothing else would be left.

    Kernel, syscall and waker frames beyond the machinery stay: they tell what was waited for.
    """
    kept: list[Frame] = []
    frames = (*waker_of(frames), *without_waker(frames))
    last = len(frames)
    while last and is_goroutine_root(frames[last - 1]):
        last -= 1
    index = 0
    while index < last and (frames[index].kind in _BENEATH_GO or is_runtime(frames[index])):
        if frames[index].kind in _BENEATH_GO:
            kept.append(frames[index])
        index += 1
    if index == last:
        return tuple(frames)
    return (*kept, *frames[index:last])


def place_of(frames: Sequence[Frame]) -> int:
    """Where a reader should begin: the index of the innermost frame of the program, or else of the first that is not the runtime's; 0 if
    there is neither."""
    for wanted in (is_program, lambda frame: not is_runtime(frame)):
        index = next((index for index, frame in enumerate(frames) if wanted(frame)), None)
        if index is not None:
            return index
    return 0
