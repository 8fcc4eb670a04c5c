"""Functions in which goroutines wait for a part of a pool that is all in use, of packages that programs commonly use."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from gotrace.dump.types import GoroutineState, Situation
from gotrace.profile.frames import plain_name

_GENERIC = re.compile(r"\[.*\]")
_MOST_KEPT = 1 << 16
_LEAVES = ("runtime.", "sync.", "internal/sync.", "context.")


class Pool(NamedTuple):
    """A kind of pool: `function` matches the function that waits where nothing is free; goroutines in `makes` are about to add to it, so as
    many waits are for that. `user` matches the functions of goroutines that use a part of it."""

    name: str
    what: str
    function: re.Pattern[str]
    makes: re.Pattern[str] | None = None
    user: re.Pattern[str] | None = None


POOLS = (
    Pool("database/sql", "a connection of a database/sql pool (DB.SetMaxOpenConns)", re.compile(r"database/sql\.\(\*DB\)\.conn$"),
         user=re.compile(r"database/sql\.\(\*(DB|Conn|Tx|Stmt|Rows)\)\.(?!connectionOpener|connectionCleaner|awaitDone)")),
    Pool("pgxpool", "a connection of a pgx pool (MaxConns)",
         re.compile(r"github\.com/jackc/(puddle(/v2)?\.\(\*Pool(\[\.\.\.\])?\)\.[aA]cquire\w*|pgx/v\d+/pgxpool\.\(\*Pool\)\.Acquire)$")),
    Pool("net/http.Transport", "a connection of an HTTP client (Transport.MaxConnsPerHost)",
         re.compile(r"net/http\.\(\*Transport\)\.getConn$"),
         makes=re.compile(r"net/http\.\(\*Transport\)\.(dialConnFor|startDialConnForLocked)")),
    Pool("x/sync/semaphore", "a golang.org/x/sync/semaphore", re.compile(r"golang\.org/x/sync/semaphore\.\(\*Weighted\)\.Acquire$")),
    Pool("go-redis", "a connection of a Redis client (PoolSize)",
         re.compile(r"github\.com/(redis/go-redis|go-redis/redis)(/v\d+)?/internal/pool\.\(\*ConnPool\)\.(waitTurn|getConn)$")),
    Pool("redigo", "a connection of a Redis pool (MaxActive)", re.compile(r"github\.com/gomodule/redigo(/v\d+)?/redis\.\(\*Pool\)\.\w+$")),
)


class PoolsWaitedFor:
    """The pools for a part of which goroutines of one dump wait: asked once for all in one situation."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Situation, Pool | None]] = {}

    def of(self, one: GoroutineState) -> Pool | None:
        """That of a goroutine."""
        at = one.situation
        known = self._known.get(id(at))
        if known is None:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            known = self._known[id(at)] = at, _waits_in_pool(at)
        return known[1]


def _waits_in_pool(at: Situation) -> Pool | None:
    if at.state != "waiting" or at.reason == "IO wait":
        return None
    return next((_pool(frame.name) for frame in at.frames if not frame.name.startswith(_LEAVES)), None)


@lru_cache(1 << 14)
def _pool(function: str) -> Pool | None:
    name = _GENERIC.sub("[...]", plain_name(function))
    return next((pool for pool in POOLS if pool.function.match(name)), None)
