"""What waits on disk: it outlives gotrace, is bounded, and is nobody else's."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from gotrace.common.errors import GotraceError, UsageError
from gotrace.serve.push.folder import Folder
from gotrace.serve.push.spool import Spool


def spool(tmp_path: Path, most: int = 1000, form: str = "pyroscope1") -> Spool:
    return Spool(tmp_path / "captures" / "push" / "pyroscope", most, form)


def all_of(queue: Spool) -> list[bytes]:
    found = []
    while (one := queue.first()) is not None:
        found.append(one[1])
        queue.done(one[0])
    return found


def test_the_oldest_is_first_and_is_there_after_a_restart(tmp_path: Path) -> None:
    queue = spool(tmp_path)
    for body in (b"one", b"two", b"three"):
        queue.put(body)
    first = queue.first()
    assert first is not None and first[1] == b"one" and queue.waiting == 3 and queue.size == 11
    queue.done(first[0])
    with pytest.raises(UsageError, match="another gotrace pushes what is in"):
        spool(tmp_path)
    assert queue.close() == 0
    again = spool(tmp_path)
    again.put(b"four")
    assert again.size == 12 and all_of(again) == [b"two", b"three", b"four"] and again.dropped == again.size == again.waiting == 0
    assert [path.name for path in (tmp_path / "captures/push/pyroscope").iterdir()] == ["lock"]


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    queue = spool(tmp_path)
    queue.put(b"x")
    for path in [tmp_path / "captures", *(tmp_path / "captures").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_oldest_makes_room(tmp_path: Path) -> None:
    queue = spool(tmp_path, most=10)
    for body in (b"1111", b"2222", b"3333", b"x" * 11):
        queue.put(body)
    assert queue.dropped == 2 and queue.size == 8 and all_of(queue) == [b"2222", b"3333"]
    # What is just being sent is not dropped.
    queue.put(b"1111")
    first = queue.first()
    assert first is not None
    queue.put(b"2222")
    queue.put(b"3333")
    assert queue.dropped == 3
    queue.done(first[0])
    assert all_of(queue) == [b"3333"]


def test_a_smaller_bound_holds_for_what_is_there(tmp_path: Path) -> None:
    queue = spool(tmp_path)
    for _ in range(5):
        queue.put(b"1234")
    queue.close()
    again = spool(tmp_path, most=10)
    assert again.dropped == 3 and again.size == 8


def test_what_is_not_ours_or_not_whole(tmp_path: Path) -> None:
    """Files of another release, that were cut or are links are dropped and counted; halves of files and what is not ours are not sent."""
    folder = tmp_path / "captures/push/pyroscope"
    queue = spool(tmp_path)
    for body in (b"first", b"second", b"third"):
        queue.put(body)
    queue.close()
    one, two, _ = sorted(path for path in folder.iterdir() if path.name.endswith(".push"))
    secret = tmp_path / "secret"
    secret.write_bytes(b"first")
    one.unlink()
    one.symlink_to(secret)
    (folder / "00000000000000000001-000001.otlp1.42.1.push").write_bytes(b"old")
    (folder / ".00000000000000000001-000001.pyroscope1.push.123").write_bytes(b"half")
    (folder / "notes.txt").write_bytes(b"not ours")
    again = spool(tmp_path)
    assert again.dropped == 1 and secret.read_bytes() == b"first"
    two.write_bytes(b"cut")
    assert all_of(again) == [b"third"] and again.dropped == 2
    assert {path.name for path in folder.iterdir()} == {"lock", "notes.txt"}


def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    """It is kept in memory for as long, and written when that is possible again."""
    folder = tmp_path / "captures/push/pyroscope"
    queue = spool(tmp_path, most=20 << 20)
    shutil.rmtree(folder)
    queue.put(b"kept")
    assert "can't be written" in queue.problem and queue.first() is not None
    queue.put(b"x" * (9 << 20))
    assert queue.dropped == 1 and queue.waiting == 1
    folder.mkdir()
    queue.put(b"next")
    assert queue.problem == "" and queue.close() == 0
    again = spool(tmp_path)
    assert all_of(again) == [b"kept", b"next"]
    shutil.rmtree(folder)
    again.put(b"lost")
    assert again.close() == 1 == again.dropped


def test_a_folder_that_can_t_be(tmp_path: Path) -> None:
    (tmp_path / "captures").write_text("a file")
    with pytest.raises(GotraceError, match="can't be used") as failed:
        spool(tmp_path)
    assert failed.value.hint == "another folder: --dir PATH"
    with pytest.raises(GotraceError, match="--push directory=.* can't be made"):
        Folder(tmp_path / "captures", 1000, lambda _: None)


# -- the folder ----------------------------------------------------------------------------------------------------------


def test_files_in_a_folder(tmp_path: Path) -> None:
    """Only the owner may read them, the oldest make room, nothing else is touched, and no link is followed."""
    path, said = tmp_path / "profiles", list[str]()
    folder = Folder(path, 10, said.append)
    (path / "offcpu-notes.txt").write_text("not ours")
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (path / "offcpu-19700101T000002.000-a_.._b-7.pb.gz").symlink_to(victim)
    for number in range(5):
        folder.put(b"1234", "a/../b", 7, number * 10**9)
    names = sorted(one.name for one in path.iterdir())
    assert names == [
        "offcpu-19700101T000002.000-a_.._b-7.pb.gz", "offcpu-19700101T000003.000-a_.._b-7.pb.gz",
        "offcpu-19700101T000004.000-a_.._b-7.pb.gz", "offcpu-notes.txt",
    ]
    assert victim.read_text() == "untouched" and folder.dropped == 1 and folder.counts.pushed == 4 and folder.deleted == 2
    assert folder.size == 8 and stat.S_IMODE((path / names[1]).stat().st_mode) == 0o600 and stat.S_IMODE(path.stat().st_mode) == 0o700
    assert len(said) == 2 and "exists" in said[0] and said[1] == "push directory: profiles are written again"
    assert Folder(path, 4, said.append).deleted == 1


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    said = list[str]()
    folder = Folder(tmp_path / "profiles", 100, said.append)
    os.rmdir(tmp_path / "profiles")
    for _ in range(3):
        folder.put(b"x", "api", 7, 0)
    assert folder.dropped == 3 and len(said) == 1 and "can't be written" in folder.problem
