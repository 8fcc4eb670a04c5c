"""The capture as a file that others open, lock, copy and cut off while it is written."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from profiles import MS, S, shop, shop_profile, stat

from gotrace.capture.reader import read_capture
from gotrace.capture.writer import CaptureWriter
from gotrace.common.errors import GotraceError
from gotrace.profile.types import Pause, Profile, SingleInterval

UNFINISHED = replace(shop_profile(), complete=False)


def begun(path: Path, made: Profile = UNFINISHED) -> CaptureWriter:
    writer = CaptureWriter(path, force=True)
    for target in made.targets:
        writer.put_target(target)
    writer.put_stacks(made.stacks)
    writer.commit(made)
    return writer


def copied(path: Path) -> Profile:
    """The one file, read elsewhere."""
    other = path.with_name(f"copy-of-{path.name}")
    for old in path.parent.glob(f"{other.name}*"):
        old.unlink()
    shutil.copyfile(path, other)
    return read_capture(other)


def many(writer: CaptureWriter, number: int) -> None:
    """Commits hundreds of stacks of `number` ms each."""
    frames = shop()[0].frames
    writer.put_stacks([stat([frame._replace(name=f"{frame.name}{n}") for frame in frames], [number * MS], reason="many") for n in range(300)])
    writer.commit(UNFINISHED)


def lengths(profile: Profile) -> set[int]:
    """What those stacks' totals are."""
    found = [stack.distribution.total_ns for stack in profile.stacks if stack.reason == "many"]
    assert len(found) == 300
    return set(found)


# ---- copies of the one file


def test_each_commit_is_in_the_one_file(tmp_path: Path) -> None:
    writer = begun(tmp_path / "x.gotrace")
    for number in range(1, 6):
        lock = next(stack for stack in shop() if stack.reason == "sync.Mutex.Lock")
        writer.put_stacks([stat(lock.frames, [number * S], reason="sync.Mutex.Lock"), stat(lock.frames, [MS], reason=f"new {number}")])
        writer.commit(UNFINISHED)
        again = copied(writer.path)
        assert {number * S, MS} <= {stack.distribution.total_ns for stack in again.stacks} and not again.complete
        assert f"new {number}" in {stack.reason for stack in again.stacks}
    assert writer.close()


def test_it_has_its_tables_before_anything_is_put(tmp_path: Path) -> None:
    writer = CaptureWriter(tmp_path / "x.gotrace", force=False)
    with pytest.raises(GotraceError, match="holds nothing: the trace that was to fill it was cut off"):
        copied(writer.path)


def test_a_copy_is_read_where_nobody_may_write(tmp_path: Path) -> None:
    """SQLite would make the log that is missing."""
    writer = begun(tmp_path / "x.gotrace")
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    try:
        shutil.copyfile(writer.path, folder / "x.gotrace")
        (folder / "x.gotrace").chmod(0o444)
        folder.chmod(0o555)
        code = (
            "import os, sys; sys.path[:0] = eval(sys.argv[2]); import pathlib\n"
            "from gotrace.capture.reader import read_capture\n"
            "os.setgid(65534) or os.setuid(65534) if os.getuid() == 0 else None\n"
            "print(len(read_capture(pathlib.Path(sys.argv[1])).stacks))"
        )
        found = subprocess.run([sys.executable, "-c", code, folder / "x.gotrace", repr(sys.path)], capture_output=True, text=True, check=False)
        assert found.stdout.strip() == str(len(UNFINISHED.stacks)), found.stderr
        assert [path.name for path in folder.iterdir()] == ["x.gotrace"]
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_an_empty_page_whose_log_is_missing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "live.gotrace"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript("BEGIN; PRAGMA application_id = 0x676F7472; CREATE TABLE meta(key); COMMIT;")
        with pytest.raises(GotraceError, match="copy-of-live.gotrace is empty: .* copy-of-live.gotrace-wal, which is missing") as caught:
            copied(path)
    assert "copy copy-of-live.gotrace-wal beside it" in str(caught.value.hint)


