"""Work for requests by threads of their own, so that whoever asks for much keeps nobody else waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tornado.web import HTTPError

_AT_ONCE, _WAITING = 2, 8
_SCRAPES_WAITING = 4
_ANSWER_S = 60.0

_Result = TypeVar("_Result")


class Said(HTTPError):
    """An error with its sentence for the reader."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status)
        self.sentence = sentence


class _Lane:
    """Some threads: a few pieces of work at once, a few that wait, and no more."""

    def __init__(self, name: str, at_once: int, waiting: int) -> None:
        self.pool = ThreadPoolExecutor(at_once, thread_name_prefix=name)
        self.count, self.most = 0, at_once + waiting

    def done(self, running: asyncio.Future[Any]) -> None:
        """One is done."""
        self.count -= 1
        if not running.cancelled():
            running.exception()


class Work:
    """Scrapes of metrics have a thread of their own: however much is rendered for others, they are answered in time."""

    def __init__(self) -> None:
        self._renders, self._scrapes = _Lane("answer", _AT_ONCE, _WAITING), _Lane("scrape", 1, _SCRAPES_WAITING)

    @property
    def busy(self) -> bool:
        """Whether some of it is not done yet."""
        return self._renders.count + self._scrapes.count > 0

    async def do(self, what: Callable[[], _Result], scrape: bool = False) -> _Result:
        """Its result; Said if there is too much to do, or it takes too long."""
        lane = self._scrapes if scrape else self._renders
        if lane.count >= lane.most:
            raise Said(503, "too many requests at once: try again")
        lane.count += 1
        running = asyncio.get_running_loop().run_in_executor(lane.pool, what)
        running.add_done_callback(lane.done)
        try:
            return await asyncio.wait_for(asyncio.shield(running), _ANSWER_S)
        except asyncio.TimeoutError:
            raise Said(503, "it took too long") from None
