"""Memory runs short around a trace: no room for maps, the kernel's OOM killer, pages that were swapped out. What was recorded
is valid, no probe stays, and whoever is not killed goes on unharmed."""

from __future__ import annotations

import ctypes as ct
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from attach import Attached, probes_of
from faults import checkout_with, is_complete, one_line, remove_cgroup, unharmed_churn
from gobuild import CACHE, GO_VERSIONS, build
from prerequisites import unavailable
from restricted import run
from workload import Workload

from gotrace.capture.reader import read_capture
from gotrace.common.errors import GotraceError
from gotrace.common.vocabulary import Loss
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.image import Image
from gotrace.kernel.compilation import Compilation
from gotrace.profile.types import Profile

pytestmark = pytest.mark.bpf

CGROUPS = Path("/sys/fs/cgroup")
SYS_PROCESS_MADVISE, MADV_PAGEOUT = 440, 21
PAGE = os.sysconf("SC_PAGE_SIZE")
PRESENT, SWAPPED = 1 << 63, 1 << 62  # Documentation/admin-guide/mm/pagemap.rst
SWAP_MB = 128


@pytest.fixture
def churn() -> Iterator[Workload]:
    with unharmed_churn() as workload:
        yield workload


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory_group() -> Iterator[tuple[Path, list[str]]]:
    """(the file for the limit of a new cgroup, what to put before a command to run it there). It may not swap."""
    for root, file, unswapped in (
        (CGROUPS / "memory", "memory.limit_in_bytes", "memory.swappiness"), (CGROUPS, "memory.max", "memory.swap.max"),
    ):
        with suppress(OSError):
            if file == "memory.max":
                (root / "cgroup.subtree_control").write_text("+memory")
            group = root / f"gotrace-test-{os.getpid()}"
            group.mkdir()
            if (group / file).exists():
                with suppress(FileNotFoundError):  # a kernel without swap
                    (group / unswapped).write_text("0")
                break
            group.rmdir()
    else:
        unavailable("needs a cgroup with the memory controller (remedy: mount one at /sys/fs/cgroup)")
    yield group / file, ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    remove_cgroup(group)


def test_no_memory_for_maps(churn: Workload, tmp_path: Path, memory_group: tuple[Path, list[str]]) -> None:
    limit_file, inside = memory_group
    Compilation().result()  # kept for the next ones
    refusals = 0
    for megabytes in (45, 60, 75, 90):
        limit_file.write_text(str(megabytes << 20))
        result = run(["attach", churn.pid, "-o", tmp_path / "x.gotrace"], inside)
        if result.returncode != -signal.SIGKILL:  # as the kernel likes: no map, or no process that touches a page meanwhile
            one_line(result, "the kernel refuses BPF map", "Cannot allocate memory", "memory limit")
            refusals += 1
        assert not probes_of(churn.pid) and not list(tmp_path.iterdir())
    assert refusals


@pytest.mark.full
def test_no_memory_for_the_compiler(
    churn: Workload, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, memory_group: tuple[Path, list[str]],
) -> None:
    limit_file, inside = memory_group
    # Once without a limit: pages of the compiler's libraries would be the cgroup's otherwise, which could then be busy for
    # minutes with reading them again and again.
    elsewhere = tmp_path_factory.mktemp("unlimited")
    compiled = run(["attach", churn.pid, "-d", "0.1"], environment=checkout_with(elsewhere), cwd=elsewhere)
    assert compiled.returncode == 0, compiled.stderr
    limit_file.write_text(str(40 << 20))
    environment = checkout_with(tmp_path)
    result = run(["attach", churn.pid], inside, environment=environment, cwd=tmp_path)
    if result.returncode != -signal.SIGKILL:  # it is the largest, but the kernel chooses
        one_line(result, "the BPF compiler was killed by SIGKILL", "memory limit")
    assert {path.name for path in tmp_path.iterdir()} == {"gotrace", "bpf"}


def memory_is_eaten(inside: list[str]) -> None:
    """A neighbour in the cgroup takes more than its limit, until the kernel has killed it as well."""
    eater = [*inside, sys.executable, "-c", "m = [bytearray(b'x' * (1 << 20)) for _ in range(1000)]"]
    assert subprocess.run(eater, stderr=subprocess.DEVNULL, timeout=120).returncode == -signal.SIGKILL


@pytest.mark.full
def test_the_oom_killer_takes_gotrace(churn: Workload, tmp_path: Path, memory_group: tuple[Path, list[str]]) -> None:
    """What was committed until then can be read."""
    limit_file, inside = memory_group
    limit_file.write_text(str(500 << 20))
    capture = tmp_path / "x.gotrace"
    with Attached(churn.pid, "-d", "0", "-o", capture) as trace:
        Path(f"/proc/{trace.process.pid}/oom_score_adj").write_text("1000")
        limit_file.with_name("cgroup.procs").write_text(str(trace.process.pid))
        committed(capture)
        memory_is_eaten(inside)
        assert trace.process.wait(60) == -signal.SIGKILL
    assert not committed(capture).complete


def committed(capture: Path) -> Profile:
    """What a capture holds as soon as that is worth anything."""
    deadline = time.monotonic() + 60
    while True:
        with suppress(GotraceError):  # nothing was committed yet
            profile = read_capture(capture)
            if sum(stack.distribution.count for stack in profile.stacks) > 100:
                return profile
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_the_oom_killer_takes_the_target(tmp_path: Path, memory_group: tuple[Path, list[str]]) -> None:
    """Its end is the end of the trace; what follows from the same file is not touched."""
    limit_file, inside = memory_group
    limit_file.write_text(str(200 << 20))
    capture = tmp_path / "x.gotrace"
    binary = build("churn", "1.27.3", "stripped")
    with Workload(*inside, str(binary)) as workload:
        with Attached(workload.pid, "-d", "0", "-o", capture, "-o", tmp_path / "x.html") as trace:
            Path(f"/proc/{workload.pid}/oom_score_adj").write_text("1000")
            time.sleep(0.5)
            memory_is_eaten(inside)
            assert trace.process.wait(60) == 0, trace.process.stderr.read()
        assert workload.wait() == -signal.SIGKILL
    is_complete(capture)
    assert (tmp_path / "x.html").stat().st_size > 1000
    with unharmed_churn() as another:
        assert another.running


