"""Load during which a command runs: the same stages before, during and after it, without a gap in the load."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import IO

from benchmarks.generator import Figures, Generator
from benchmarks.stages import Stage, unmeasured

PHASES = ("before", "during", "after")
_BRIDGE_NS = 200_000_000
_END_S = _READY_S = 60.0


@dataclass(frozen=True)
class Beside:
    """Figures of each stage by phase, and how the command ended. `early`: it ended before the stages did, so "during" is in
    part without it."""

    phases: dict[str, list[Figures]]
    exit_code: int | None = None
    early: bool = False
    command_s: float = 0.0


def run_alone(generator: Generator, stages: list[Stage], warm_up_ns: int) -> Beside:
    """The stages once, after the warm-up."""
    return Beside({"before": generator.run([*_warm(stages[0], warm_up_ns), *stages])})


def run_beside(
    generator: Generator, stages: list[Stage], warm_up_ns: int, settle_ns: int, command: list[str], ready: str = ""
) -> Beside:
    """The stages three times. The command's own pass begins when a line of its stderr matches `ready` and after `settle_ns` more of
    load that is not counted; the command gets SIGINT at the pass's end if it has not ended by itself; the last pass begins when it has
    ended."""
    before = generator.run([*_warm(stages[0], warm_up_ns), *stages])
    started = time.monotonic()
    running = subprocess.Popen(_own(command), stderr=subprocess.PIPE, text=True, errors="replace", preexec_fn=_heeds_sigint)
    is_ready = threading.Event()
    relay = threading.Thread(target=_relay, args=(running.stderr, re.compile(ready), is_ready), daemon=True)
    relay.start()
    try:
        deadline = time.monotonic() + _READY_S
        while ready and not is_ready.is_set() and running.poll() is None and time.monotonic() < deadline:
            generator.run([unmeasured(stages[0], _BRIDGE_NS)])
        during = generator.run([*_warm(stages[0], settle_ns), *stages])
        early = running.poll() is not None
        if not early:
            running.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _END_S
        while running.poll() is None and time.monotonic() < deadline:
            generator.run([unmeasured(stages[-1], _BRIDGE_NS)])
    finally:
        if running.poll() is None:
            running.kill()
        code = running.wait()
        relay.join(1)
    length = time.monotonic() - started
    after = generator.run([*_warm(stages[0], warm_up_ns), *stages])
    return Beside(dict(zip(PHASES, (before, during, after))), code, early, length)


def _heeds_sigint() -> None:
    # Started with nohup or in the background of a script, we ignore it, and so would the command.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _relay(lines: IO[str], ready: re.Pattern[str], event: threading.Event) -> None:
    for line in lines:
        sys.stderr.write(line)
        if ready.search(line):
            event.set()


def _warm(stage: Stage, duration_ns: int) -> list[Stage]:
    return [unmeasured(stage, duration_ns)] if duration_ns else []


def _own(command: list[str]) -> list[str]:
    # Not an installed one: this checkout is measured.
    return [sys.executable, "-m", "gotrace", *command[1:]] if command[0] == "gotrace" else command
