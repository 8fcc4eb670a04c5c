"""Sums that are asked for since the start, for the last seconds, or with the older ones fading."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from enum import Enum
from typing import Generic, TypeVar

from gotrace.profile.types import Distribution

LAST_NS = 10_000_000_000
"""How long the window `Window.LAST` is, and how long it takes until a figure counts half in `Window.FADING`."""
KEPT_NS = 60_000_000_000
"""For how long the past is kept in steps."""
_SCALE = 1 << 10
"""Fading counts are added up in units of 1/_SCALE, and rounded once."""


class Window(Enum):
    """Which part of the past figures are of."""

    START = "start"
    LAST = "10s"
    FADING = "fading"


_Key = TypeVar("_Key", bound=Hashable)


class History(Generic[_Key]):
    """Adds up distributions by key, in steps. All moments are in ns, of one clock; `began_ns` is the start."""

    def __init__(self, began_ns: int) -> None:
        self.began_ns = began_ns
        self._all: dict[_Key, Distribution] = {}
        self._steps: deque[tuple[int, int, dict[_Key, Distribution]]] = deque()
        self._now: dict[_Key, Distribution] = {}
        self._last_ns = began_ns

    def add(self, key: _Key, more: Distribution) -> None:
        """Adds to the step that has not ended yet."""
        self._all.setdefault(key, Distribution()).add(more)
        self._now.setdefault(key, Distribution()).add(more)

    def step(self, now_ns: int) -> None:
        """Ends the step."""
        self._steps.append((self._last_ns, now_ns, self._now))
        self._now, self._last_ns = {}, now_ns
        while self._steps and self._steps[0][1] < now_ns - KEPT_NS:
            self._steps.popleft()

    def clear(self, now_ns: int) -> None:
        """Forgets all: the start is now."""
        self._all, self._now = {}, {}
        self._steps.clear()
        self.began_ns = self._last_ns = now_ns

    def within(self, window: Window) -> tuple[dict[_Key, Distribution], int]:
        """The sums of the window, up to the last step, and its length in ns, weighted where figures fade."""
        if window is Window.START:
            return self._all, self._last_ns - self.began_ns
        found: dict[_Key, Distribution] = {}
        length = 0.0
        for begin, end, sums in self._steps:
            if window is Window.LAST and end <= self._last_ns - LAST_NS:
                continue
            weight = 1.0 if window is Window.LAST else 0.5 ** ((self._last_ns - end) / LAST_NS)
            length += weight * (end - begin)
            for key, more in sums.items():
                found.setdefault(key, Distribution()).add(_times(more, weight * _SCALE))
        return {key: _times(sum_, 1 / _SCALE) for key, sum_ in found.items()}, round(length)

    def trend(self, key: _Key, count: int) -> list[int]:
        """The total of each of the last `count` steps, the latest last; 0 where there was nothing."""
        steps = list(self._steps)[-count:]
        return [sums[key].total_ns if key in sums else 0 for _, _, sums in steps]


def _times(one: Distribution, factor: float) -> Distribution:
    return Distribution(
        round(one.count * factor), round(one.total_ns * factor), one.max_ns, round(one.squares * factor),
        {bucket: scaled for bucket, count in one.histogram.items() if (scaled := round(count * factor))},
    )