# -- swap --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swap() -> Iterator[None]:
    """Room to swap to, for this module: a file, since a tmpfs can't hold it. The kernel's own choice is not changed by it, as long
    as there is memory."""
    if len(Path("/proc/swaps").read_text().splitlines()) > 1:
        yield
        return
    CACHE.mkdir(exist_ok=True)
    path = CACHE / f"swap-{os.getpid()}"
    try:
        with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            for _ in range(SWAP_MB):
                file.write(bytes(1 << 20))
        for command in (["mkswap", path], ["swapon", path]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                unavailable(f"needs swap: {done.stderr.strip()} (remedy: swapon FILE)")
        try:
            yield
        finally:
            subprocess.run(["swapoff", path], check=True)
    finally:
        path.unlink(missing_ok=True)


def page_out(pid: int) -> None:
    """Has the kernel take from a process all pages that it can: anonymous ones are swapped, those of files dropped."""
    pidfd = os.pidfd_open(pid)
    libc = ct.CDLL(None, use_errno=True)
    try:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if start >= 1 << 47:  # the kernel's own pages
                continue
            vector = struct.pack("<QQ", start, end - start)
            libc.syscall(SYS_PROCESS_MADVISE, pidfd, vector, ct.c_ulong(1), MADV_PAGEOUT, 0)  # locked pages stay
    finally:
        os.close(pidfd)


def swapped_kb(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmSwap:")[1].split()[0])


def pages(pid: int, addresses: list[int]) -> list[int]:
    """What /proc/PID/pagemap says of these addresses."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        return [struct.unpack("<Q", os.pread(file.fileno(), 8, address // PAGE * 8))[0] for address in addresses]


def word(pid: int, address: int) -> int:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        return struct.unpack("<Q", os.pread(file.fileno(), 8, address))[0]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def page_out_goroutines(pid: int, binary: Path) -> None:
    """All pages of a stopped process whose executable is no PIE; that its g structs and their list have gone is made sure of."""
    allgs = GoBinary(Image(binary.read_bytes())).allgs
    base, length = word(pid, allgs), word(pid, allgs + 8)
    wanted = [allgs, base, *(word(pid, base + 8 * index) for index in range(length))]
    deadline = time.monotonic() + 60
    while True:
        page_out(pid)
        found = pages(pid, wanted)
        if not any(page & PRESENT for page in found):
            break
        assert time.monotonic() < deadline, f"{sum(page & PRESENT != 0 for page in found)} of {len(found)} stay in memory"
        time.sleep(0.05)
    assert all(page & SWAPPED for page in found)


def test_a_dump_of_what_is_swapped_out(gotrace: Callable[..., subprocess.CompletedProcess[str]], swap: None) -> None:
    """Reads fetch the pages back: nothing is missing."""
    binary = build("states", GO_VERSIONS[-1], "stripped")
    with Workload(binary) as workload:
        with stopped(workload.pid):
            results = []
            for out in (False, True):
                if out:
                    page_out_goroutines(workload.pid, binary)
                done = gotrace("dump", workload.pid, "--json")
                assert done.returncode == 0, done.stderr
                results.append(json.loads(done.stdout))
            before, after = ([(one["id"], one["state"], one["frames"]) for one in result["goroutines"]] for result in results)
            assert len(before) > 15 and before == after
            assert not any(results[1]["losses"].values()), results[1]["losses"]
        assert workload.finish()[0] == 0


@pytest.mark.parametrize("mode", ["exact", "lean", "sample"])
def test_the_target_is_swapped_out(churn: Workload, tmp_path: Path, mode: str, swap: None) -> None:
    """Before the trace, once the probes are placed (their pages go too), while it runs, and before the end."""
    capture = tmp_path / "x.gotrace"
    binary = build("churn", "1.27.3", "stripped")
    os.kill(churn.pid, signal.SIGSTOP)
    try:
        page_out_goroutines(churn.pid, binary)
        with Attached(churn.pid, "-d", "0", "--mode", mode, "-o", capture) as trace:
            page_out_goroutines(churn.pid, binary)
            os.kill(churn.pid, signal.SIGCONT)
            for _ in range(3):
                time.sleep(0.2)
                page_out(churn.pid)
            os.kill(churn.pid, signal.SIGSTOP)
            page_out_goroutines(churn.pid, binary)
            trace.end()
        page_out(churn.pid)
    finally:
        os.kill(churn.pid, signal.SIGCONT)
    # Some fifty are parked. Only those that were stopped on their way off a CPU can't be read.
    assert is_complete(capture).losses[Loss.PARKED_UNREAD] <= os.cpu_count()


def test_gotrace_is_swapped_out(churn: Workload, tmp_path: Path, swap: None) -> None:
    capture = tmp_path / "x.gotrace"
    with Attached(churn.pid, "-d", "0", "-o", capture, "-o", tmp_path / "x.html") as trace:
        page_out(trace.process.pid)
        time.sleep(0.5)
        with stopped(trace.process.pid):
            page_out(trace.process.pid)
            assert swapped_kb(trace.process.pid) > 1000
        trace.end()
    is_complete(capture)
    assert (tmp_path / "x.html").stat().st_size > 1000
