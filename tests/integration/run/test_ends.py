"""However a trace ends, the target goes on unharmed, no probe stays, and the capture is valid."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attach import Attached, probes_of
from gobuild import EXTENT, build
from summaries import OF_THREADS
from workload import Workload

from gotrace.capture.reader import read_capture
from gotrace.common.vocabulary import FrameKind, Loss

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

ROUNDS = 100 if EXTENT == "every" else 20
# The churn's recursion is deeper than the walk goes, and its stacks are copied all the time: counted, as it must be.
SHALLOW = {Loss.STACK_TRUNCATED, Loss.STACK_INCOMPLETE, *OF_THREADS}


@pytest.fixture
def churn():
    with Workload(build("churn", "1.27.3", "stripped")) as workload:
        yield workload


def progress(workload: Workload) -> int:
    workload.send("p")
    return int(workload.read_line(20).split()[1])


def test_the_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    """While tens of thousands of stacks are read and written: the capture has what was committed, and no log beside it."""
    capture = tmp_path / "x.gotrace"
    with Workload(build("parked", "1.27.3", "stripped"), "-goroutines", "40000") as workload:
        with Attached(workload.pid, "-d", "0", "--per-goroutine", "-o", capture, "-o", tmp_path / "x.html") as trace:
            deadline = time.monotonic() + 30
            while not read_capture(capture).stacks and time.monotonic() < deadline:
                time.sleep(0.2)
            trace.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert trace.process.poll() is None
            trace.process.send_signal(signal.SIGINT)
            _, err = trace.process.communicate(timeout=20)
        assert trace.process.returncode == 1
        assert "error: interrupted while the outputs were being made: not all are there" in err
        assert f"hint: gotrace report {capture} has what was committed" in err
        assert not probes_of(workload.pid)
    left = read_capture(capture)
    assert not left.complete and left.stacks
    assert [path.name for path in tmp_path.iterdir()] == [capture.name]


def open_files(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(os.readlink(link))
    return found


def is_healthy(workload: Workload) -> None:
    before = progress(workload)
    time.sleep(0.05)
    assert progress(workload) > before
    assert not probes_of(workload.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_normally(churn: Workload, tmp_path: Path, number: int) -> None:
    capture = tmp_path / "x.gotrace"
    with Attached(churn.pid, "-d", "0", "-o", capture, "-o", tmp_path / "x.html") as trace:
        time.sleep(0.3)
        trace.end(number)
    profile = read_capture(capture)
    assert profile.complete and profile.stacks
    assert (tmp_path / "x.html").stat().st_size > 1000
    is_healthy(churn)


def test_it_stands_back_while_it_traces(churn: Workload, tmp_path: Path) -> None:
    with Attached(churn.pid, "-d", "0", "-o", tmp_path / "x.gotrace") as trace:
        # Where all CPUs are busy it pauses with that; at first it does so.
        assert wait_for(lambda: os.getpriority(os.PRIO_PROCESS, trace.process.pid) == 19)
        trace.end()


def wait_for(what) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.001)
    return False


def test_the_capture_has_what_was_printed(tmp_path: Path, gotrace) -> None:
    """Also of stacks that were not seen in the last second."""
    with Workload(build("service", "1.27.3", "stripped")) as service:
        with Attached(service.pid, "-d", "0", "--json", "-o", tmp_path / "x.gotrace") as trace:
            time.sleep(2.5)
            printed = trace.end_json()
    report = gotrace("report", tmp_path / "x.gotrace", "--json")
    assert sorted(map(str, json.loads(report.stdout).pop("stacks"))) == sorted(map(str, printed["stacks"]))
    assert all(stack["goroutines"] for stack in printed["stacks"])


def test_the_duration_ends_it(churn: Workload, tmp_path: Path, gotrace) -> None:
    result = gotrace("attach", churn.pid, "-d", "500ms", "-o", tmp_path / "x.gotrace")
    assert result.returncode == 0, result.stderr
    profile = read_capture(tmp_path / "x.gotrace")
    assert 500_000_000 <= profile.window.duration_ns < 20_000_000_000
    is_healthy(churn)


def test_kill_9_leaves_a_valid_capture(churn: Workload, tmp_path: Path) -> None:
    capture = tmp_path / "x.gotrace"
    with Attached(churn.pid, "-d", "0", "-o", capture) as trace:
        deadline = time.monotonic() + 30  # on a busy machine the commits of who stands back come late
        while read_capture(capture).window.duration_ns < 1_000_000_000:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        trace.process.send_signal(signal.SIGKILL)
        trace.process.wait()
    profile = read_capture(capture)
    assert not profile.complete
    assert profile.window.duration_ns > 1_000_000_000
    assert profile.stacks and sum(s.distribution.count for s in profile.stacks) > 100
    with sqlite3.connect(capture) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    is_healthy(churn)


def test_kill_9_at_once_leaves_a_valid_capture(churn: Workload, tmp_path: Path) -> None:
    capture = tmp_path / "x.gotrace"
    with Attached(churn.pid, "-d", "0", "-o", capture) as trace:
        trace.process.kill()
        trace.process.wait()
    assert not read_capture(capture).complete
    is_healthy(churn)


def test_the_target_s_exit_ends_it(tmp_path: Path) -> None:
    capture = tmp_path / "x.gotrace"
    with Workload(build("selftimed", "1.27.3", "stripped"), "-scenarios", "sleep") as workload:
        with Attached(workload.pid, "-d", "0", "-o", capture) as trace:
            workload.send("go")
            workload.read_json(20)
            workload.finish()
            trace.process.wait(20)
            assert trace.process.returncode == 0
    profile = read_capture(capture)
    assert profile.complete
    sleeps = [stack for stack in profile.stacks if stack.reason == "sleep" and any(f.name == "main.sleepOnce" for f in stack.frames)]
    assert sum(stack.distribution.count for stack in sleeps) == 40
    # The runtime's own goroutines were parked all the time: their stacks were read while the process lived.
    assert any(stack.reason == "force gc (idle)" for stack in profile.stacks)


def test_exec_ends_it(tmp_path: Path) -> None:
    capture = tmp_path / "x.gotrace"
    with Workload(build("execer", "1.27.3", "stripped")) as workload:
        with Attached(workload.pid, "-d", "0", "-o", capture) as trace:
            workload.send("exec")
            trace.process.wait(20)
            assert trace.process.returncode == 0
        assert read_capture(capture).complete
        # The new program is the same executable: probes left in the file would be hit there.
        assert workload.read_line(10).startswith("ready again")
        assert not probes_of(workload.pid)


def test_interrupted_before_anything_was_recorded(churn: Workload, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "gotrace", "attach", str(churn.pid), "-o", tmp_path / "x.gotrace"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    # It has the executable open: it reads it, compiles, has the programs verified. No probe is placed yet.
    executable, deadline = os.readlink(f"/proc/{churn.pid}/exe"), time.monotonic() + 20
    while executable not in open_files(process.pid) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, ""), errors
    assert errors.startswith("error: interrupted") and len(errors.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    is_healthy(churn)


@pytest.mark.full
@pytest.mark.slow
def test_attach_and_detach_a_hundred_times(churn: Workload, tmp_path: Path) -> None:
    from gotrace.run.options import AttachOptions
    from gotrace.run.session import Session

    for number in range(ROUNDS):
        options = AttachOptions((churn.pid,), duration_ns=30_000_000, outputs=(str(tmp_path / f"{number}.gotrace"),))
        with Session(options) as session:
            session.prepare()
            profile = session.run()
        assert profile.stacks
        lost = {loss: count for loss, count in profile.losses.items() if count and loss not in SHALLOW}
        assert not lost, (number, lost, [stack for stack in profile.stacks if any(f.kind is FrameKind.LOST for f in stack.frames)])
    is_healthy(churn)
    code, rest = churn.finish()
    assert code == 0 and rest.startswith("ok"), rest


@pytest.mark.full
@pytest.mark.slow
def test_kill_9_a_hundred_times(churn: Workload, tmp_path: Path) -> None:
    for number in range(ROUNDS):
        child = os.fork()
        if child == 0:
            _trace_until_killed(churn.pid, tmp_path / f"{number}.gotrace")
        # Wherever it is: loading, attaching, tracing.
        time.sleep(0.15 + 0.6 * number / ROUNDS)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    is_healthy(churn)
    code, rest = churn.finish()
    assert code == 0 and rest.startswith("ok"), rest


def _trace_until_killed(pid: int, capture: Path) -> None:
    from gotrace.run.options import AttachOptions
    from gotrace.run.session import Session

    try:
        with Session(AttachOptions((pid,), duration_ns=0, outputs=(str(capture),))) as session:
            session.prepare()
            session.run()
    finally:
        os._exit(1)
