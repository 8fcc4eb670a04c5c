"""What `gotrace serve` is to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gotrace.host.choice import Wanted
from gotrace.serve.expressions import Trigger
from gotrace.serve.push.options import PushOptions


@dataclass(frozen=True)
class Detail:
    """How finely waits are told apart, by `objects` and `labels`, and which requests outputs have: in the `band`, of at least
    `slower_than_ns`. As in `AttachOptions`."""

    objects: bool = False
    labels: tuple[str, ...] = ()
    band: tuple[float, float] | None = None
    slower_than_ns: int = 0


@dataclass(frozen=True)
class ServeOptions:
    """Durations are ns, sizes bytes. `wanted`: the processes. `keep_ns` and `keep_bytes`: how much of the past is kept of each of them.
    `folder`: where captures go, `folder_bytes` how large those in it may be together. `after_ns`: how long after a trigger the capture
    ends; `cooldown_ns`: how soon the same trigger may fire again for the same process; `per_hour`: how many captures triggers may write,
    and how many requests and how many signals for captures are followed.
    `host_overhead`: what tracing may cost all processes together, in percent of the host's CPU time; 0: no such cap.
    `push`: what is sent on, None: nothing.
    `kill_file`: while that file exists, nothing is traced. `memory_bytes`: gotrace's own. The rest is as in `AttachOptions`."""

    wanted: Wanted
    keep_ns: int = 60_000_000_000
    keep_bytes: int = 32 << 20
    folder: Path = Path("gotrace-serve")
    folder_bytes: int = 1 << 30
    triggers: tuple[Trigger, ...] = ()
    after_ns: int = 5_000_000_000
    cooldown_ns: int = 300_000_000_000
    per_hour: int = 12
    kill_file: Path = Path("/run/gotrace.off")
    max_overhead: float = 1.0
    host_overhead: float = 0.0
    memory_bytes: int = 300 << 20
    requests: bool = True
    spans: tuple[str, ...] = ()
    exemplars: int = 10
    detail: Detail = Detail()
    push: PushOptions | None = None

    def too_many(self, kind: str) -> str:
        """Why a request or a signal for a capture is not followed."""
        return f"the captures by {kind} of this hour are used up ({self.per_hour}): --captures-per-hour allows more"
