"""What is written when a trigger fires, and how much of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from kept import options, stack, step, traced_with
from prerequisites import unavailable
from profiles import durations

from gotrace.capture.reader import read_capture
from gotrace.common.errors import GotraceError
from gotrace.serve.evidence import Evidence
from gotrace.serve.jobs import Job
from gotrace.serve.ring import Ring
from gotrace.serve.steps import Step, Wait
from gotrace.serve.tracing import Traced
from gotrace.serve.writing import LOG

S = 1_000_000_000
MS = 1_000_000


def written(evidence: Evidence, *jobs: Job) -> None:
    evidence.start()
    for job in jobs:
        evidence.ask(job)
    evidence.finish(30)


def job(traced: Traced, kind: str = "trigger", after_s: int = 0, reason: str = "max > 1s (it is 2 s)") -> Job:
    now = time.monotonic_ns()
    return Job(traced, kind, now, now + after_s * S, [reason], ["max > 1s"])


def test_a_capture_its_page_and_a_line(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    chosen = options(tmp_path)
    traced = traced_with(chosen, step((stack(), [1000, 2000])))
    # Due in an hour: the end comes first, and what is pending is written.
    written(Evidence(chosen, lines.append), job(traced, after_s=3600))
    line, = lines
    assert line["kind"] == "trigger" and line["reason"] == "max > 1s (it is 2 s)" and line["triggers"] == ["max > 1s"]
    capture, page = map(Path, line["files"])
    assert capture.parent == tmp_path / "captures" and capture.name.startswith(f"gotrace-a_.._b_{'_'}31m-{os.getpid()}-")
    profile = read_capture(capture)
    assert profile.stacks[0].distribution.total_ns == 3000 and "captured by gotrace serve: max > 1s (it is 2 s)" in profile.notes
    assert b"<b>take" not in page.read_bytes() and json.loads((capture.parent / LOG).read_text()) == line


@pytest.mark.parametrize(("user", "reached"), [(0, True), (65534, True), (65534, False)])
def test_only_their_owner_reads_captures(monkeypatch: pytest.MonkeyPatch, user: int, reached: bool) -> None:
    """Root, or the user behind sudo, who may enter the folder, too, if it is where that user gets."""
    if user and os.geteuid():
        unavailable("needs root (remedy: sudo)")
    top = tempfile.TemporaryDirectory()  # that of pytest is root's alone
    tmp_path = Path(top.name)
    tmp_path.chmod(0o755 if reached else 0o700)
    monkeypatch.setenv("SUDO_UID", str(user))
    monkeypatch.setenv("SUDO_GID", str(user))
    before = os.umask(0)
    try:
        chosen = options(tmp_path)
        asked = job(traced_with(chosen, step((stack(), [1000]))))
        asked.dumped = b"{}"
        written(Evidence(chosen, lambda _: None), asked)
    finally:
        os.umask(before)
    paths = [tmp_path / "captures", *(tmp_path / "captures").iterdir()]
    owner = user or os.geteuid()
    found = [(path.stat().st_mode & 0o777, path.stat().st_uid) for path in paths]
    top.cleanup()
    assert found == [(0o700, owner if reached else 0), *[(0o600, owner)] * 4]


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    chosen = options(tmp_path)
    chosen.folder.mkdir()
    chosen.folder.chmod(0o751)
    written(Evidence(chosen, lambda _: None), job(traced_with(chosen, step((stack(), [1000])))))
    assert chosen.folder.stat().st_mode & 0o777 == 0o751 and len(list(chosen.folder.iterdir())) == 3


def test_one_capture_for_all_that_fires_at_once(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    chosen = options(tmp_path)
    traced = traced_with(chosen, step((stack(), [1000])))
    written(Evidence(chosen, lines.append), job(traced, after_s=3600), job(traced, after_s=3600, reason="stopped > 5ms (it is 6 ms)"))
    assert [line["reason"] for line in lines] == ["max > 1s (it is 2 s); stopped > 5ms (it is 6 ms)"]


def test_a_trigger_is_not_lost_in_a_capture_of_another_time(tmp_path: Path) -> None:
    """A request's stretch is long over, a signal's capture is due before the trigger's: none of them shows what fires now."""
    lines: list[dict[str, Any]] = []
    chosen = options(tmp_path)
    traced = traced_with(chosen, step((stack(), [1000])))
    asked = job(traced, "request", reason="POST /capture")
    asked.begin_ns, asked.until_ns, asked.done = 1, time.monotonic_ns(), lambda _line: None
    written(Evidence(chosen, lines.append), asked, job(traced, "signal", reason="SIGUSR1"), job(traced, after_s=3600))
    assert [(line["kind"], line["reason"]) for line in lines] == [
        ("request", "POST /capture"), ("signal", "SIGUSR1"), ("trigger", "max > 1s (it is 2 s)"),
    ]


