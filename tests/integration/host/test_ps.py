"""`gotrace ps` on a host with a thousand processes, in containers, some of them stopped, throttled or out of reach."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from gobuild import GO_VERSIONS, SOME_BUILDS, build, build_text
from groups import enter, group
from prerequisites import unavailable
from workload import Workload

from gotrace.cli.ps import _KEYS
from gotrace.host.listing import Host, against_quota, pids
from gotrace.host.text import SORT_KEYS

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

SLEEPER = 'package main\n\nimport "time"\n\nfunc main() {\n\tgo time.Sleep(time.Hour)\n\ttime.Sleep(time.Hour)\n}\n'
CONTAINERS = ["0123456789abcdef" * 4, "aabbccdd" * 8, "99887766" * 8]
POD = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
GO_EACH, OTHERS_EACH = 100, 234
WEAK = ("setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace")
"""Such a process may not look into one that could trace others."""


def rows(text: str) -> dict[int, dict]:
    return {row["pid"]: row for row in json.loads(text)}


@contextmanager
def container(folder: Path, binary: Path, version: int) -> Iterator[list[int]]:
    """Own mount and PID namespaces and a control group, an executable that no path here leads to: yields the pids of its Go processes."""
    inside = (
        f"mount -t tmpfs none /mnt && cp {binary} /mnt/svc{version}; "
        f"for i in $(seq {GO_EACH}); do GOMAXPROCS={version + 1} /mnt/svc{version} & done; "
        f"for i in $(seq {OTHERS_EACH}); do sleep 600 & done; wait"
    )
    command = [*WEAK, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", inside]
    with subprocess.Popen(command, preexec_fn=lambda: enter(folder), stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                members = list(map(int, (folder / "cgroup.procs").read_text().split()))
                ours = [pid for pid in members if name_of(pid) == f"svc{version}"]
                if len(ours) == GO_EACH and len(members) >= GO_EACH + OTHERS_EACH:
                    break
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)
            yield ours
        finally:
            process.kill()
            while (folder / "cgroup.procs").read_text().split():
                time.sleep(0.05)


def name_of(pid: int) -> str:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


@pytest.fixture(scope="module")
def crowd() -> Iterator[dict]:
    """Some thousand processes: three containers, and two that are out of reach for `WEAK` ones."""
    if shutil.which("setpriv") is None or shutil.which("unshare") is None:
        unavailable("needs setpriv and unshare (remedy: apt-get install util-linux)")
    versions = (GO_VERSIONS[0], GO_VERSIONS[3], GO_VERSIONS[-1])
    binaries = [build_text(f"many-{version}", "many", SLEEPER, version, "stripped") for version in versions]
    paths = [f"/gotrace-ps/docker-{CONTAINERS[0]}.scope", f"/gotrace-ps/kubepods/pod{POD}/{CONTAINERS[1]}",
             f"/gotrace-ps/cri-containerd-{CONTAINERS[2]}.scope"]
    with ExitStack() as stack:
        folders = [stack.enter_context(group(path, "cpu")) for path in paths]
        ours = [stack.enter_context(container(folder, binary, at)) for at, (folder, binary) in enumerate(zip(folders, binaries, strict=True))]
        strong = [stack.enter_context(subprocess.Popen([binaries[2]])) for _ in range(2)]
        for process in strong:
            stack.callback(process.kill)
        settled(ours)
        yield {"containers": ours, "strong": [process.pid for process in strong], "versions": versions}


def settled(ours: list[list[int]]) -> None:
    """Waits until each program's runtime has started."""
    host, deadline = Host(), time.monotonic() + 60
    left = {pid for pids in ours for pid in pids}
    while left:
        left = {pid for pid in left if (row := host.go_process(pid)) is None or (row.goroutines or 0) < 3}
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_a_thousand_processes(crowd) -> None:
    """As seen by a process that may look into all but two of them."""
    assert len(pids()) > 1000
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    done = subprocess.run([*WEAK, sys.executable, "-m", "gotrace", "ps", "--json"], capture_output=True, text=True, timeout=120)
    took, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{took:.2f} s, {after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime:.2f} s of CPU")
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    for number, (members, version) in enumerate(zip(crowd["containers"], crowd["versions"], strict=True)):
        for pid in members:
            row = found[pid]
            assert (row["comm"], row["exe"], row["container"]) == (f"svc{number}", f"/mnt/svc{number}", CONTAINERS[number])
            assert row["pod"] == (POD if number == 1 else "")
            assert row["go_version"].startswith(f"go{version}") and row["go_version_source"] == "build info"
            assert (row["gomaxprocs"], row["cpu_quota"], row["traceable"], row["why"]) == (number + 1, None, True, "")
            assert 4 <= row["goroutines"] <= 12 and row["threads"] == len(os.listdir(f"/proc/{pid}/task"))
    assert not found.keys() & set(crowd["strong"])
    refused = int(done.stderr.split("note: ")[1].split()[0])
    assert refused >= 2 and "may not be examined, Go's or not" in done.stderr
    goroutines = [row["goroutines"] or -1 for row in json.loads(done.stdout)]
    assert goroutines == sorted(goroutines, reverse=True)


