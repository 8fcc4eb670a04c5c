"""When to try again what did not go well."""

from __future__ import annotations

import time

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


class Backoff:
    """A pause of two seconds, then twice as long for each further failure, up to a minute; of one second after what went well for more
    than a minute."""

    def __init__(self) -> None:
        self._pause_s = _FIRST_PAUSE_S
        self._again = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether there is no pause now."""
        return time.monotonic() >= self._again

    def failed(self) -> None:
        """It did not go well: a pause. Nothing during one."""
        now = time.monotonic()
        if now < self._again:
            return
        lasted = now - self._again > _LONGEST_PAUSE_S
        self._pause_s = _FIRST_PAUSE_S if lasted else min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._again = now + self._pause_s
