"""CPU time that a hypervisor took from this machine: a program's own clock sees it, and who asks the kernel for CPU time or waits does not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

from gotrace.proc.machine import stolen_ns

T = TypeVar("T")

ATTEMPTS = 3
DISTURBED = 0.003
"""Above this share of the CPUs' time a comparison of clocks is made once more."""



def least_disturbed(measure: Callable[[], T]) -> tuple[T, int]:
    """What `measure` returned when the least was stolen meanwhile, and how much that was, in ns; the first that was not disturbed."""
    tries: list[tuple[int, T]] = []
    while len(tries) < ATTEMPTS:
        begun, before = time.monotonic_ns(), stolen_ns()
        result = measure()
        stolen = stolen_ns() - before
        tries.append((stolen, result))
        if stolen <= DISTURBED * (time.monotonic_ns() - begun) * os.cpu_count():
            break
    stolen, result = min(tries, key=lambda one: one[0])
    return result, stolen
