"""Words for a stack, in addition to `gotrace.profile.frames`."""

from __future__ import annotations

from gotrace.profile.frames import (
    folded_frames,
    is_background,
    is_goroutine_root,
    is_runtime,
    is_runtime_waker,
    label_frames,
    waker_of,
    without_waker,
)
from gotrace.profile.types import StackStat

__all__ = (
    "folded_frames", "is_background", "is_goroutine_root", "is_runtime", "is_runtime_waker", "label_frames", "reason_label", "waker_of",
    "without_waker",
)


def reason_label(stack: StackStat) -> str:
    """The leaf that says why: ``[waiting: chan receive]``, or ``[runnable]`` if the state says it all."""
    if not stack.reason or stack.reason == stack.state.value:
        return f"[{stack.state.value}]"
    return f"[{stack.state.value}: {stack.reason}]"
