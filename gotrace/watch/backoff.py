"""When to try again after a failure."""

from __future__ import annotations

import time

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


class Backoff:
    """A pause of two seconds after the first failure, twice as long after each further one, up to a minute. After more than a minute
    without a failure it starts again at one second."""

    def __init__(self) -> None:
        self._pause_s = _FIRST_PAUSE_S
        self._again = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether the pause is over."""
        return time.monotonic() >= self._again

    def failed(self) -> None:
        """Begins a pause after a failure; does nothing during one."""
        now = time.monotonic()
        if now < self._again:
            return
        lasted = now - self._again > _LONGEST_PAUSE_S
        self._pause_s = _FIRST_PAUSE_S if lasted else min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._again = now + self._pause_s
