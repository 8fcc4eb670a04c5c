"""How much work the programs are for the kernel's verifier, which gives up after a million instructions."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
from gobuild import build
from prerequisites import unavailable
from workload import Workload

from gotrace.run.options import AttachOptions
from gotrace.run.session import Session

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

LIMIT = 1_000_000
"""include/linux/bpf.h: BPF_COMPLEXITY_LIMIT_INSNS."""


def verified() -> list[int]:
    """The instructions that the verifier went through, of each program that this process has open (Linux 5.16)."""
    found = []
    for fd in os.listdir("/proc/self/fdinfo"):
        try:
            fields = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines() if ":" in line)
        except OSError:
            continue
        if "verified_insns" in fields:
            found.append(int(fields["verified_insns"]))
    return found


def test_no_program_is_near_the_verifiers_limit() -> None:
    """Another compiler, or another kernel's verifier, may need several times as many."""
    if tuple(map(int, platform.release().split("-")[0].split(".")[:2])) < (5, 16):
        unavailable("the kernel does not tell how much it verified (remedy: Linux 5.16)")
    with Workload(build("requests", "1.27.3", "stripped")) as workload:
        options = AttachOptions(
            (workload.pid,), duration_ns=300_000_000, outputs=(), per_goroutine=True, objects=True, labels=("tenant", "a", "b", "c"),
        )
        with Session(options) as session:
            session.prepare()
            most = sorted(verified())
    assert len(most) > 15 and most[0] > 0
    assert most[-1] < LIMIT / 3, most[-5:]
