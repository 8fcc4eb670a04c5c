"""Sends what waits for an endpoint, one after another, and tries again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gotrace.serve.push.bodies import FORMATS
from gotrace.serve.push.options import Endpoint
from gotrace.serve.push.requests import ANSWER_S, Answer, Client, Outcome
from gotrace.serve.push.spool import Entry, Spool

_FIRST_S, _LONGEST_S = 1.0, 60.0
_LATELY_S = 60.0
"""How often drops are told."""


@dataclass
class Counts:
    """Profiles by what became of them, and attempts that failed. `refused`: by the endpoint, for good."""

    pushed: int = 0
    refused: int = 0
    failed_attempts: int = 0


class Sender:
    """Of one endpoint, in the event loop that calls `run`. `problem` is why nothing is taken now, "" if all is well; `say` gets a line when
    that changes. An entry is sent again if its answer was lost: it has an id of its own, by which a receiver can tell."""

    def __init__(self, endpoint: Endpoint, folder: Path, most_bytes: int, say: Callable[[str], None]) -> None:
        """
        Raises:
            GotraceError: the folder, or a file with credentials, can't be used.
        """
        self.endpoint = endpoint
        self.client = Client(endpoint)
        self.spool = Spool(folder, most_bytes, FORMATS[endpoint.kind])
        self.counts = Counts()
        self.problem = ""
        self.sending = False
        self._say = say
        self._failures = 0
        self._until = float("inf")
        self._new = asyncio.Event()
        self._over = self._hurry = False
        self._told_dropped, self._told_at = self.spool.dropped, float("-inf")
        self._disk = ""

    def put(self, body: bytes) -> None:
        """Adds a body to what is sent."""
        self.spool.put(body)
        if self.spool.problem != self._disk:
            self._disk = self.spool.problem
            self._tell(f"what waits is kept in memory: {self._disk}" if self._disk else "what waits is on disk again")
        self.tell_dropped()
        self._new.set()

    def end(self, deadline: float) -> None:
        """No more is put. What waits is sent until then (time.monotonic) if all is well; the rest stays for the next time."""
        self._over, self._until = True, deadline
        self._new.set()

    async def run(self) -> None:
        """Sends until it ends."""
        while True:
            self._new.clear()
            found = self.spool.first()
            self.tell_dropped()
            if found is None:
                if self._over:
                    return
                await self._new.wait()
                continue
            left_s = self._until - time.monotonic()
            if self._over and (self.problem or left_s < 0.05):
                return
            wait_s = self._took(found[0], await self._send(found[1], min(ANSWER_S, left_s)))
            await self._pause(wait_s)

    async def _send(self, body: bytes, most_s: float) -> Answer:
        self.sending = True
        answer = await self.client.send(body, most_s)
        self.sending = False
        return answer

    def _took(self, entry: Entry, answer: Answer) -> float:
        """Notes an answer; returns how long to wait before the next attempt."""
        taken, refused = answer.outcome is Outcome.TAKEN, answer.outcome is Outcome.REFUSED
        if taken or refused:
            self.spool.done(entry)
            # Rejected are profiles of OTLP, of which a request has two.
            self.counts.pushed += taken and not answer.rejected
            self.counts.refused += refused or bool(answer.rejected)
            if (answer.rejected or refused) and answer.said != self.problem:
                self._tell(f"a profile was refused for good: {answer.said}")
            if self.problem and taken and not answer.rejected:
                self._tell(f"profiles are taken again; {self.spool.waiting} wait")
            self.problem = answer.said if refused or answer.rejected else ""
            self._failures = 0
            return 0.0
        self.counts.failed_attempts += 1
        self._failures += 1
        if self.problem != answer.said:
            self.problem = answer.said
            self._tell(f"{answer.said}; profiles wait, up to {self.spool.most_bytes >> 20} MB of them")
        longest = answer.outcome is Outcome.HELD
        pause_s = _LONGEST_S if longest else min(_LONGEST_S, _FIRST_S * 2 ** min(10, self._failures - 1))
        return max(pause_s * random.uniform(0.5, 1.0), answer.after_s or 0.0)

    def hurry(self) -> None:
        """Does not wait until the next attempt: something may have been set right."""
        self._hurry = True
        self._new.set()

    async def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._over and not self._hurry and (left_s := deadline - time.monotonic()) > 0:
            self._new.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._new.wait(), left_s)
        self._hurry = False

    def tell_dropped(self) -> None:
        """Says how many were dropped since the last time, not too often."""
        more = self.spool.dropped - self._told_dropped
        if more and time.monotonic() > self._told_at + _LATELY_S:
            self._told_dropped, self._told_at = self.spool.dropped, time.monotonic()
            self._tell(f"{more} profiles that waited were dropped: --push-bytes allows more")

    def _tell(self, text: str) -> None:
        self._say(f"push {self.endpoint.kind}: {text}")