def test_what_fires_while_a_capture_is_being_written_has_one_of_its_own(tmp_path: Path) -> None:
    chosen = options(tmp_path)
    traced = traced_with(chosen, step((stack(), [1000])))
    first, second = job(traced), job(traced)
    assert first.covers(second)
    first.begun = True
    assert not first.covers(second)


def test_a_dump_that_fails_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_pid: int) -> None:
        raise KeyError("what the process has in its memory")

    monkeypatch.setattr("gotrace.serve.evidence.dump", fails)
    monkeypatch.setattr(Traced, "alive", True)
    lines: list[dict[str, Any]] = []
    chosen = options(tmp_path)
    evidence = Evidence(chosen, lines.append)
    evidence.start()
    for number in (1, 2):
        traced = traced_with(chosen, step((stack(), [1000])))
        evidence.ask(job(traced, "signal"))
        deadline = time.monotonic() + 30
        while len(lines) < number and time.monotonic() < deadline:
            time.sleep(0.01)
    assert evidence.working and evidence.finish(30) == 0 and [len(line["files"]) for line in lines] == [2, 2]
    assert any(note.startswith("there is no dump: KeyError") for note in read_capture(Path(lines[0]["files"][0])).notes)


def test_captures_that_are_not_written_in_time_are_counted(tmp_path: Path) -> None:
    chosen = options(tmp_path)
    evidence = Evidence(chosen, lambda _: None)  # it is not started
    evidence.ask(job(traced_with(chosen, step((stack(), [1000])))))
    assert evidence.finish(0) == 1


