"""Stacks with code in them that is not Go's: assembly that breaks the chain of frame pointers, code made at run time, sanitizers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attach import Attached
from gobuild import build
from summaries import count, names
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

VERSIONS = ("1.21.13", "1.27.3")
OUTSIDE = "[code outside the binary]"


def own(stack: dict) -> list[str]:
    return names(stack, "go", "runtime", "lost")


def traced(program: Path, *arguments: str, length: float = 3, mode: str = "exact") -> tuple[dict, dict]:
    with Workload(program, *arguments) as workload:
        time.sleep(0.3)
        with Attached(workload.pid, "-d", "0", "--json", "--mode", mode, "-o", program.parent / f"{workload.pid}.gotrace") as trace:
            time.sleep(length)
            summary = trace.end_json()
        dumped = subprocess.run(
            [sys.executable, "-m", "gotrace", "dump", "--json", str(workload.pid)], capture_output=True, text=True, check=True,
        )
    return summary, json.loads(dumped.stdout)


@pytest.mark.full("1.27.3-garbage", "1.21.13-zero")
@pytest.mark.parametrize("left", ["garbage", "zero", "fake", "data", "older"])
@pytest.mark.parametrize("version", VERSIONS)
def test_assembly_that_breaks_the_frame_pointer(version: str, left: str) -> None:
    summary, _ = traced(build("clobber", version, "plain"), "-bp", left)
    waits = [stack for stack in summary["stacks"] if "main.receive" in own(stack) and stack["state"] == "waiting"]
    whole = [stack for stack in waits if own(stack)[-1] == "runtime.goexit"]
    broken = [stack for stack in waits if own(stack)[-1] != "runtime.goexit"]
    # Once it was met the frames are passed by their sizes: each of the two callers is told from the other.
    for caller in ("main.left", "main.right"):
        found = [stack for stack in whole if caller in own(stack)]
        assert sum(stack["count"] for stack in found) > 20
        for stack in found:
            at = own(stack).index("main.receive")
            assert own(stack)[at:] == ["main.receive", "main.waiter", caller, "main.root", "runtime.goexit"]
    # What was met before that says that its callers are missing, and is counted.
    assert all(stack["frames"][-1]["kind"] == "lost" and own(stack)[-2] == "main.waiter" for stack in broken)
    lost = summary["losses"]["stack_unreadable" if left == "garbage" else "stack_incomplete"]
    assert lost >= sum(stack["count"] - stack["in_progress"] for stack in broken)
    printed = json.dumps(summary)
    assert "neverCalled" not in printed and "5ec2e75ec2e7" not in printed


@pytest.mark.complete("1.27.3")
@pytest.mark.full
@pytest.mark.parametrize("computing", ["counting", "framed", "astray"])
@pytest.mark.parametrize("version", VERSIONS)
def test_assembly_that_computes_in_the_frame_pointer(version: str, computing: str) -> None:
    summary, _ = traced(build("clobber", version, "plain"), "-bp", computing)
    inside = [stack for stack in summary["stacks"] if own(stack)[0] == f"main.{computing}" and stack["state"] == "runqueue"]
    whole = [stack for stack in inside if own(stack)[-1] == "runtime.goexit"]
    for stack in whole:
        assert own(stack) in ([f"main.{computing}", "main.compute", caller, "runtime.goexit"] for caller in ("main.computeLeft", "main.computeRight"))
    assert len({own(stack)[2] for stack in whole}) == 2 and count(whole) > 50
    # What was met before its sizes were known of says that its callers are missing, and is counted.
    broken = [stack for stack in inside if stack not in whole]
    assert all(stack["frames"][-1]["kind"] == "lost" for stack in broken)
    assert summary["losses"]["thread_stack_unreadable"] >= sum(stack["count"] - stack["in_progress"] for stack in broken)


@pytest.mark.complete("1.27.3")
@pytest.mark.full
@pytest.mark.parametrize("version", VERSIONS)
def test_code_made_at_run_time(version: str) -> None:
    summary, dumped = traced(build("generated", version, "plain"))
    stacks = [own(stack) for stack in summary["stacks"]]
    for waiting in ("main.callback", "main.hang"):
        found = [stack for stack in stacks if waiting in stack]
        found += [[frame["name"] for frame in g["frames"]] for g in dumped["goroutines"] if waiting in json.dumps(g)]
        assert len(found) >= 2
        for stack in found:
            at = stack.index(waiting)
            assert stack[at + 1 : at + 3] == [OUTSIDE, "main.through"] and stack[-1] == "runtime.goexit", stack
    for spinning in ("main.spinner", "main.bareSpinner"):
        assert [OUTSIDE, spinning, "main.forever", "runtime.goexit"] in stacks
    assert not summary["losses"]["parked_unread"] and not dumped["losses"]["stack_torn"]
    # A thread may lose its CPU between the two instructions that make a frame.
    assert summary["losses"]["stack_incomplete"] <= 0.02 * sum(stack["count"] for stack in summary["stacks"])
    assert "unknown function" not in json.dumps(summary)


@pytest.mark.complete("1.27.3")
@pytest.mark.full
@pytest.mark.parametrize("version", VERSIONS)
def test_code_made_at_run_time_without_a_frame(version: str) -> None:
    """Its frame pointer is that of the function it was called from, which nothing then shows."""
    program = build("generated", version, "plain")
    for mode in ("exact", "sample"):
        summary, dumped = traced(program, "-frameless", mode=mode)
        waits = [stack for stack in summary["stacks"] if {"main.callback", "main.hang"} & set(own(stack)) and stack["state"] == "waiting"]
        assert {name for stack in waits for name in own(stack) if name.startswith("main.")} == {"main.callback", "main.hang"}
        assert all(own(stack)[-2] == OUTSIDE and stack["frames"][-1]["kind"] == "lost" for stack in waits)
        assert summary["losses"]["stack_incomplete"] >= sum(stack["count"] - stack["in_progress"] for stack in waits) > 0
    stacks = [g["frames"] for g in dumped["goroutines"] if {"main.callback", "main.hang"} & {frame["name"] for frame in g["frames"]}]
    assert len(stacks) == 2 == dumped["losses"]["stack_incomplete"]
    assert all(frames[-2]["name"] == OUTSIDE and frames[-1]["kind"] == "lost" for frames in stacks)
