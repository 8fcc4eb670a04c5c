"""Functions in which goroutines wait for a part of a pool that is all in use, of packages that programs commonly use."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from gotrace.dump.types import GoroutineState
from gotrace.profile.frames import plain_name

_GENERIC = re.compile(r"\[.*\]")
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


def waits_in_pool(one: GoroutineState) -> Pool | None:
    """The pool for a part of which the goroutine waits."""
    if one.state != "waiting" or one.reason == "IO wait":
        return None
    return next((_pool(frame.name) for frame in one.frames if not frame.name.startswith(_LEAVES)), None)


@lru_cache(1 << 14)
def _pool(function: str) -> Pool | None:
    name = _GENERIC.sub("[...]", plain_name(function))
    return next((pool for pool in POOLS if pool.function.match(name)), None)
