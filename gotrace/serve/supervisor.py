"""Which processes are traced: finds those that the selection means, and begins and ends their traces."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from gotrace.common.errors import GotraceError
from gotrace.governor.shares import HostCap
from gotrace.host.choice import selected
from gotrace.host.listing import Host
from gotrace.serve.options import ServeOptions
from gotrace.serve.totals import Totals
from gotrace.serve.tracing import HISTORY_LEAST, Condition, Identity, Traced, identity_of
from gotrace.serve.triggers import Fired

MOST_TARGETS = 64
_SCAN_S = 1.0
_KEPT_ENDED = 16
_KEPT_ENDED_S = 900.0
_RING_LEAST = 1 << 20


class Supervisor:
    """Does so by a thread of its own. `fired` is called with what triggers fire; `say` gets one line for whatever changes. `cap`: what
    tracing may cost all of them, None if that has no limit."""

    def __init__(
        self, options: ServeOptions, totals: Totals, fired: Callable[[Traced, list[Fired]], None], say: Callable[[str], None]
    ) -> None:
        self.killed = False
        self.left_out = 0
        self.problem = ""
        self._options, self._totals, self._fired, self._say = options, totals, fired, say
        self._host = Host()
        cpus = os.cpu_count() or 1
        self.cap = HostCap(options.host_overhead / 100 * cpus) if options.host_overhead else None
        self._traced: dict[Identity, Traced] = {}
        self._told: dict[Identity, str] = {}
        self._wake = threading.Event()
        self._over = threading.Event()
        self._share = options.keep_bytes
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    @property
    def working(self) -> bool:
        """Whether it does."""
        return self._thread.is_alive()

    def reload(self) -> None:
        """Finds the processes now, and tries those that were refused again."""
        for traced in list(self._traced.values()):
            if traced.condition is Condition.REFUSED:
                traced.retry()
        self._host = Host()
        self._wake.set()

    def finish(self, timeout_s: float) -> None:
        """Ends all traces; waits for them at most so long."""
        deadline = time.monotonic() + timeout_s
        self._over.set()
        self._wake.set()
        everyone = self.targets()
        for traced in everyone:
            traced.stop(at_exit=True)
        for traced in everyone:
            if traced.alive:
                traced.join(max(0.0, deadline - time.monotonic()))

    def targets(self) -> list[Traced]:
        """All that are traced, and those that have ended lately, by pid."""
        return sorted(list(self._traced.values()), key=lambda one: (one.pid, one.since))

    def put(self, traced: Traced) -> None:
        """Adds one that was made elsewhere; it is not started."""
        self._traced[traced.identity] = traced

    def find(self, wanted: str) -> list[Traced]:
        """Those with this pid, or else this name or container id; of a pid that was used again the latest."""
        everyone = self.targets()
        if wanted.isdecimal():
            with_pid = [one for one in everyone if one.pid == int(wanted)]
            return sorted(with_pid, key=lambda one: (one.alive, one.since))[-1:]
        named = [one for one in everyone if one.name == wanted or len(wanted) >= 8 and one.container.startswith(wanted)]
        return [one for one in named if one.condition is not Condition.ENDED] or named[-1:]

    # -- the thread --------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.step()
                self.problem = ""
            except Exception as error:  # the next search may succeed
                what = str(error) if isinstance(error, (GotraceError, OSError)) else f"{type(error).__name__}: {error}"
                if what != self.problem:
                    self.problem = what
                    self._say(f"targets: {what}")
            self._wake.wait(_SCAN_S)
            self._wake.clear()

    def step(self) -> None:
        """Finds what has changed."""
        self._obey()
        if not self.killed:
            self._find()
        self._tell()
        self._forget()
        self._save_memory()

    def _obey(self) -> None:
        killed = os.path.lexists(self._options.kill_file)
        if killed and not self.killed:
            self._say(f"{self._options.kill_file} exists: nothing is traced until it is removed")
            for traced in self._traced.values():
                traced.stop()
        elif self.killed and not killed:
            self._say(f"{self._options.kill_file} is gone: traces begin again")
        self.killed = killed

    def _find(self) -> None:
        wanted = self._options.wanted
        pids = list(wanted.pids) if wanted.pids else selected(wanted)
        self.left_out = 0
        for traced in list(self._traced.values()):
            if traced.condition is Condition.REFUSED and _is_gone(traced):
                traced.retry()  # which finds that it has ended: it would wait for minutes, in the place of another one
        for pid in pids:
            identity = identity_of(pid)
            before = self._traced.get(identity) if identity is not None else None
            if identity is None or before is not None and (before.alive or before.condition is not Condition.STOPPED):
                continue
            if not wanted.pids and not self._host.is_go(pid):
                continue
            if sum(traced.alive for traced in self._traced.values()) >= MOST_TARGETS:
                self.left_out += 1
                continue
            traced = Traced(identity, self._options, self._totals, self._fired, before, self.cap)
            traced.ring.limit(self._share)
            traced.start()  # if there can't be another thread, it is tried again
            self.put(traced)

    def _tell(self) -> None:
        for identity, traced in self._traced.items():
            now = traced.condition.value + (f": {traced.why}" if traced.why else "")
            if self._told.get(identity) != now:
                self._told[identity] = now
                self._say(f"{traced.name} (pid {traced.pid}): {now}")

    def _forget(self) -> None:
        """Rings of processes that have ended are kept for a while."""
        ended = sorted((one for one in self._traced.values() if not one.alive), key=lambda one: one.since)
        old = time.time() - _KEPT_ENDED_S
        for number, traced in enumerate(reversed(ended)):
            still = identity_of(traced.pid) == traced.identity and traced.condition is not Condition.ENDED
            if (number >= _KEPT_ENDED or traced.since < old) and not still:
                del self._traced[traced.identity]
                self._told.pop(traced.identity, None)

    def _save_memory(self) -> None:
        """Gives rings less room while gotrace takes too much memory, first those of processes that have ended, and more again later. A
        quarter is for what causes are found by."""
        used = resident_bytes()
        limit = self._options.memory_bytes
        alive = sum(traced.alive for traced in self._traced.values())
        for traced in self._traced.values():
            traced.history_bytes = max(HISTORY_LEAST, limit // 4 // max(1, alive))
        share = self._share
        ended = [one for one in self._traced.values() if not one.alive and one.ring.size > _RING_LEAST]
        if used > limit and ended:
            self._shorten(min(ended, key=lambda one: one.since))
        elif used > limit:
            largest = max((one.ring.size for one in self._traced.values()), default=0)
            share = max(_RING_LEAST, min(share, largest) * 3 // 4)
            for traced in self._traced.values():
                traced.save_memory()
        elif used < limit * 0.8 and share < self._options.keep_bytes:
            share = min(self._options.keep_bytes, share * 5 // 4)
        if share != self._share:
            self._share = share
            for traced in self._traced.values():
                traced.ring.limit(share)

    def _shorten(self, traced: Traced) -> None:
        before_ns, before = traced.ring.dropped_ns, traced.ring.dropped_waits
        traced.ring.limit(_RING_LEAST)
        more_ns, more = traced.ring.dropped_ns - before_ns, traced.ring.dropped_waits - before
        self._totals.note(traced.labels, dropped_ns=more_ns, dropped_waits=more)


def _is_gone(traced: Traced) -> bool:
    """Whether it has ended, or runs another program; not where that is not known, as of one whose main thread has ended."""
    found = identity_of(traced.pid)
    return found != traced.identity if found is not None else not os.path.exists(f"/proc/{traced.pid}")


def resident_bytes() -> int:
    """How much memory gotrace has resident."""
    with suppress(OSError, ValueError, IndexError), open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    return 0
