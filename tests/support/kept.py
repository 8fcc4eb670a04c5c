"""Processes of which serve keeps something, without a trace."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from profiles import durations

from gotrace.common.vocabulary import State
from gotrace.host.choice import Wanted
from gotrace.profile.types import Distribution, Frame, StackStat, Target
from gotrace.serve.options import ServeOptions
from gotrace.serve.recorder import Recorder
from gotrace.serve.slices import Known
from gotrace.serve.steps import Step, Wait
from gotrace.serve.totals import Totals
from gotrace.serve.tracing import Traced, identity_of

S = 1_000_000_000


def stack(reason: str = "sync.Mutex.Lock", state: State = State.WAITING) -> StackStat:
    return StackStat((Frame("main.<b>take"),), state, reason, Distribution(), pid=os.getpid())


def step(*waits: tuple[StackStat, list[int]]) -> Step:
    now = time.monotonic_ns()
    return Step(now - S, now, now - S, [Wait(one, durations(lengths), (0, 0, 0, 0), 0, None) for one, lengths in waits], attached_ns=S)


def options(folder: Path, **named: Any) -> ServeOptions:
    return ServeOptions(Wanted(name="x"), folder=folder / "captures", kill_file=folder / "off", **named)


def traced_with(chosen: ServeOptions, *steps: Step) -> Traced:
    """A process of which something is kept, and that is not traced any more."""
    identity = identity_of(os.getpid())
    assert identity is not None
    traced = Traced(identity, chosen, Totals(), lambda _traced, _fired: None)
    traced.name = "a/../b\x1b[31m"
    traced.recorder = Recorder(traced.ring, lambda _: None)
    traced.recorder.known = Known(Target(traced.pid, "/bin/x", "x", "go1.27.3", "", "", True, False, False, "amd64"), "exact")
    for one in steps:
        traced.ring.add(one)
    return traced
