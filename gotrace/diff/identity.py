"""Which stack of one capture is which of another: by the names of its functions.

Addresses, files, lines, inlining and goroutine ids change with every build or run, sockets and wakers with every run, the
kernel's frames with the host: none of them counts. What is left of a stack, its *place*, is state, reason, the boundary to
the kernel (``read``, ``netpoll``) and the goroutine's own functions, from which is taken away what belongs to one Go version:
the runtime's frames (of a goroutine of the runtime itself only the function that it was started with stays), the standard
library's ``internal/`` packages, and in packages sync and syscall all but the function that the caller calls
(``sync.(*Mutex).Lock``, whether ``lockSlow`` or ``internal/sync`` come next).

Between two different builds (build ids differ, or are not known) the names that the compiler makes up lose their numbers as
well, because one more closure in a function renumbers those after it: ``main.run.func2.1`` becomes ``main.run.func``,
``.gowrap3``, ``.deferwrap1`` and Go 1.17's ``.dwrap.2`` become ``.func``, ``-range1`` becomes ``-range``, Go 1.20's ``glob..func1``
becomes ``init.func`` as it is since 1.21, and type arguments ``[...]``. Two closures of one function are then one place if all
else in their stacks is equal; a function that was renamed, or that was inlined into another which now lends its closures
their name, is one place that vanished and one that is new.
"""

from __future__ import annotations

import re
from dataclasses import replace

from gotrace.profile.frames import is_goroutine_root, is_runtime, own_frames, package_of
from gotrace.profile.types import Frame, Profile, StackStat
from gotrace.vocabulary import FrameKind

_WRAPPER = re.compile(r"\.(?:gowrap\d+|deferwrap\d+|dwrap\.\d+)")
_CLOSURE = re.compile(r"\.func\d+(?:\.\d+)*")
_RANGE = re.compile(r"-range\d+")
_ABI = re.compile(r"\.abi(?:0|internal)$")
_TYPES = re.compile(r"\[.*\]", re.DOTALL)


def same_build(before: Profile, after: Profile) -> bool:
    """Both captures are of the same executables, as far as their build ids tell."""
    builds = [{target.build_id for target in profile.targets} for profile in (before, after)]
    return builds[0] == builds[1] and "" not in builds[0]


def stable_name(function: str) -> str:
    """`function` without what the compiler numbers: the same in two builds of the same source, or of much the same."""
    name = _TYPES.sub("[...]", function)
    name = _ABI.sub("", name).replace(".glob..func", ".init.func")
    name = _WRAPPER.sub(".func", name)
    return _RANGE.sub("-range", _CLOSURE.sub(".func", name))


def place_frames(stack: StackStat, exact: bool) -> tuple[Frame, ...]:
    """The frames of the place of `stack`, leaf first. `exact`: names as they are, for two captures of one build."""
    kept = [
        replace(frame, name=frame.name.partition("(")[0]) if frame.kind is FrameKind.SYSCALL else frame
        for frame in stack.frames
        if frame.kind in (FrameKind.SYSCALL, FrameKind.LOST)
    ]
    own = [frame for frame in own_frames(stack.frames) if not frame.name.startswith("internal/")]
    if not own:
        runtime = [frame for frame in stack.frames if is_runtime(frame) and not is_goroutine_root(frame)]
        own = runtime[-1:]
    # The caller's side of a run of the same low-level package says what was called.
    outer = [
        frame
        for index, frame in enumerate(own)
        if package_of(frame.name) not in ("sync", "syscall")
        or index + 1 == len(own)
        or package_of(own[index + 1].name) != package_of(frame.name)
    ]
    frames = [*kept, *outer]
    return tuple(frames) if exact else tuple(replace(frame, name=stable_name(frame.name)) for frame in frames)
