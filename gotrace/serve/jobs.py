"""A capture that is to be written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from gotrace.serve.slices import wall_ns
from gotrace.serve.tracing import Traced

_STEP_LATE_NS = 3_000_000_000
"""A step takes a second, and more where there is much to read or the machine is busy."""


@dataclass
class Job:
    """A capture to be written at `due_ns` (CLOCK_MONOTONIC). `kind` is ``trigger``, ``signal``, ``request`` or ``alert``; `triggers` and
    `reasons` are of all that fired until it was `begun`. `done` gets the line of JSON when it is written. `dump_tried` is set when `dumped`
    has the dump, or `undumped` why there is none."""

    traced: Traced
    kind: str
    fired_ns: int
    due_ns: int
    reasons: list[str]
    triggers: list[str] = field(default_factory=list)
    begin_ns: int = 0
    until_ns: int = 0
    done: Callable[[dict[str, Any]], None] | None = None
    dumped: bytes = b""
    undumped: str = ""
    begun: bool = False
    dump_tried: threading.Event = field(default_factory=threading.Event)

    def covers(self, other: Job) -> bool:
        """Whether the capture that this one will be has what `other` is to show. It has the moments of all its triggers; what was asked for
        by a request is a stretch of its own."""
        fired = ("trigger", "alert")
        alike = self.kind in fired and other.kind in fired or self.kind == other.kind == "signal"
        return alike and self.traced is other.traced and not self.begun

    @property
    def is_due(self) -> bool:
        """Whether it is time, and the last step that belongs to it is there."""
        now_ns, traced = time.monotonic_ns(), self.traced
        until_ns = self.until_ns or self.due_ns
        reached = traced.ring.span[1] >= until_ns or not traced.alive or now_ns > until_ns + _STEP_LATE_NS
        return now_ns >= self.due_ns and reached

    def window(self, over: bool) -> tuple[int, int]:
        """From when to when the capture is: all that was kept when it was due, however late it is written. `over`: it is written before
        its time."""
        until_ns = time.monotonic_ns() if over else self.until_ns or self.due_ns
        return self.begin_ns or until_ns - self.traced.ring.keep_ns, until_ns

    def line(self) -> dict[str, Any]:
        """What triggers.jsonl has of it, as far as it is known before it is written."""
        traced = self.traced
        return {
            "time": datetime.fromtimestamp(wall_ns(self.fired_ns) / 1e9, timezone.utc).isoformat(timespec="milliseconds"),
            "kind": self.kind, "reason": "; ".join(self.reasons), "triggers": list(self.triggers),
            "target": {"pid": traced.pid, "name": traced.name, "container": traced.container, "pod": traced.pod}
            | kubernetes_of(traced),
        }


def kubernetes_of(traced: Traced) -> dict[str, str]:
    """What its pod is called, where that is known."""
    names = traced.where.names
    return {"namespace": names.namespace, "pod_name": names.pod, "container_name": names.container} if names.pod else {}