def test_captures_in_an_hour_are_limited(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    chosen = options(tmp_path, per_hour=2)
    evidence = Evidence(chosen, lines.append)
    jobs = [job(traced_with(chosen, step((stack(), [1000])))) for _ in range(4)]
    written(evidence, *jobs, job(traced_with(chosen, step((stack(), [1000]))), "signal"))
    assert evidence.counts["written"] == 3 and evidence.counts["left_out"] == 2
    assert sorted(line.get("error", "") for line in lines)[-1] == "more than 2 captures in an hour"


def test_bytes_on_disk_are_limited(tmp_path: Path) -> None:
    """The oldest go, with what belongs to them; the latest one and what is not ours stay."""
    folder = tmp_path / "captures"
    folder.mkdir()
    for number in range(5):
        for suffix in ("gotrace", "html", "dump.json"):
            (folder / f"gotrace-api-7-2026010{number + 1}T000000.{suffix}").write_bytes(b"x" * 100_000)
    (folder / "mine.gotrace").write_bytes(b"x" * 1_000_000)
    (folder / "gotrace-api-7-20250101T000000.gotrace").symlink_to("/etc/passwd")
    chosen = options(tmp_path, folder_bytes=800_000)
    evidence = Evidence(chosen, lambda _: None)
    written(evidence, job(traced_with(chosen, step((stack(), [1000])))))
    left = {path.name for path in folder.iterdir()}
    assert "mine.gotrace" in left and "gotrace-api-7-20250101T000000.gotrace" in left and evidence.counts["deleted"] == 4
    assert {name for name in left if "-7-2026" in name} == {f"gotrace-api-7-20260105T000000.{s}" for s in ("gotrace", "html", "dump.json")}
    written(Evidence(options(tmp_path, folder_bytes=1), lambda _: None), job(traced_with(chosen, step((stack(), [1000])))))
    assert len([path for path in folder.glob("gotrace-a*.gotrace") if not path.is_symlink()]) == 1


def test_what_was_asked_for_makes_room_before_evidence(tmp_path: Path) -> None:
    """However new it is; what was just asked for stays."""
    folder = tmp_path / "captures"
    folder.mkdir()
    for name in ("20260101T000000", "20260102T000000", "20260301T000000-request", "20260302T000000.1-signal"):
        (folder / f"gotrace-api-7-{name}.gotrace").write_bytes(b"x" * 400_000)
    chosen = options(tmp_path, folder_bytes=1_100_000)
    lines: list[dict[str, Any]] = []
    for kind in ("signal", "request"):
        written(Evidence(chosen, lines.append), job(traced_with(chosen, step((stack(), [1000]))), kind))
    assert all(f"-{line['kind']}." in file for line in lines for file in line["files"])
    assert {path.name for path in folder.glob("gotrace-api-*")} == {f"gotrace-api-7-2026010{day}T000000.gotrace" for day in (1, 2)}
    assert all(Path(file).exists() for file in lines[1]["files"])


def test_what_was_just_written_stays_when_the_clock_was_set_back(tmp_path: Path) -> None:
    folder = tmp_path / "captures"
    folder.mkdir()
    (folder / "gotrace-api-7-29990101T000000.gotrace").write_bytes(b"x" * 100_000)
    lines: list[dict[str, Any]] = []
    chosen = options(tmp_path, folder_bytes=1)
    written(Evidence(chosen, lines.append), job(traced_with(chosen, step((stack(), [1000])))))
    assert all(Path(file).exists() for file in lines[0]["files"]) and not list(folder.glob("gotrace-api-7-2999*"))


def test_a_capture_without_its_page_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the disk is full by then."""
    def fails(path: Path, _content: bytes, _force: bool, _mode: int) -> None:
        raise GotraceError(f"{path} can't be written: No space left on device")

    monkeypatch.setattr("gotrace.serve.writing.write", fails)
    lines: list[dict[str, Any]] = []
    chosen = options(tmp_path)
    evidence = Evidence(chosen, lines.append)
    written(evidence, job(traced_with(chosen, step((stack(), [1000])))))
    line, = lines
    assert [Path(file).suffix for file in line["files"]] == [".gotrace"] and "No space left" in line["error"]
    assert evidence.counts["failed"] == 1 and read_capture(Path(line["files"][0])).stacks


def test_a_failure_is_said_and_counted(tmp_path: Path) -> None:
    (tmp_path / "captures").write_text("a file where the folder belongs")
    lines: list[dict[str, Any]] = []
    chosen = options(tmp_path)
    evidence = Evidence(chosen, lines.append)
    written(evidence, job(traced_with(chosen, step((stack(), [1000])))))
    assert evidence.counts["failed"] == 1 and lines[0]["files"] == [] and lines[0]["error"]


def test_nothing_is_kept_yet(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    written(Evidence(options(tmp_path), lines.append), job(traced_with(options(tmp_path))))
    assert "nothing is recorded" in lines[0]["error"]


@pytest.mark.parametrize("size", [0, 1])
def test_a_large_log_begins_again(tmp_path: Path, size: int) -> None:
    log = tmp_path / "captures" / LOG
    log.parent.mkdir()
    log.write_bytes(b"x" * (9 << 20) if size else b"")
    chosen = options(tmp_path)
    written(Evidence(chosen, lambda _: None), job(traced_with(chosen, step((stack(), [1000])))))
    assert len(log.read_text().splitlines()) == 1 and log.with_name(f"{LOG}.1").exists() == bool(size)


# -- a full disk, and a cascade --------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    if os.geteuid():
        unavailable("needs root (remedy: sudo)")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "gotrace-test", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_makes_room_of_what_is_ours(small_disk: Path) -> None:
    """Before it writes; what is not ours stays."""
    chosen = options(small_disk)
    chosen.folder.mkdir()
    for day in range(1, 5):
        (chosen.folder / f"gotrace-api-7-2026010{day}T000000.gotrace").write_bytes(b"x" * 500_000)
    (small_disk / "not-ours").write_bytes(b"x" * 600_000)
    lines: list[dict[str, Any]] = []
    evidence = Evidence(chosen, lines.append)
    written(evidence, job(traced_with(chosen, step((stack(), [1000])))))
    assert "error" not in lines[0] and len(lines[0]["files"]) == 2 and (small_disk / "not-ours").exists()
    assert read_capture(Path(lines[0]["files"][0])).stacks
    assert evidence.counts["written"] == 1 and evidence.counts["deleted"] >= 2 and not evidence.counts["no_room"]
    left = {path.name for path in chosen.folder.iterdir()}
    assert "gotrace-api-7-20260104T000000.gotrace" in left and "gotrace-api-7-20260101T000000.gotrace" not in left


def test_a_disk_that_is_full_of_others_is_told_and_counted(small_disk: Path) -> None:
    chosen = options(small_disk)
    full = small_disk / "not-ours"
    full.write_bytes(b"x" * 2_500_000)
    lines: list[dict[str, Any]] = []
    evidence = Evidence(chosen, lines.append)
    evidence.start()
    for number in (1, 2):
        evidence.ask(job(traced_with(chosen, step((stack(), [1000])))))
        deadline = time.monotonic() + 30
        while len(lines) < number and time.monotonic() < deadline:
            time.sleep(0.01)
        if number == 1:
            full.unlink()  # and there is room again
    assert evidence.finish(30) == 0
    assert "has no room for a capture: " in lines[0]["error"] and lines[0]["files"] == [] and lines[1]["files"]
    assert evidence.counts["no_room"] == 1 and evidence.counts["written"] == 1 and evidence.counts["failed"] == 0
    assert [json.loads(text) for text in (chosen.folder / LOG).read_text().splitlines()] == lines


def test_a_disk_that_fills_up_while_a_capture_is_written_leaves_no_parts(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is too low: what was written is removed, and it is tried once more with room for twice as much."""
    monkeypatch.setattr("gotrace.serve.writing._needed", lambda _profile, _contents: 1)
    monkeypatch.setattr("gotrace.serve.writing._SPARE_BYTES", 1)
    chosen = options(small_disk)
    chosen.folder.mkdir()
    (small_disk / "not-ours").write_bytes(b"x" * ((3 << 20) - (128 << 10)))
    lines: list[dict[str, Any]] = []
    evidence = Evidence(chosen, lines.append)
    written(evidence, job(traced_with(chosen, step((stack(), [1000])))))
    assert "can't be written" in lines[0]["error"] and evidence.counts["failed"] + evidence.counts["no_room"] == 1
    parts = [path.name for path in chosen.folder.iterdir() if not path.name.endswith(".gotrace") and path.name != LOG]
    assert parts == [], parts
    for path in chosen.folder.glob("*.gotrace"):  # what there is of it is whole
        assert read_capture(path).stacks and str(path) in lines[0]["files"]


def test_a_cascade_dumps_at_once_and_shows_the_time_of_its_triggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten processes at once, and writing each takes half a second: no dump waits for that, and captures end when they were due."""
    from gotrace.serve import evidence as module
    from gotrace.serve.writing import Writing

    began, dumped = time.monotonic(), []
    whole = Writing.files

    def slowly(self: Writing, asked: Job, line: dict[str, Any], over: bool) -> None:
        time.sleep(0.3)
        whole(self, asked, line, over)

    def quickly(pid: int) -> Any:
        dumped.append(time.monotonic() - began)
        raise GotraceError("no dump here")

    monkeypatch.setattr(Writing, "files", slowly)
    monkeypatch.setattr(module, "dump", quickly)
    monkeypatch.setattr(Traced, "alive", True)
    chosen = options(tmp_path)
    lines: list[dict[str, Any]] = []
    evidence = Evidence(chosen, lines.append)
    evidence.start()
    jobs = [job(traced_with(chosen, *[step((stack(), [1000]))] * 3)) for _ in range(8)]
    for one in jobs:
        evidence.ask(one)
    deadline = time.monotonic() + 30
    while len(lines) < len(jobs) and time.monotonic() < deadline:
        time.sleep(0.01)
    evidence.finish(30)
    assert len(dumped) == 8 and dumped[-1] < 1.5 and time.monotonic() - began > 2.4
    ends = [one.due_ns for one in jobs]
    for line, due_ns in zip(lines, ends, strict=True):
        profile = read_capture(Path(line["files"][0]))
        assert any("no dump here" in note for note in profile.notes)
        start_ns = datetime.fromisoformat(profile.window.start).timestamp() * 1e9 - (time.time_ns() - time.monotonic_ns())
        assert abs(start_ns + profile.window.duration_ns - due_ns) < 0.1e9


def write_late(evidence: Evidence, late: Job, lines: list[dict[str, Any]]) -> None:
    evidence.start()
    evidence.ask(late)
    deadline = time.monotonic() + 30
    while not lines and time.monotonic() < deadline:
        time.sleep(0.01)
    evidence.finish(30)


def test_a_capture_that_is_too_late_for_its_beginning_says_so(tmp_path: Path) -> None:
    chosen = options(tmp_path, keep_ns=10 * S)
    traced = traced_with(chosen)
    traced.ring = Ring(10 * S, 1 << 20)
    now = time.monotonic_ns()
    for second in range(11):
        begin = now - (11 - second) * S
        traced.ring.add(Step(begin, begin + S, begin, [Wait(stack(), durations([1000]), (0, 0, 0, 0), 0, None)], attached_ns=S))
    late = job(traced)
    late.due_ns = late.fired_ns = now - 8 * S
    lines: list[dict[str, Any]] = []
    evidence = Evidence(chosen, lines.append)
    write_late(evidence, late, lines)
    assert evidence.counts["late"] == 1 and evidence.counts["written"] == 1
    notes = read_capture(Path(lines[0]["files"][0])).notes
    assert any(re.search(r"written late, as others came first: \d s of its beginning", note) for note in notes)


def test_a_capture_of_which_nothing_is_kept_any_more_has_what_there_is(tmp_path: Path) -> None:
    """As where memory is short and others come first."""
    chosen = options(tmp_path)
    traced = traced_with(chosen, *[step((stack(), [1000]))] * 2)
    traced.ring.dropped_ns = 60 * S
    late = job(traced)
    late.due_ns = late.fired_ns = time.monotonic_ns() - 30 * S
    lines: list[dict[str, Any]] = []
    evidence = Evidence(chosen, lines.append)
    write_late(evidence, late, lines)
    assert evidence.counts["written"] == evidence.counts["late"] == 1 and len(lines[0]["files"]) == 2
    assert any("written late" in note for note in read_capture(Path(lines[0]["files"][0])).notes)
