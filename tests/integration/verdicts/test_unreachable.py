"""Goroutines that nobody can wake any more, with Go's own profile of leaked goroutines as the second opinion."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable

import pytest
from gobuild import GO_VERSIONS, TWO_VERSIONS, build
from workload import Workload
from zoo import CYCLES, LEAKS

pytestmark = [pytest.mark.bpf, pytest.mark.beside, pytest.mark.apart]

Gotrace = Callable[..., subprocess.CompletedProcess[str]]


def leaked_by_go(text: str) -> set[int]:
    """The goroutines of main in its profile, in the form of a traceback."""
    blocks = [block for block in text.split("\n\n") if re.match(r"goroutine \d+ \[.*\(leaked\)", block) and "\nmain." in block]
    return {int(block.split()[1]) for block in blocks}


@pytest.mark.parametrize("shape", [*CYCLES, *LEAKS, "waitgroup-nil"])
def test_it_agrees_with_go(gotrace: Gotrace, shape: str) -> None:
    """What Go finds has a verdict, and what we call certain Go finds. A word that is garbage may hide one of a crowd from us."""
    with Workload(build("deadlocks", GO_VERSIONS[-1], "stripped"), shape) as workload:
        workload.signal(19)  # stopped: no more goroutines come
        dump = json.loads(gotrace("dump", workload.pid, "--leaks", "--json").stdout)
        workload.signal(18)
        workload.send("leaks")
        go = leaked_by_go(workload.read_json(20))
    there = {one["id"] for one in dump["goroutines"]}
    judged = {goid for verdict in dump["verdicts"] for goid in verdict["goroutines"]}
    certain = {goid for verdict in dump["verdicts"] if verdict["certain"] for goid in verdict["goroutines"]}
    assert len(go & there - judged) <= (2 if shape in LEAKS else 0) and certain <= go
    if shape in ("reader-left", "timer-stopped"):
        leak, = dump["verdicts"]
        assert (leak["kind"], leak["certain"]) == ("leak", True) and len(leak["goroutines"]) > 5
        assert leak["evidence"]["function"] == LEAKS[shape][0] and leak["evidence"]["searched_bytes"] > 1 << 16


@pytest.mark.parametrize("shape, more", [("never-cancelled", False), ("semaphore-leak", False), ("reader-left", True)])
@pytest.mark.parametrize("version", TWO_VERSIONS)
def test_what_somebody_can_reach_is_no_certain_leak(gotrace: Gotrace, version: str, shape: str, more: bool) -> None:
    """A variable has the functions that cancel; a goroutine that goes on has the semaphore; the other one nobody has."""
    with Workload(build("deadlocks", version, "stripped"), shape) as workload:
        found = json.loads(gotrace("dump", workload.pid, "--leaks", "--json").stdout)["verdicts"]
    assert [(verdict["kind"], verdict["certain"]) for verdict in found] == ([("leak", True)] if more else [])


@pytest.mark.parametrize("shape", ["channel-with-lock", "waitgroup-then-receive"])
def test_a_deadlock_out_of_reach_is_certain(gotrace: Gotrace, shape: str) -> None:
    with Workload(build("deadlocks", GO_VERSIONS[-1], "stripped"), shape) as workload:
        verdict, = json.loads(gotrace("dump", workload.pid, "--leaks", "--json").stdout)["verdicts"]
    assert (verdict["kind"], verdict["certain"], verdict["evidence"]["unreachable"]) == ("deadlock", True, True)
