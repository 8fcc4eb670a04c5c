"""Who held locks, in a capture: written again at each commit where it has changed, and read back; the file is untrusted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gotrace.capture.checked import listed, text, whole
from gotrace.capture.requestrows import plain_text
from gotrace.profile.holders import Holder, HolderWait, LockHolders
from gotrace.profile.things import Waited
from gotrace.profile.types import Frame, Target

TABLES = frozenset(("lock", "holder"))


class HolderRows:
    """The rows of one open capture, `db`. `frame` and `waited` give the number of a frame and of an object; `targets` has those of
    processes."""

    def __init__(
        self, db: sqlite3.Connection, frame: Callable[[Frame], int], waited: Callable[[Waited], int | None], targets: Mapping[int, int],
    ) -> None:
        self._db = db
        self._frame = frame
        self._waited = waited
        self._targets = targets
        self._written: list[LockHolders] | None = []

    def write(self, locks: Sequence[LockHolders]) -> None:
        """Replaces all, within a transaction, if they are others than before."""
        if self._written == locks:
            return
        for table in ("holder", "lock"):
            self._db.execute(f"DELETE FROM {table}")
        for number, lock in enumerate(locks, 1):
            self._db.execute(
                "INSERT INTO lock VALUES (?,?,?,?,?)",
                (number, self._targets[lock.pid], self._waited(lock.waited), lock.contended_ns, lock.explained_ns),
            )
            self._db.executemany("INSERT INTO holder VALUES (?,?,?,?,?,?,?,?)", (
                (
                    number, place, json.dumps([self._frame(frame) for frame in one.frames]), one.held_ns, one.sure_ns, one.count,
                    int(one.reading), json.dumps([[plain_text(wait.text), wait.total_ns] for wait in one.waits]),
                )
                for place, one in enumerate(lock.holders)
            ))
        self._written = [replace(lock) for lock in locks]

    def roll_back(self) -> None:
        """The commit had begun, and was undone."""
        self._written = None


def read_holders(
    db: sqlite3.Connection, targets: Mapping[int, Target], frames: Mapping[int, Frame], objects: Mapping[int, Waited]
) -> list[LockHolders]:
    """The locks, those for which was waited longest first. `targets`, `frames` and `objects` are by their numbers."""
    locks: dict[int, LockHolders] = {}
    for number, target, waited, contended, explained in db.execute(
        "SELECT id, target, object, contended_ns, explained_ns FROM lock ORDER BY contended_ns DESC, id"
    ):
        locks[number] = LockHolders(objects[waited], targets[target].pid, whole(contended), whole(explained))
    for lock, ids, held, sure, count, reading, waits in db.execute(
        "SELECT lock, frames, held_ns, sure_ns, count, reading, waits FROM holder ORDER BY lock, number"
    ):
        stack = tuple(frames[whole(number)] for number in listed(json.loads(text(ids))))
        did = [HolderWait(text(words), whole(amount)) for words, amount in map(listed, listed(json.loads(text(waits))))]
        locks[lock].holders.append(Holder(stack, whole(held), whole(sure), whole(count), bool(reading), did))
    return list(locks.values())
