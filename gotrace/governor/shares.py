"""A cap on what tracing costs all processes of the host together, divided among their governors (``--host-overhead``)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gotrace.governor.policy import FLOOR, Load

EVERY_NS = 1_000_000_000
"""How often it is divided again."""
_SILENT_NS = 5_000_000_000
"""A process that has told nothing for so long costs nothing: its probes are gone."""
_MARGIN = 2.0
"""What has given up nothing gets so many times what it costs before others get the rest, as a governor holds its cost below its cap."""
_REPAID_S = 10.0
"""Over how long what was spent too much is saved again."""
_LEAST = 0.1
"""So much of the cap may be spent in any case."""
_LEAST_CPUS = 1e-6


@dataclass(frozen=True)
class Need:
    """What a process could use, and what it may have at most, in CPUs."""

    wanted: float
    most: float


def divide(cpus: float, needs: Sequence[Need]) -> list[float]:
    """Divides `cpus`: where there is too little for all, in proportion to what they need; where there is more, all have what they need, and
    the rest goes to those that may have more. The sum is at most `cpus`, and nobody gets more than its `most`."""
    wanted = [min(need.wanted, need.most) for need in needs]
    total = sum(wanted)
    if total > cpus:
        return [one * cpus / total for one in wanted]
    room = [need.most - one for need, one in zip(needs, wanted, strict=True)]
    part = min(1.0, (cpus - total) / sum(room)) if sum(room) > 0 else 0.0
    return [one + part * more for one, more in zip(wanted, room, strict=True)]


class Share:
    """That of one process. `cap` is a share of the CPU time that it uses for itself, as of a Governor; never above `most`. `own_cpus` and
    `cost_cpus`: what it used for itself, and what tracing it cost, when it was last divided; None before."""

    def __init__(self, host: HostCap, most: float) -> None:
        self.cap = self.most = most
        self.latest: Load | None = None
        self.divided: Load | None = None
        self.whole = True
        self.heard_ns = 0
        self.own_cpus = FLOOR
        self.cost_cpus: float | None = None
        self._host = host

    def observe(self, load: Load, whole: bool) -> float:
        """Takes the load since the trace began, and whether everything is traced; returns the cap that holds from now on."""
        self._host.observe(self, load, whole)
        return self.cap

    def leave(self) -> None:
        """The trace has ended."""
        self._host.leave(self)

    def since(self) -> Load:
        """The load since the cap was divided."""
        return self.latest - self.divided if self.latest is not None and self.divided is not None else Load()

    def need(self, now_ns: int) -> Need:
        """What is traced whole needs what it costs now; what is not would use all that it may have."""
        most = self.most * self.own_cpus
        if self.latest is not None and now_ns - self.heard_ns > _SILENT_NS:
            return Need(0.0, 0.0)
        return Need(most if not self.whole or self.cost_cpus is None else _MARGIN * self.cost_cpus, most)


class HostCap:
    """The cap: tracing may take `cpus` CPUs from all processes. May be used by several threads; whichever of them comes first divides it
    again. `cost_cpus`: what was spent in the second before."""

    def __init__(self, cpus: float, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.cpus, self.cost_cpus = cpus, 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._shares: list[Share] = []
        self._divided_ns = clock()
        self._debt_s = self._left_ns = 0.0

    def join(self, most: float) -> Share:
        """One more process, whose own cap is `most`."""
        share = Share(self, most)
        with self._lock:
            self._shares.append(share)
            self._divide()
        return share

    def leave(self, share: Share) -> None:
        """One less; what it has cost since the last time still counts."""
        with self._lock:
            if share in self._shares:
                self._left_ns += share.since().cost_ns
                self._shares.remove(share)

    def observe(self, share: Share, load: Load, whole: bool) -> None:
        """See `Share.observe`."""
        with self._lock:
            if share.latest is None:
                share.divided = load
            share.latest, share.whole, share.heard_ns = load, whole, self._clock()
            if share.heard_ns - self._divided_ns >= EVERY_NS:
                self._count(share.heard_ns)
                self._divide()

    def _count(self, now_ns: int) -> None:
        """What was spent, and whether it was too much."""
        elapsed_s, spent_ns = (now_ns - self._divided_ns) / 1e9, self._left_ns
        for share in self._shares:
            since = share.since()
            spent_ns += since.cost_ns
            if since.elapsed_ns > 0:
                share.own_cpus, share.cost_cpus = since.own_ns / since.elapsed_ns, since.cost_ns / since.elapsed_ns
            share.divided = share.latest
        self.cost_cpus = spent_ns / 1e9 / elapsed_s
        self._debt_s = min(_REPAID_S * self.cpus, max(0.0, self._debt_s + spent_ns / 1e9 - self.cpus * elapsed_s))
        self._divided_ns, self._left_ns = now_ns, 0.0

    def _divide(self) -> None:
        now_ns = self._clock()
        cpus = max(_LEAST * self.cpus, self.cpus - self._debt_s / _REPAID_S)
        parts = divide(cpus, [share.need(now_ns) for share in self._shares])
        for share, part in zip(self._shares, parts, strict=True):
            share.cap = min(share.most, max(_LEAST_CPUS, part) / share.own_cpus)