def test_a_torn_copy_says_what_to_do(tmp_path: Path) -> None:
    """Some pages of one moment and some of another."""
    writer = begun(tmp_path / "x.gotrace")
    torn = bytearray(writer.path.read_bytes())
    torn[4096 * 3 :] = bytes(len(torn) - 4096 * 3)
    (tmp_path / "torn.gotrace").write_bytes(torn)
    with pytest.raises(GotraceError, match="damaged") as caught:
        read_capture(tmp_path / "torn.gotrace")
    assert "copy it again, with torn.gotrace-wal" in str(caught.value.hint)


def test_a_copy_during_which_commits_come_is_of_one_moment(tmp_path: Path) -> None:
    """Who has the file open reads it on as it was; the next commit after that is in the file again."""
    writer = begun(tmp_path / "x.gotrace")
    many(writer, 1)
    with open(writer.path, "rb") as copying:
        pages = [copying.read(4096)]
        for number in range(2, 5):
            many(writer, number)
            pages.append(copying.read(8192))
        pages.append(copying.read())
    (tmp_path / "copy.gotrace").write_bytes(b"".join(pages))
    assert lengths(read_capture(tmp_path / "copy.gotrace")) == {MS}
    many(writer, 5)
    assert lengths(copied(writer.path)) == {5 * MS}
    assert writer.close()


