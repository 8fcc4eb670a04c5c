"""Causes as a reader is told of them: one line that says who did what, where, and why the request waited for that."""

from __future__ import annotations

import pytest
from profiles import GOEXIT, GOPARK, MS, go, runtime, stat

from gotrace.common.vocabulary import READY, FrameKind, State
from gotrace.profile.requests import RUNNING, UNKNOWN_STATE
from gotrace.profile.types import Frame, StackStat
from gotrace.watch.requests.causes import Causes
from gotrace.watch.requests.followed import RawCause
from gotrace.watch.requests.path import How, Step

SERVE = "net/http.serverHandler.ServeHTTP"
OWN = [go("main.load"), go("main.handle"), go(SERVE), go("net/http.(*conn).serve"), GOEXIT]
WORKER = [go("main.compute"), go("main.(*Pool).run"), GOEXIT]
FILE = "fsync(fd 8 → /var/lib/wal/0.wal)"


def waker(*names: str) -> list[Frame]:
    return [Frame(name, kind=FrameKind.WAKER) for name in names]


def called(text: str) -> Frame:
    return Frame(text, kind=FrameKind.SYSCALL)


def stack(frames: list[Frame], state: State = State.WAITING, reason: str = "") -> StackStat:
    return stat(frames, [MS], state, reason)


STACKS = {
    1: stack([GOPARK, runtime("timeSleep", "time.go"), go("time.Sleep"), *OWN], reason="sleep"),
    2: stack([Frame("fdatasync", kind=FrameKind.KERNEL), called(FILE), go("os.(*File).Sync"), *WORKER], State.SYSCALL, "fsync"),
    3: stack([GOPARK, runtime("chanrecv1"), *OWN, *waker("main.(*Pool).run", "main.reply", "runtime.chansend1")], reason="chan receive"),
    4: stack(WORKER, State.RUNNABLE, READY),
    5: stack([called("read(fd 5 → tcp 127.0.0.1:4→127.0.0.1:6379)"), go("net.(*conn).Read"), *OWN], reason="IO wait"),
    6: stack(OWN, State.RUNQUEUE, "thread preempted"),
    7: stack(OWN, State.RUNQUEUE, "CPU quota"),
    8: stack(OWN, State.PREEMPTED, "preempted"),
    9: stack(OWN, State.NETPOLL, "netpoll"),
    10: stack([GOPARK, runtime("gcBgMarkWorker", "mgc.go"), GOEXIT], reason="GC worker (idle)"),
}
CAUSES = Causes(STACKS.get)


def text(how: How, row: int, via: int = 0, own: bool = False) -> str:
    return CAUSES.of_raw(RawCause(how, row, via, 0, own), SERVE).text


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (1, "sleep in main.load"),
        (5, "IO wait of fd 5 → tcp 127.0.0.1:4→127.0.0.1:6379 in main.load"),
        (6, "waiting for a CPU in main.load"),
        (7, "out of CPU quota in main.load"),
        (8, "preempted, waiting for a P in main.load"),
        (9, "waiting for the netpoller in main.load"),
    ],
)
def test_own_waits(row: int, line: str) -> None:
    assert text(How.WAITED, row, own=True) == line


def test_waits_of_others_say_who_and_why_they_were_waited_for() -> None:
    at = ", in goroutine main.(*Pool).run, waited for by chan receive"
    assert text(How.WAITED, 2, via=3) == f"fsync of fd 8 → /var/lib/wal/0.wal in main.compute{at}"
    assert text(How.WAITED, 4, via=3) == f"waiting for a P in main.compute{at}"


def test_running_says_up_to_where() -> None:
    assert text(How.RAN_UNTIL_WAIT, 1, own=True) == "running, up to main.load"
    # Its waker is what the row of the request's wait tells.
    assert text(How.RAN_UNTIL_WAKE, 3, via=3) == "running, up to main.reply, in goroutine main.(*Pool).run, waited for by chan receive"
    assert SERVE in text(How.RAN_TO_THE_END, 0, own=True)


def test_states_and_frames_go_along() -> None:
    cause = CAUSES.of(Step(1, 0, 10, How.WAITED, 2, 3), SERVE, own=False)
    assert (cause.state, cause.reason, cause.object) == ("syscall", "fsync", "fd 8 → /var/lib/wal/0.wal")
    assert [frame.name for frame in cause.frames] == [frame.name for frame in STACKS[2].frames]
    ran = CAUSES.of(Step(1, 0, 10, How.RAN_UNTIL_WAKE, 3, 3), SERVE, own=False)
    assert (ran.state, ran.reason) == (RUNNING, RUNNING)
    # Leaf first, as everywhere; and no frames of a waker that is somebody else's.
    assert [frame.name for frame in ran.frames] == ["main.reply", "main.(*Pool).run"]
    assert not any(frame.kind is FrameKind.WAKER for frame in ran.frames)


@pytest.mark.parametrize(("how", "row"), [(How.UNKNOWN, 0), (How.WAITED, 999), (How.RAN_UNTIL_WAIT, 999), (How.RAN_UNTIL_WAKE, 0)])
def test_what_is_not_known_is_called_that(how: How, row: int) -> None:
    cause = CAUSES.of(Step(1, 0, 10, how, row, 0), SERVE, own=True)
    assert (cause.text, cause.state, cause.frames) == ("not known", UNKNOWN_STATE, ())


def test_waits_without_a_function_of_the_program() -> None:
    assert text(How.WAITED, 10, own=True) == "GC worker (idle)"
