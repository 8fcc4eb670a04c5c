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
from enum import Enum

from gotrace.common.vocabulary import FrameKind
from gotrace.profile.frames import is_goroutine_root, is_runtime, package_of
from gotrace.profile.types import Frame, Profile, StackStat

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


class _Kind(Enum):
    NONE = 0
    OWN = 1
    BOUNDARY = 2
    RUNTIME = 3


_Known = tuple[Frame, _Kind, int, Frame, str]
"""A frame, what it counts as, the number of its name, the frame as it is shown, its package if that is low-level."""


class Places:
    """The places of stacks. `exact`: names as they are, for two captures of one build. One object serves both captures: equal
    keys are the same place."""

    def __init__(self, exact: bool) -> None:
        self._exact = exact
        self._numbers: dict[tuple[str, str], int] = {}
        # By identity: frames are shared by the stacks that have them, and what is kept here stays what it is.
        self._known: dict[int, _Known] = {}

    def of(self, stack: StackStat) -> tuple[tuple[int, ...], tuple[Frame, ...]]:
        """(key, frames leaf first)."""
        kept: list[_Known] = []
        own: list[_Known] = []
        runtime: _Known | None = None
        for frame in stack.frames:
            known = self._known.get(id(frame))
            if known is None:
                known = self._known[id(frame)] = self._look(frame)
            kind = known[1]
            if kind is _Kind.OWN:
                # The caller's side of a run of the same low-level package says what was called.
                if own and known[4] and own[-1][4] == known[4]:
                    own.pop()
                own.append(known)
            elif kind is _Kind.BOUNDARY:
                kept.append(known)
            elif kind is _Kind.RUNTIME:
                runtime = known
        if own:
            kept += own
        elif runtime is not None:
            kept.append(runtime)
        return tuple(known[2] for known in kept), tuple(known[3] for known in kept)

    def _look(self, frame: Frame) -> _Known:
        kind, package, name = _Kind.NONE, "", frame.name
        if frame.kind in (FrameKind.SYSCALL, FrameKind.LOST):
            kind = _Kind.BOUNDARY
            name = name.partition("(")[0] if frame.kind is FrameKind.SYSCALL else name
        elif frame.kind in (FrameKind.GO, FrameKind.RUNTIME, FrameKind.CGO):
            if is_runtime(frame):
                kind = _Kind.NONE if is_goroutine_root(frame) else _Kind.RUNTIME
            elif not name.startswith("internal/"):
                kind = _Kind.OWN
                package = package_of(name) if package_of(name) in ("sync", "syscall") else ""
        name = name if self._exact else stable_name(name)
        number = self._numbers.setdefault((name, frame.kind.value), len(self._numbers))
        return frame, kind, number, replace(frame, name=name), package
