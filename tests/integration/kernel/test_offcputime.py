"""bcc's offcputime is the oracle for kernel stacks: both watch the same run, and agree on where threads slept and how long."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from attach import Attached
from gobuild import GO_VERSIONS, build
from summaries import at, names
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.vm]

TOOL = "offcputime-bpfcc"
# Where a thread leaves its CPU, and whence it came into the kernel: the tracepoint and the kprobe are not at the same place.
SCHEDULER = re.compile(r"finish_task_switch(\.|$)|__schedule$|schedule$")
ENTRY = re.compile(r"entry_SYSCALL_64")

Chain = tuple[str, ...]


def tool() -> str:
    """The tool's path; skips the test where it can't run."""
    release = os.uname().release
    path = shutil.which(TOOL) or shutil.which(TOOL, path="/usr/sbin")
    if not Path("/sys/bus/event_source/devices/kprobe/type").exists():
        pytest.skip("offcputime needs kprobes, which this kernel has not (remedy: sudo ./scripts/vm test)")
    if path is None:
        pytest.skip(f"there is no {TOOL} (remedy: apt-get install bpfcc-tools)")
    if not Path(f"/lib/modules/{release}/build").exists():
        pytest.skip(f"offcputime needs the kernel's headers (remedy: apt-get install linux-headers-{release})")
    return path


def trimmed(frames: list[str]) -> Chain:
    """A kernel stack, leaf first, from the function that waits to the system call."""
    while frames and SCHEDULER.match(frames[0]):
        frames = frames[1:]
    while frames and ENTRY.match(frames[-1]):
        frames = frames[:-1]
    return tuple(frames)


def parsed(text: str) -> dict[int, Counter[Chain]]:
    """Nanoseconds by thread and kernel stack. The tool prints a stack leaf first, then `- COMM (TID)`, then microseconds."""
    found: dict[int, Counter[Chain]] = {}
    for block in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        thread = re.fullmatch(r"-\s+.*\((\d+)\)", lines[-2]) if len(lines) > 1 else None
        if thread:
            found.setdefault(int(thread[1]), Counter())[trimmed(lines[:-2])] += int(lines[-1]) * 1000
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict[int, Counter[Chain]], int]:
    """(gotrace's summary, the tool's times by thread, the thread of the runtime's monitor)."""
    command, folder = tool(), tmp_path_factory.mktemp("offcputime")
    with Workload(build("stages", GO_VERSIONS[-1], "stripped"), undisturbed=True) as workload:
        # runtime.main starts the monitor's thread before any other; it sleeps in nanosleep, and is no goroutine.
        monitor = sorted(int(task.name) for task in Path(f"/proc/{workload.pid}/task").iterdir())[1]
        with subprocess.Popen(
            [command, "-p", str(workload.pid), "-K", "--stack-storage-size", "65536"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:
            try:
                line = process.stdout.readline()
                assert line.startswith("Tracing off-CPU time"), line + process.stderr.read()
                with Attached(workload.pid, "-d", "0", "--json", "-o", folder / "x.gotrace") as trace:
                    workload.send("go")
                    workload.read_json(120)
                    summary = trace.end_json()
                process.send_signal(signal.SIGINT)
                text, errors = process.communicate(timeout=120)
                assert process.returncode == 0, errors
            finally:
                process.kill()
        assert workload.finish()[0] == 0
    return summary, parsed(text), monitor


def test_the_tool_s_output_is_understood() -> None:
    text = (
        "Tracing off-CPU time (us) of PID 7 by kernel stack... Hit Ctrl-C to end.\n\n"
        "    finish_task_switch.isra.0\n    __schedule\n    schedule\n    pipe_read\n    do_syscall_64\n"
        "    entry_SYSCALL_64_after_hwframe\n    -                a (b) c (7)\n        12\n\n"
        "    finish_task_switch.isra.0\n    schedule\n    do_nanosleep\n    do_syscall_64\n    -                x (8)\n        5\n\n"
    )
    assert parsed(text) == {7: {("pipe_read", "do_syscall_64"): 12_000}, 8: {("do_nanosleep", "do_syscall_64"): 5_000}}


@pytest.mark.parametrize(
    ("functions", "in_kernel", "others"),
    # Threads without a goroutine that look for work sleep in nanosleep too, some microseconds at a time (runtime.usleep).
    [(("main.pipeRead", "main.readPipe"), "pipe_read", False), (("main.sleepInKernel",), "nanosleep", True)],
    ids=["pipe", "nanosleep"],
)
def test_the_same_kernel_stacks_for_the_same_time(both: tuple, functions: tuple, in_kernel: str, others: bool) -> None:
    summary, threads, monitor = both
    theirs: Counter[Chain] = Counter()
    for thread, chains in threads.items():
        if thread != monitor:
            # A thread that loses its CPU in the kernel does not sleep there: for us it waits for a CPU, without a kernel stack.
            slept = {chain: time for chain, time in chains.items() if not "".join(chain[:1]).startswith("preempt_schedule")}
            theirs.update({chain: time for chain, time in slept.items() if any(in_kernel in name for name in chain)})
    ours: Counter[Chain] = Counter()
    # The tool's time ends when the thread has a CPU again; ours tells the sleep and the wait for that CPU apart.
    for stack in at(summary, *functions, state="syscall") + at(summary, *functions, state="runqueue"):
        chain = trimmed(names(stack, "kernel"))
        if any(in_kernel in name for name in chain):
            ours[chain] += stack["total_ns"]
    assert ours.keys() == theirs.keys() and ours
    for chain, time in theirs.items():
        assert ours[chain] <= 1.05 * time and (others or ours[chain] >= 0.95 * time), (ours, theirs)
