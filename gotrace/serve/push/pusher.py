"""Has what each target did in each interval encoded and sent, by a thread of its own."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gotrace.common.errors import GotraceError
from gotrace.export.about import start_ns
from gotrace.export.pprof import render_pprof
from gotrace.proc.otel import attributes_of
from gotrace.profile.types import Profile
from gotrace.serve.push.bodies import body_of
from gotrace.serve.push.folder import Folder
from gotrace.serve.push.options import PushOptions
from gotrace.serve.push.resource import resource_of
from gotrace.serve.push.sender import Counts, Sender
from gotrace.serve.slices import slice_of
from gotrace.serve.tracing import Identity, Traced

_ROUND_S = 0.5
_DECLARED_S = 60.0
"""How old what a process says of itself may be."""


@dataclass
class _Stretch:
    """A target, up to when it was pushed (CLOCK_MONOTONIC), when it is again, and what it says of itself."""

    traced: Traced
    due: float
    done_ns: int = 0
    declared: dict[str, str] = field(default_factory=dict)
    declared_at: float = float("-inf")


class Pusher:
    """`targets` gives those that there are; `say` gets a line for what changes. `missed_ns`: how much of the past was dropped from memory
    before it was pushed; `unmade`: profiles that could not be encoded, by where they should have gone."""

    def __init__(self, options: PushOptions, folder: Path, targets: Callable[[], list[Traced]], say: Callable[[str], None]) -> None:
        """What waits is below `folder`.

        Raises:
            GotraceError: a folder, or a file with credentials, can't be used.
        """
        self.missed_ns = 0
        self.unmade: dict[str, int] = {}
        self.senders = [
            Sender(endpoint, folder / "push" / endpoint.kind, options.queue_bytes, say) for endpoint in options.endpoints
        ]
        self.folder = Folder(options.folder, options.queue_bytes, say) if options.folder is not None else None
        self._every_s = options.every_ns / 1e9
        self._targets, self._say = targets, say
        self._stretches: dict[Identity, _Stretch] = {}
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        self._soon = self._over = False
        self._deadline = float("inf")
        self._left = 0
        self._thread = threading.Thread(target=self._run, name="push", daemon=True)

    def start(self) -> None:
        """Begins."""
        for sender in self.senders:
            if sender.endpoint.in_the_clear:
                self._say(f"push {sender.endpoint.kind}: without https the credentials cross the network in the clear")
        self._thread.start()

    @property
    def working(self) -> bool:
        """Whether it does."""
        return self._thread.is_alive()

    def hurry(self) -> None:
        """Tries again now what waits for the next attempt."""
        for sender in self.senders:
            self._call(sender.hurry)

    def flush(self) -> None:
        """Takes what there is of all targets; does not wait."""
        self._soon = True
        self._call(self._wake.set)

    def finish(self, timeout_s: float) -> bool:
        """Takes what there is of all targets, which are not traced any more, sends it as far as that can be done in that time, and keeps
        the rest. Returns whether that was done."""
        self._deadline = time.monotonic() + timeout_s
        self._over = True
        self._call(self._wake.set)
        if self._thread.ident is not None:
            self._thread.join(timeout_s + 0.1)
        if self._left or self._thread.is_alive():
            self._say(f"push: the last seconds of {self._left or 'some'} targets were not pushed in time")
        return not self._thread.is_alive() and not any(sender.sending for sender in self.senders)

    def _call(self, what: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(what)

    # -- the thread --------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        sending = [asyncio.ensure_future(sender.run()) for sender in self.senders]
        while not self._over:
            await self._round()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _ROUND_S)
            self._wake.clear()
        self._soon = True
        await self._round()
        for sender in self.senders:
            sender.end(self._deadline - 0.05)
        if sending:
            await asyncio.wait(sending, timeout=max(0.0, self._deadline - time.monotonic()))
        for one in sending:
            one.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        for sender in self.senders:
            sender.client.close()
            lost = sender.spool.close()
            if lost or sender.spool.waiting:
                kept = f"{sender.spool.waiting - lost} profiles wait for the next start"
                self._say(f"push {sender.endpoint.kind}: {kept}" + (f", {lost} are lost" if lost else ""))

    async def _round(self) -> None:
        """Pushes the targets whose time has come."""
        soon, self._soon = self._soon, False
        now, there = time.monotonic(), {traced.identity: traced for traced in self._targets()}
        for identity, traced in there.items():
            stretch = self._stretches.get(identity)
            if stretch is None:
                stretch = self._stretches[identity] = _Stretch(traced, now + self._every_s * random.uniform(0.5, 1.0))
                self._declare(stretch)
                stretch.declared_at = float("-inf")  # its SDK may publish more until the first profile
            else:
                stretch.traced = traced  # another trace, with the same ring
        due = [(key, one) for key, one in self._stretches.items() if soon or one.due <= now or not one.traced.alive]
        for number, (identity, stretch) in enumerate(due):
            if time.monotonic() > self._deadline:
                self._left = len(due) - number
                return
            while stretch.due <= now:
                stretch.due += self._every_s
            ended = not stretch.traced.alive  # before what it has left is taken
            self._push(stretch)
            if ended and identity not in there:
                del self._stretches[identity]
            await asyncio.sleep(0)

    def _push(self, stretch: _Stretch) -> None:
        traced = stretch.traced
        known, ring = traced.recorder.known if traced.recorder is not None else None, traced.ring
        begin_ns, end_ns = stretch.done_ns, ring.span[1]
        if known is None or end_ns <= begin_ns:
            return
        self.missed_ns += max(0, ring.gone_ns - begin_ns) if begin_ns else ring.dropped_ns
        stretch.done_ns = end_ns
        profile = slice_of(ring, known, begin_ns, end_ns)
        if profile is None or not profile.stacks:
            return
        self._declare(stretch)
        self._encode(stretch, profile)

    def _encode(self, stretch: _Stretch, profile: Profile) -> None:
        resource = resource_of(stretch.traced, stretch.declared)
        for sender in self.senders:
            try:
                sender.put(body_of(sender.endpoint.kind, profile, resource))
            except Exception as error:  # names in a profile may be anything: one that can't be encoded must not end the others
                self._fail(sender.endpoint.kind, error)
        if self.folder is not None:
            try:
                self.folder.put(render_pprof(profile), stretch.traced.name, stretch.traced.pid, start_ns(profile))
            except Exception as error:
                self._fail("directory", error)

    def _declare(self, stretch: _Stretch) -> None:
        """Reads what a process says of itself; of one that has ended that is what it said last."""
        if stretch.traced.alive and time.monotonic() > stretch.declared_at + _DECLARED_S:
            stretch.declared_at = time.monotonic()
            with suppress(GotraceError, OSError):
                stretch.declared = attributes_of(stretch.traced.pid) or stretch.declared

    def _fail(self, what: str, error: Exception) -> None:
        """Notes that a profile could not be made."""
        if what not in self.unmade:
            self._say(f"push {what}: {error if isinstance(error, GotraceError) else f'{type(error).__name__}: {error}'}")
        self.unmade[what] = self.unmade.get(what, 0) + 1

    # -- what there is -----------------------------------------------------------------------------------------------------

    def status(self) -> list[dict[str, Any]]:
        """Of each place, as /targets has it."""
        return list(self._status())

    def _status(self) -> Iterator[dict[str, Any]]:
        for sender in self.senders:
            spool = sender.spool
            yield {
                **self._told(sender.endpoint.kind, sender.counts, spool.dropped), "to": sender.endpoint.url, "deleted": 0,
                "waiting": spool.waiting, "bytes": spool.size, "problem": sender.problem or spool.problem,
            }
        if self.folder is not None:
            folder = self.folder
            yield {
                **self._told("directory", folder.counts, folder.dropped), "to": str(folder.path), "deleted": folder.deleted,
                "waiting": 0, "bytes": folder.size, "problem": folder.problem,
            }

    def _told(self, what: str, counts: Counts, dropped: int) -> dict[str, Any]:
        return {
            "what": what, "pushed": counts.pushed, "refused": counts.refused, "dropped": dropped + self.unmade.get(what, 0),
            "failed_attempts": counts.failed_attempts, "missed_ns": self.missed_ns,
        }