def test_copies_made_all_the_time_are_of_one_moment(tmp_path: Path) -> None:
    """While another process commits as fast as it can."""
    path, copy = tmp_path / "x.gotrace", tmp_path / "copy.gotrace"
    code = (
        "import sys, pathlib; sys.path[:0] = eval(sys.argv[2])\n"
        "from test_file import begun, many\n"
        "writer = begun(pathlib.Path(sys.argv[1])); many(writer, 1); print('ready', flush=True)\n"
        "for number in range(2, 60): many(writer, number)\n"
        "writer.close()"
    )
    with subprocess.Popen([sys.executable, "-c", code, path, repr([*sys.path, str(Path(__file__).parent)])], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        copies = 0
        while process.poll() is None:
            shutil.copyfile(path, copy)
            assert len(lengths(read_capture(copy))) == 1
            copies += 1
    assert process.returncode == 0 and copies
    assert lengths(read_capture(path)) == {59 * MS}


def test_an_open_descriptor_keeps_the_file_as_it_is_for_a_while_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gotrace.capture.writer as module

    writer = begun(tmp_path / "x.gotrace")
    many(writer, 1)
    with open(writer.path, "rb"):
        many(writer, 2)
        assert lengths(copied(writer.path)) == {MS}
        monkeypatch.setattr(module, "_POSTPONED_S", 0.0)
        many(writer, 3)
        assert lengths(copied(writer.path)) == {3 * MS}
        many(writer, 4)
        assert writer.close()  # in any case
    assert lengths(copied(writer.path)) == {4 * MS}


def test_a_reader_of_another_process_does_not_keep_commits_out_of_the_file(tmp_path: Path) -> None:
    writer = begun(tmp_path / "x.gotrace")
    many(writer, 1)
    code = "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1])\nprint(db.execute('SELECT count(*) FROM stack').fetchone(), flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code, writer.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None and reader.stdout.readline()
        many(writer, 2)
        assert lengths(copied(writer.path)) == {2 * MS}
        reader.communicate(b"\n")
    assert reader.returncode == 0 and writer.close()


def test_parts_of_two_moments_are_told(tmp_path: Path) -> None:
    """Each page is that of one of two commits, none is damaged."""
    writer = begun(tmp_path / "x.gotrace")
    many(writer, 1)
    before = writer.path.read_bytes()
    many(writer, 2)
    after = writer.path.read_bytes()
    assert len(before) == len(after)
    half = len(after) // 2 // 4096 * 4096
    for torn in (before[:half] + after[half:], after[:half] + before[half:]):
        (tmp_path / "torn.gotrace").write_bytes(torn)
        with pytest.raises(GotraceError, match="parts of two moments") as caught:
            read_capture(tmp_path / "torn.gotrace")
        assert "copy it again, with torn.gotrace-wal" in str(caught.value.hint)
    # With the log of the later commit the same is whole.
    (tmp_path / "torn.gotrace-wal").write_bytes(Path(f"{writer.path}-wal").read_bytes())
    assert lengths(read_capture(tmp_path / "torn.gotrace")) == {2 * MS}


def test_waits_in_progress_are_those_of_the_last_commit(tmp_path: Path) -> None:
    """Beside what is counted of the same stack, or alone; the next commit has others, the last one none."""
    writer = begun(tmp_path / "x.gotrace")
    known, frames = UNFINISHED.stacks[0], UNFINISHED.stacks[1].frames
    before = known.distribution.count, known.distribution.total_ns
    again = stat(known.frames, [5 * S], state=known.state, reason=known.reason, in_progress=1, pid=known.pid)
    writer.put_ongoing([again, stat(frames, [7 * S], reason="alone", in_progress=1)])
    writer.commit(UNFINISHED)
    for number in (1, 2):
        made = copied(writer.path)
        assert len(made.stacks) == len(UNFINISHED.stacks) + 1
        [both] = [stack for stack in made.stacks if stack.key == known.key]
        assert (both.distribution.count, both.distribution.total_ns) == (before[0] + 1, before[1] + 5 * S)
        assert both.in_progress == known.in_progress + 1 and sum(both.distribution.histogram.values()) == before[0] + 1
        assert [stack.in_progress for stack in made.stacks if stack.reason == "alone"] == [1]
        assert [stack.distribution.total_ns for stack in made.stacks] == sorted((s.distribution.total_ns for s in made.stacks), reverse=True)
        writer.put_ongoing([again, stat(frames, [7 * S], reason="alone", in_progress=1)])
        writer.put_stacks([stat(frames, [S], reason=f"new {number}")])
        if number == 1:
            with closing(sqlite3.connect(writer.path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(GotraceError, match="locked"):
                    writer.commit(UNFINISHED)
            assert len(copied(writer.path).stacks) == len(UNFINISHED.stacks) + 1
    writer.put_ongoing([])
    writer.commit(shop_profile())
    assert writer.close()
    made = copied(writer.path)
    assert {stack.reason for stack in made.stacks} == {*(s.reason for s in UNFINISHED.stacks), "new 1", "new 2"}
    [alone] = [stack for stack in made.stacks if stack.key == known.key]
    assert (alone.distribution.count, alone.distribution.total_ns) == before


def test_a_capture_without_waits_in_progress_says_so(tmp_path: Path) -> None:
    """One that was cut off by a gotrace that added them at the end."""
    writer = begun(tmp_path / "x.gotrace")
    assert not read_capture(writer.path).missing
    writer.close()
    with closing(sqlite3.connect(writer.path)) as db, db:
        db.execute("DELETE FROM meta WHERE key IN ('ongoing', 'sums')")
    assert [missing.stage for missing in read_capture(writer.path).missing] == ["waits in progress"]


def test_a_reader_sees_one_state_however_often_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit falls between the stacks, which it adds to, and the intervals, which it adds to as well."""
    import gotrace.capture.reader as reader

    writer = begun(tmp_path / "x.gotrace")
    new = stat(UNFINISHED.stacks[0].frames, [S], reason="new")
    committed = []

    def window(value: object, whole=reader.histogram) -> object:
        if not committed:
            committed.append(new)
            writer.put_stacks([new])
            writer.put_intervals(4242, [SingleInterval(7, 0, S, new.key)])
            writer.commit(UNFINISHED)
        return whole(value)

    monkeypatch.setattr(reader, "histogram", window)
    again = read_capture(writer.path)
    assert not again.timeline and len(again.stacks) == len(UNFINISHED.stacks)
    assert len(read_capture(writer.path).timeline) == 1


# ---- others that have it open


def test_a_reader_that_stays_open_costs_nothing(tmp_path: Path) -> None:
    writer = begun(tmp_path / "x.gotrace")
    with closing(sqlite3.connect(writer.path)) as idle:
        assert idle.execute("SELECT count(*) FROM stack").fetchone() == (len(UNFINISHED.stacks),)
        writer.commit(shop_profile())
        assert not writer.close()
        assert copied(writer.path).complete  # the log is folded in all the same
        assert read_capture(writer.path).complete
    assert read_capture(writer.path).complete


def test_a_reader_within_a_transaction_costs_nothing(tmp_path: Path) -> None:
    writer = begun(tmp_path / "x.gotrace")
    with closing(sqlite3.connect(writer.path, isolation_level=None)) as reading:
        reading.execute("BEGIN")
        assert reading.execute("SELECT count(*) FROM stack").fetchone() == (len(UNFINISHED.stacks),)
        writer.put_stacks([stat(UNFINISHED.stacks[0].frames, [S], reason="late")])
        writer.commit(shop_profile())
        assert not writer.close()
        assert read_capture(writer.path).complete  # with the log
        assert not copied(writer.path).complete  # an earlier state, a valid one
    with closing(sqlite3.connect(writer.path)) as last:
        assert last.execute("SELECT count(*) FROM stack").fetchone() == (len(UNFINISHED.stacks) + 1,)
    assert copied(writer.path).complete


def test_without_readers_no_log_stays(tmp_path: Path) -> None:
    writer = begun(tmp_path / "x.gotrace")
    writer.commit(shop_profile())
    assert writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["x.gotrace"]


def test_what_a_lock_keeps_out_is_written_later(tmp_path: Path) -> None:
    writer = begun(tmp_path / "x.gotrace")
    frames = UNFINISHED.stacks[0].frames
    new = stat(frames, [S], reason="new")
    with closing(sqlite3.connect(writer.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in (1, 2):
            new.distribution.total_ns = number * S
            writer.put_stacks([new])
            writer.put_intervals(4242, [SingleInterval(number, 0, S, new.key)])
            writer.put_pauses([Pause("GC", number, 5, 4242)])
            with pytest.raises(GotraceError, match="x.gotrace can't be written: database is locked"):
                writer.commit(UNFINISHED)
        assert len(read_capture(writer.path).stacks) == len(UNFINISHED.stacks)
        other.execute("ROLLBACK")
        writer.commit(shop_profile())
    again = read_capture(writer.path)
    assert [stack.distribution.total_ns for stack in again.stacks if stack.reason == "new"] == [2 * S]
    assert [interval.goid for interval in again.timeline] == [1, 2] and len(again.pauses) == 2 and again.complete
    assert writer.close()


def test_a_commit_that_fails_half_way_is_made_again(tmp_path: Path) -> None:
    """As on a file system that is full for a while: what had been added is not there, and is added again."""
    writer = begun(tmp_path / "x.gotrace")
    writer.put_stacks([stat([frame for frame in shop()[0].frames[:3]], [S], reason="new")])
    writer.put_intervals(4242, [SingleInterval(1, 0, S, UNFINISHED.stacks[0].key)])
    pages, = writer._db.execute("PRAGMA page_count").fetchone()
    writer._db.execute(f"PRAGMA max_page_count = {pages}")
    many = [stat([frame._replace(name=f"{frame.name}{n}") for frame in shop()[0].frames], [MS], reason="many") for n in range(300)]
    writer.put_stacks(many)
    with pytest.raises(GotraceError, match="full"):
        writer.commit(UNFINISHED)
    assert len(copied(writer.path).stacks) == len(UNFINISHED.stacks)
    writer._db.execute("PRAGMA max_page_count = 1000000")
    writer.commit(shop_profile())
    assert writer.close()
    again = read_capture(writer.path)
    assert sorted(stack.reason for stack in again.stacks) == sorted([*(s.reason for s in UNFINISHED.stacks), "new", *["many"] * 300])
    assert len(again.timeline) == 1


def test_intervals_that_wait_too_long_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gotrace.capture.writer as module

    monkeypatch.setattr(module, "_INTERVALS_KEPT", 3)
    writer = begun(tmp_path / "x.gotrace")
    writer.put_intervals(4242, [SingleInterval(n, 0, S, UNFINISHED.stacks[0].key) for n in range(5)])
    writer.commit(shop_profile())
    assert (writer.dropped, len(read_capture(writer.path).timeline)) == (2, 3)
    assert os.path.exists(writer.path)
