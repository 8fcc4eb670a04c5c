"""One run, many sinks: each is handed all that a trace yields, and one that fails takes no other with it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from gobuild import GO_VERSIONS, build
from workload import Workload

from gotrace.capture.reader import read_capture
from gotrace.common.errors import GotraceError
from gotrace.profile.types import Profile
from gotrace.run.options import AttachOptions
from gotrace.run.session import Session
from gotrace.run.sinks import Delta, Moment, Progress, Sink

pytestmark = [pytest.mark.bpf, pytest.mark.beside]


class Recorder(Sink):
    """Keeps what it is handed."""

    name = "recorder"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.totals: dict[tuple, int] = {}
        self.intervals = self.pauses = 0

    def opened(self, profile: Profile) -> None:
        self.calls.append("opened")

    def take(self, delta: Delta) -> None:
        self.calls.append("take")
        self.totals |= {stack.key: stack.distribution.total_ns for stack in delta.stacks}
        self.intervals += sum(not interval.goes_on for interval in delta.intervals)
        self.pauses += len(delta.pauses)

    def commit(self, moment: Moment) -> None:
        self.calls.append("commit")
        assert not moment.profile().complete and moment.waits()

    def show(self, progress: Progress) -> None:
        self.calls.append("show")

    def closed(self, profile: Profile) -> None:
        self.calls.append("closed")
        self.profile = profile

    def write(self, profile: Profile) -> None:
        self.calls.append("write")


class Failing(Sink):
    """Raises in one of its methods, each time that it is called."""

    def __init__(self, where: str, error: Exception) -> None:
        self.name = f"failing in {where}"
        self.calls = 0

        def fail(*_arguments: object) -> None:
            self.calls += 1
            raise error

        setattr(self, where, fail)


def trace(folder: Path, *sinks: Sink) -> tuple[Session, Profile]:
    with Workload(build("mixture", GO_VERSIONS[-1], "cgo"), "-only", "sleep,chan receive,read") as workload:
        outputs = tuple(str(folder / f"x{suffix}") for suffix in (".gotrace", ".html", ".json", ".pftrace"))
        with Session(AttachOptions((workload.pid,), duration_ns=2_500_000_000, outputs=outputs)) as session:
            session.sinks += sinks
            session.prepare()
            profile = session.run()
    return session, profile


def test_a_sink_is_handed_all_that_a_trace_yields(tmp_path: Path) -> None:
    recorder = Recorder()
    session, profile = trace(tmp_path, recorder)
    assert session.failure is None
    calls = recorder.calls
    assert calls[0] == "opened" and calls[-2:] == ["closed", "write"]
    assert calls.count("commit") >= 1 and calls.count("take") == calls.count("commit") + 1 and "show" in calls
    assert recorder.totals == {stack.key: stack.distribution.total_ns for stack in profile.stacks}
    assert recorder.intervals == len(profile.timeline) > 0
    assert recorder.pauses == len(profile.pauses)


@pytest.mark.full("untold")
@pytest.mark.parametrize("error", [GotraceError("the reader is gone"), ZeroDivisionError("division by zero")], ids=["told", "untold"])
@pytest.mark.parametrize("where", ["opened", "take", "commit", "show", "closed", "write"])
def test_one_that_fails_takes_no_other_with_it(where: str, error: Exception, tmp_path: Path) -> None:
    failing, recorder = Failing(where, error), Recorder()
    began = time.monotonic()
    session, profile = trace(tmp_path, failing, recorder)
    assert time.monotonic() - began > 2.5  # it went on to its end
    assert failing.calls == 1
    assert str(error) in str(session.failure)
    if not isinstance(error, GotraceError):
        assert failing.name in str(session.failure)
    assert {path.name for path in session.written} == {"x.gotrace", "x.html", "x.json", "x.pftrace"}
    stored = read_capture(tmp_path / "x.gotrace")
    assert stored.complete and sum(s.distribution.total_ns for s in stored.stacks) == sum(s.distribution.total_ns for s in profile.stacks)
    assert recorder.profile.complete and recorder.calls[-1] == "write"
