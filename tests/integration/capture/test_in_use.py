"""Others open, lock and copy the capture while it is written: the trace goes on, and all its outputs are there."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from attach import Attached
from gobuild import build
from workload import Workload

from gotrace.capture.reader import read_capture
from gotrace.profile.types import Profile, StackStat

pytestmark = [pytest.mark.bpf, pytest.mark.beside]


@pytest.fixture
def churn():
    with Workload(build("churn", "1.27.3", "stripped")) as workload:
        yield workload


def report(path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gotrace", "report", str(path), *map(str, arguments)], capture_output=True, text=True, timeout=180, check=False
    )


def wait_for_stacks(path: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            if db.execute("SELECT count(*) FROM stack").fetchone()[0]:
                return
        time.sleep(0.1)
    raise AssertionError("nothing was committed")


def copy_of(path: Path) -> Profile:
    copy = path.with_name("copy.gotrace")
    for old in path.parent.glob("copy.gotrace*"):
        old.unlink()
    shutil.copyfile(path, copy)
    return read_capture(copy)


@pytest.mark.full("idle")
@pytest.mark.parametrize("reader", ["idle", "within a transaction"])
def test_readers_that_stay(churn: Workload, tmp_path: Path, reader: str) -> None:
    capture, page, profile = (tmp_path / f"x{suffix}" for suffix in (".gotrace", ".html", ".pb.gz"))
    with Attached(churn.pid, "-d", "0", "-o", capture, "-o", page, "-o", profile) as trace:
        wait_for_stacks(capture)
        with closing(sqlite3.connect(capture, isolation_level=None)) as db:
            if reader != "idle":
                db.execute("BEGIN")
            assert db.execute("SELECT count(*) FROM stack").fetchone()[0]
            out = trace.end()
    assert "off the CPU in" in out and "Wrote" in trace.said
    assert f"{capture.name}-wal stays until its readers close" in trace.said
    assert page.stat().st_size > 1000 and profile.stat().st_size > 500
    again = read_capture(capture)
    assert again.complete and again.stacks


@pytest.mark.full
def test_a_lock_in_the_midst(churn: Workload, tmp_path: Path) -> None:
    """Held for several commits: the trace goes on, and what they lacked is in the later ones."""
    capture = tmp_path / "x.gotrace"
    with Attached(churn.pid, "-d", "0", "-o", capture) as trace:
        wait_for_stacks(capture)
        with closing(sqlite3.connect(capture, isolation_level=None)) as db:
            db.execute("PRAGMA busy_timeout = 10000")
            db.execute("BEGIN IMMEDIATE")
            began_ns = time.monotonic_ns()
            trace.wait_until_said("database is locked; it is tried again")
            time.sleep(2)
            held_ns = time.monotonic_ns() - began_ns
            assert trace.process.poll() is None
            db.execute("ROLLBACK")
        trace.end()
    again = read_capture(capture)
    assert again.complete and again.window.duration_ns > held_ns


@pytest.mark.full
def test_a_lock_until_after_the_end(churn: Workload, tmp_path: Path) -> None:
    """The capture is not whole: that is said, last, and everything else is there."""
    capture, page = tmp_path / "x.gotrace", tmp_path / "x.html"
    with Attached(churn.pid, "-d", "0", "-o", capture, "-o", page) as trace:
        wait_for_stacks(capture)
        with closing(sqlite3.connect(capture, isolation_level=None)) as db:
            db.execute("PRAGMA busy_timeout = 10000")
            db.execute("BEGIN IMMEDIATE")
            trace.process.send_signal(2)
            out, err = trace.process.communicate(timeout=180)
            db.execute("ROLLBACK")
    assert trace.process.returncode == 1 and "off the CPU in" in out
    error, hint = err.splitlines()[-2:]
    assert error.startswith(f"error: the capture {capture} can't be written: ") and hint.endswith(f"gotrace report {capture}"), err
    assert f"Wrote {page}" in err and f"Wrote {capture}" not in err and page.stat().st_size > 1000
    assert not read_capture(capture).complete


@pytest.mark.full
def test_copies_of_the_one_file(churn: Workload, tmp_path: Path) -> None:
    """At any moment: each is a capture, hardly older than a commit; nothing but the file is copied."""
    capture = tmp_path / "x.gotrace"
    with Attached(churn.pid, "-d", "0", "-o", capture) as trace:
        wait_for_stacks(capture)
        begin, last, copies = time.monotonic(), 0, 0
        while time.monotonic() < begin + 5:
            made = copy_of(capture)
            assert made.window.duration_ns >= last and not made.complete
            # One that is made before the first second's commit has none yet.
            assert made.stacks or made.window.duration_ns < 1_000_000_000
            last, copies = made.window.duration_ns, copies + 1
        said = report(tmp_path / "copy.gotrace").stdout
        assert "INCOMPLETE" in said and "of 0 goroutines" not in said
        # The copies went on with the trace: it commits every second, later where the machine is busy.
        assert last > 2_000_000_000 and copies > 5
        trace.end()
    assert copy_of(capture).complete


def test_the_one_file_after_a_kill(churn: Workload, tmp_path: Path) -> None:
    capture = tmp_path / "x.gotrace"
    with Attached(churn.pid, "-d", "0", "-o", capture) as trace:
        wait_for_stacks(capture)
        deadline = time.monotonic() + 60
        while not copy_of(capture).stacks and time.monotonic() < deadline:
            time.sleep(0.1)  # until the first commit has been folded into the file
        trace.process.kill()
        trace.process.wait()
    whole, alone = read_capture(capture), copy_of(capture)
    # It may have been killed between a commit and its folding.
    assert alone.stacks and not alone.complete and 0 <= whole.window.duration_ns - alone.window.duration_ns < 5_000_000_000


# The way in, and what it is a wait for.
WAITS = {
    "channel": ("main.receive", "chan receive"), "raw": ("main.readRaw", "read"), "fault": ("main.touch", "page fault"),
    "asked": ("main.readAsked", "read"),
}


def waits_at(profile: Profile, function: str, reason: str) -> list[StackStat]:
    return [stack for stack in profile.stacks if stack.reason == reason and function in {frame.name for frame in stack.frames}]


@pytest.mark.complete("channel", "fault-before")
@pytest.mark.full("channel-before")
@pytest.mark.parametrize("before", [True, False], ids=["before the window", "within it"])
@pytest.mark.parametrize("kind", WAITS)
def test_a_wait_that_goes_on_is_in_what_a_kill_leaves(tmp_path: Path, kind: str, before: bool) -> None:
    """Nobody has seen it end; in the one file it has lasted since it began, or for the whole window."""
    capture = tmp_path / "x.gotrace"
    with Workload(build("stuck", "1.27.3", "stripped"), kind) as workload:
        if before:
            workload.send("b")
            workload.read_line(20)
        with Attached(workload.pid, "-d", "0", "-o", capture) as trace:
            if not before:
                workload.send("b")
                workload.read_line(20)
            time.sleep(4)
            trace.process.kill()
            trace.process.wait()
        left = copy_of(capture)
        assert not left.complete and left.window.duration_ns > 1_000_000_000
        waits = waits_at(left, *WAITS[kind])
        # The last commit may have come while the kernel handled a signal for the thread, which goes on with the same wait then.
        assert sum(stack.in_progress for stack in waits) in ((1,) if kind == "channel" else (0, 1)), waits
        total = sum(stack.distribution.total_ns for stack in waits)
        assert total >= (0.8 if before else 0.6) * left.window.duration_ns
        assert total <= 1.001 * left.window.duration_ns + 5_000_000
        assert not left.missing
        said = report(tmp_path / "copy.gotrace").stdout
        assert "INCOMPLETE" in said and WAITS[kind][0] in said


@pytest.mark.parametrize("kind", WAITS)
def test_a_wait_that_went_on_in_commits_is_one_at_the_end(tmp_path: Path, kind: str) -> None:
    capture = tmp_path / "x.gotrace"
    with Workload(build("stuck", "1.27.3", "stripped"), kind) as workload:
        with Attached(workload.pid, "-d", "0", "-o", capture) as trace:
            workload.send("b")
            workload.read_line(20)
            time.sleep(2.5)
            assert waits_at(read_capture(capture), *WAITS[kind])
            workload.send("e")
            took = int(workload.read_line(20).split()[1])
            time.sleep(1.2)
            during = read_capture(capture)
            trace.end()
        for profile in (during, read_capture(capture)):
            [wait] = waits_at(profile, *WAITS[kind])
            assert (wait.distribution.count, wait.in_progress) == (1, 0)
            assert abs(wait.distribution.total_ns - took) < 0.05 * took
        with closing(sqlite3.connect(capture)) as db:
            doubled = "SELECT count(*) FROM stack GROUP BY target, state, reason, goid, frames HAVING count(*) > 1"
            assert not db.execute(doubled).fetchall()


def test_what_is_lacking_of_waits_in_progress_is_told(tmp_path: Path) -> None:
    """More goroutines than are looked at as a window begins."""
    capture = tmp_path / "x.gotrace"
    with Workload(build("parked", "1.27.3", "stripped"), "-goroutines", "30000") as workload:
        with Attached(workload.pid, "-d", "0", "-o", capture) as trace:
            wait_for_stacks(capture)
            time.sleep(2)
            trace.process.kill()
            trace.process.wait()
    left = copy_of(capture)
    assert {missing.stage for missing in left.missing} == {"waits in progress"}
    assert "MISSING waits in progress: " in report(tmp_path / "copy.gotrace").stdout


def test_what_is_to_be_known_is_told_from_the_start_and_kept(churn: Workload, tmp_path: Path) -> None:
    """A process that is stopped from outside: a note as the trace starts, in the summary, the capture and another format."""
    capture, profile = tmp_path / "x.gotrace", tmp_path / "x.pb.gz"
    os.kill(churn.pid, signal.SIGSTOP)
    try:
        with Attached(churn.pid, "-d", "500ms", "--json", "-o", capture, "-o", profile) as trace:
            assert "note: the process was stopped" in trace.process.stderr.readline()
            summary = trace.result_json()
    finally:
        os.kill(churn.pid, signal.SIGCONT)
    again = read_capture(capture)
    assert again.notes == summary["notes"] and any("was stopped" in note for note in again.notes)
    halted = sum(stack.halted_ns for stack in again.stacks)
    assert halted == sum(stack["halted_ns"] for stack in summary["stacks"]) > 0
    assert b"note: the process was stopped" in gzip.decompress(profile.read_bytes())
    said = report(capture).stdout.splitlines()
    assert said[1].startswith("note: the process was stopped")