def test_only_what_is_needed_is_read(crowd) -> None:
    """Of each executable the headers, the build info and what leads to the variables: not once per process, and not the whole file."""
    def read() -> int:
        return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])

    before = read()
    found = Host().go_processes()
    assert len(found) >= 302
    others = len({os.stat(f"/proc/{pid}/exe").st_ino for pid in pids() if name_of(pid)})
    assert read() - before < (others + 10) * (4 << 20)


def test_the_crowd_by_container(crowd, gotrace) -> None:
    done = gotrace("dump", "--container", CONTAINERS[1][:8])
    assert done.returncode == 3 and f"selects {GO_EACH} Go processes" in done.stderr and ", ...;" in done.stderr
    assert gotrace("dump", "--container", CONTAINERS[1], "--name", "^svc0$").returncode == 1


@pytest.mark.parametrize(("version", "variant"), SOME_BUILDS)
def test_the_goroutines_are_those_of_a_dump(version: str, variant: str, gotrace) -> None:
    with Workload(build("parked", version, variant), "-goroutines", "2000") as workload:
        row = Host().go_process(workload.pid)
        dump = json.loads(gotrace("dump", workload.pid, "--json").stdout)
    assert abs(row.goroutines - len(dump["goroutines"])) <= 3 and row.goroutines > 2000
    assert (row.exe, row.comm, row.go_version) == tuple(dump["target"][key] for key in ("exe", "comm", "go_version"))
    assert row.gomaxprocs == os.cpu_count() and row.traceable and row.why == ""


def test_quotas(gotrace) -> None:
    """Two Ps on half a CPU are throttled; one P can't use three CPUs."""
    binary = build("parked", "1.27.3", "stripped")
    half = {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000", "cpu.max": "50000 100000"}
    three = {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "300000", "cpu.max": "300000 100000"}
    with Workload(binary) as busy, Workload(binary) as idle, group("/gotrace-quota", "cpu", three) as top:
        with group("/gotrace-quota/half", "cpu", half) as lower:
            enter(lower, busy.pid)
            enter(top, idle.pid)
            found = rows(gotrace("ps", "--json", "--sort", "quota").stdout)
            shown = gotrace("ps").stdout
    assert (found[busy.pid]["cpu_quota"], found[idle.pid]["cpu_quota"]) == (0.5, 3)
    procs = found[idle.pid]["gomaxprocs"]
    assert found[busy.pid]["procs_against_quota"] == against_quota(procs, 0.5)
    assert found[idle.pid]["procs_against_quota"] == against_quota(procs, 3)
    assert f"{procs}/3 fewer" in shown or procs >= 3
    assert "GOMAXPROCS is below the CPU quota" in shown or procs >= 3


@pytest.mark.parametrize(
    ("procs", "cpus", "verdict"),
    [(8, 2.0, "more"), (2, 0.5, ""), (3, 0.5, "more"), (3, 2.5, ""), (4, 2.5, "more"), (1, 1.5, ""), (1, 2.0, "fewer"), (4, None, ""),
     (None, 1.0, "")],
)
def test_what_disagrees_with_a_quota(procs: int | None, cpus: float | None, verdict: str) -> None:
    assert against_quota(procs, cpus) == verdict


def test_stopped_and_strange_ones(gotrace, tmp_path: Path) -> None:
    binary = build("parked", "1.27.3", "stripped")
    with Workload(binary) as workload:
        workload.signal(signal.SIGSTOP)
        try:
            deadline = time.monotonic() + 10
            while "State:\tT" not in Path(f"/proc/{workload.pid}/status").read_text():
                assert time.monotonic() < deadline
            row = rows(gotrace("ps", "--json").stdout)[workload.pid]
            assert row["traceable"] and row["why"] == "stopped by signal" and row["goroutines"] > 4
            line = next(line for line in gotrace("ps").stdout.splitlines() if line.split()[0] == str(workload.pid))
            assert line.endswith("yes: stopped by signal") and "parked" in line
        finally:
            workload.signal(signal.SIGCONT)


def test_behind_a_loader() -> None:
    loader = next((path for path in ("/lib64/ld-linux-x86-64.so.2",) if os.path.exists(path)), None)
    if loader is None:
        unavailable("needs ld.so")
    binary = build("parked", "1.27.3", "pie")
    with Workload(loader, str(binary)) as workload:
        row = Host().go_process(workload.pid)
    assert row.exe == os.path.realpath(binary) and row.go_version == "go1.27.3"


def test_the_keys_of_the_command_are_those_of_the_table(gotrace) -> None:
    assert _KEYS == SORT_KEYS
    for key in SORT_KEYS:
        assert gotrace("ps", "--sort", key).returncode == 0
