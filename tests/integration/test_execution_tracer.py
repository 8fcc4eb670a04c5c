"""Go's own execution tracer as the oracle: it runs in the program while gotrace watches from outside, and both must tell the
same of every stack that matters."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from attach import Attached
from gobuild import GO_VERSIONS, build, go_command
from workload import Workload

pytestmark = pytest.mark.bpf

# The tracer's format of Go 1.22 and later; before, its clock and its stacks at a wait were others.
VERSIONS = [version for version in GO_VERSIONS if int(version.split(".")[1]) >= 22]


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: f"go{version}")
def traced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict]:
    """(go, the execution trace, gotrace's summary) of one and the same run."""
    folder = tmp_path_factory.mktemp("oracle")
    recorded = folder / "trace.out"
    with Workload(build("stages", request.param, "plain"), "-trace", str(recorded)) as workload:
        with Attached(workload.pid, "-d", "0", "--json", "-o", folder / "x.gotrace") as trace:
            workload.send("go")
            workload.read_json(60)
            summary = trace.end_json()
        assert workload.finish()[0] == 0
    return Path(go_command(request.param)), recorded, summary


def tracer_s(go: Path, recorded: Path, profile: str) -> dict[tuple[str, ...], int]:
    """Nanoseconds by stack (the program's own functions, leaf first) as ``go tool trace -pprof`` tells them."""
    packed = recorded.with_suffix(f".{profile}.pb.gz")
    packed.write_bytes(subprocess.run([go, "tool", "trace", f"-pprof={profile}", recorded], check=True, capture_output=True).stdout)
    text = subprocess.run([go, "tool", "pprof", "-raw", packed], check=True, capture_output=True, text=True).stdout
    return raw_profile(text)


def raw_profile(text: str) -> dict[tuple[str, ...], int]:
    """What ``go tool pprof -raw`` prints: samples as ``count ns: location...``, then the locations with their functions."""
    samples, _, rest = text.partition("Locations\n")
    functions: dict[str, list[str]] = {}
    number = ""
    for line in rest.split("Mappings")[0].splitlines():
        found = re.match(r"\s*(\d+): 0x[0-9a-f]+ (?:M=\d+ )?(\S+)", line)
        if found:
            number = found.group(1)
            functions[number] = [found.group(2)]
        elif number and line.startswith("    ") and line.split():
            functions[number].append(line.split()[0])  # the next frame of an inlined call
    stacks: dict[tuple[str, ...], int] = defaultdict(int)
    for found in re.finditer(r"^\s+(\d+)\s+(\d+): ([\d ]+)$", samples, re.MULTILINE):
        stack = own(name for location in found.group(3).split() for name in functions[location])
        stacks[stack] += int(found.group(2))
    return stacks


def own(names) -> tuple[str, ...]:
    """The program's own functions: of the libraries' the tracer leaves out a number that differs by version and event."""
    return tuple(name for name in names if name.startswith("main."))


def gotrace_s(summary: dict, wanted) -> dict[tuple[str, ...], int]:
    stacks: dict[tuple[str, ...], int] = defaultdict(int)
    for stack in summary["stacks"]:
        if wanted(stack):
            stacks[own(f["name"] for f in stack["frames"] if f["kind"] in ("go", "runtime", "cgo"))] += stack["total_ns"]
    return stacks


def compare(theirs: dict, mine: dict, tolerance: float = 0.02) -> None:
    total = sum(theirs.values())
    compared = 0
    for stack, amount in theirs.items():
        if amount > 0.01 * total and stack:
            compared += 1
            assert abs(mine.get(stack, 0) - amount) <= tolerance * amount, (stack, amount, mine.get(stack))
    assert compared >= 1


def test_synchronisation(traced: tuple) -> None:
    go, recorded, summary = traced
    reasons = {"chan receive", "chan send", "select", "sync.Mutex.Lock", "sync.WaitGroup.Wait", "semacquire", "sync.Cond.Wait"}
    mine = gotrace_s(summary, lambda stack: stack["reason"] in reasons)
    compare(tracer_s(go, recorded, "sync"), mine)


def test_network(traced: tuple) -> None:
    go, recorded, summary = traced
    # The tracer's wait ends when the netpoller has made the goroutine runnable.
    mine = gotrace_s(summary, lambda stack: stack["reason"] in ("IO wait", "netpoll"))
    compare(tracer_s(go, recorded, "net"), mine)


def test_system_calls(traced: tuple) -> None:
    go, recorded, summary = traced
    # The tracer's system call lasts until the goroutine is back on a P: the wait for a CPU is in it.
    states = {"syscall", "runqueue"}
    # Up to Go 1.25 the tracer's nanosleeps of 5 ms are up to 0.2 ms longer than what the kernel and the wait for a P add up
    # to; the program's own clock agrees with gotrace (test_stages). Not explained yet.
    minor = int(summary["target"]["go_version"].split(".")[1])
    mine = gotrace_s(summary, lambda stack: stack["state"] in states or stack["reason"] == "syscall exit")
    compare(tracer_s(go, recorded, "syscall"), mine, 0.02 if minor >= 26 else 0.06)
