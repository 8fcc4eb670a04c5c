"""Objects and holders of locks in a capture, also in damaged ones and in those of older versions."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from captures import capture
from profiles import shop_profile

from gotrace.capture.reader import read_capture
from gotrace.common.errors import GotraceError
from gotrace.profile.holders import Holder, HolderWait, LockHolders
from gotrace.profile.things import Waited
from gotrace.profile.types import Profile
from gotrace.profile.waited import waits_by_object

MUTEX, PIPE = Waited("mutex", 0xC000012345), Waited("fd", None, "fd 7 → pipe")


def objects_profile() -> Profile:
    """Each place twice: at a mutex, and at a pipe."""
    made = shop_profile()
    stacks = [replace(stack, waited=thing, goroutines_there=9) for stack in made.stacks for thing in (MUTEX, PIPE)]
    holder = Holder(made.stacks[0].frames, 3_000, 1_000, 2, True, [HolderWait("fsync", 2_500), HolderWait("running", 500)])
    return replace(made, stacks=stacks, locks=[LockHolders(MUTEX, made.targets[0].pid, 4_000, 3_000, [holder])])


def test_all_of_it_is_kept(tmp_path: Path) -> None:
    made = objects_profile()
    again = read_capture(capture(tmp_path / "x.gotrace", made))
    assert again.locks == made.locks
    assert sorted(map(repr, again.stacks)) == sorted(map(repr, made.stacks))
    assert [(one.waited, one.distribution.total_ns) for one in waits_by_object(again)] == [
        (one.waited, one.distribution.total_ns) for one in waits_by_object(made)
    ]


def test_a_capture_of_version_6_stays_readable(tmp_path: Path) -> None:
    made = shop_profile()
    path = capture(tmp_path / "old.gotrace", made)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        columns = [name for _, name, *_ in db.execute("PRAGMA table_info(stack)") if name not in ("object", "goroutines_there")]
        db.executescript(
            f"CREATE TABLE older AS SELECT {', '.join(columns)} FROM stack; DROP TABLE stack; ALTER TABLE older RENAME TO stack;"
            "DROP TABLE holder; DROP TABLE lock; DROP TABLE object; PRAGMA user_version = 6;"
        )
    again = read_capture(path)
    assert again.total() == made.total() and not again.has_objects and again.locks == []


@pytest.mark.parametrize("damage", [
    "UPDATE stack SET object = 99", "UPDATE object SET address = -1 WHERE address IS NOT NULL", "UPDATE object SET text = x'00ff'",
    "UPDATE lock SET target = 9", "UPDATE lock SET object = 99", "UPDATE holder SET frames = '[999999]'", "UPDATE holder SET waits = '[1]'",
    "UPDATE holder SET held_ns = -1", "UPDATE holder SET waits = '[[1, 2]]'",
])  # fmt: skip
def test_damage_is_told(tmp_path: Path, damage: str) -> None:
    path = capture(tmp_path / "x.gotrace", objects_profile())
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(damage)
    with pytest.raises(GotraceError, match="not a gotrace capture, or is damaged"):
        read_capture(path)
