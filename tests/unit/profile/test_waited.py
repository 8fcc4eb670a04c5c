"""What goroutines waited for where no probe saw them park."""

from __future__ import annotations

from typing import Any

from gotrace.common.vocabulary import FrameKind, State
from gotrace.kernel.waited import reasons_of
from gotrace.profile.things import Waited
from gotrace.profile.types import Distribution, Frame, StackStat
from gotrace.profile.waited import ObjectNames
from gotrace.watch.tally import Tally

REASONS = (
    "", "IO wait", "chan receive (nil chan)", "select (no cases)", "chan receive", "select", "sleep", "sync.Mutex.Lock", "GC worker (idle)",
)
NAMES = ObjectNames(reasons_of(REASONS), REASONS)
MS = 1_000_000


def test_a_sample_knows_files_alone() -> None:
    plain = (Frame("main.f"),)
    found = {reason: NAMES.of_sample(State.WAITING, reason, plain) for reason in (*REASONS, "never heard of")}
    unknown = Waited("unknown")
    assert found == {
        "": None, "IO wait": unknown, "chan receive (nil chan)": Waited("chan", None, "nil"),
        "select (no cases)": Waited("select", None, "no cases"),
        "chan receive": unknown, "select": unknown, "sleep": Waited("timer"), "sync.Mutex.Lock": unknown, "GC worker (idle)": None,
        "never heard of": None,
    }
    assert NAMES.of_sample(State.RUNNABLE, "sync.Mutex.Lock", plain) is None
    reading = (Frame("read(fd 7 → pipe)", kind=FrameKind.SYSCALL), *plain)
    assert NAMES.of_sample(State.SYSCALL, "read", reading) == Waited("fd", None, "fd 7 → pipe")


def test_waits_that_samples_saw_are_for_an_unknown_object() -> None:
    nothing: Any = None
    for names, waited in ((NAMES, Waited("unknown")), (None, None)):
        tally = Tally(1, nothing, nothing, False, False, names)
        for total in (5, 9):  # the later estimate replaces the earlier one
            estimate = StackStat((Frame("main.f"),), State.WAITING, "sync.Mutex.Lock", Distribution(2, total * MS, total * MS), pid=1)
            changed, = tally.take_samples(0, [(estimate, {7})])
        assert changed.waited == waited and [stack.distribution.total_ns for stack in tally.stacks()] == [9 * MS]
