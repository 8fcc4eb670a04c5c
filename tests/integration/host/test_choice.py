"""TARGET: a pid, or the processes that a name, a container or a control group selects."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gobuild import build
from groups import enter, group
from prerequisites import unavailable
from workload import Workload

from gotrace.host.choice import Wanted, chosen
from gotrace.proc.stopped import note_of_stop, stopped

pytestmark = pytest.mark.bpf  # not beside others: they would be selected, too

OWN = f"t{os.getpid()}"
"""The names of the programs begin so: those of another run have other ones."""
ONE, OTHER = "deadbeef" * 8, "feedface" * 8
POD = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Workload]]:
    """Two processes of one program, one of another name; and a shell of the first one's name."""
    folder = tmp_path_factory.mktemp("programs")
    binary = build("parked", "1.27.3", "stripped")
    for name in (f"{OWN}-one", f"{OWN}x-one"):
        shutil.copy(binary, folder / name)
    shutil.copy(shutil.which("sleep"), folder / f"{OWN}-sleep")
    with Workload(folder / f"{OWN}-one") as first, Workload(folder / f"{OWN}-one") as second, Workload(folder / f"{OWN}x-one") as third:
        with subprocess.Popen([folder / f"{OWN}-sleep", "600"]) as sleeper:
            yield {"first": first, "second": second, "third": third, "sleeper": sleeper}
            sleeper.kill()


def both(services: dict[str, Workload]) -> list[int]:
    return sorted((services["first"].pid, services["second"].pid))


def test_by_name(services, gotrace) -> None:
    done = gotrace("dump", "--name", f"^{OWN}x-one$", "--json")
    assert json.loads(done.stdout)["target"]["pid"] == services["third"].pid
    done = gotrace("probes", "--name", f"^{OWN}x-on", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["verified_live"], done.stderr


@pytest.mark.parametrize("verb", ["dump", "probes"])
def test_several_are_refused_with_the_candidates(services, gotrace, verb: str) -> None:
    done = gotrace(verb, "--name", f"^{OWN}-")
    first, second = both(services)
    assert done.returncode == 3 and done.stdout == ""
    assert f"selects 2 Go processes: {first} ({OWN}-one), {second} ({OWN}-one); {verb} takes one" in done.stderr
    assert f"hint: gotrace {verb} {first}" in done.stderr


def test_attach_takes_several(services, gotrace, tmp_path: Path) -> None:
    done = gotrace("attach", "--name", f"^{OWN}-", "-d", "300ms", "-q", "--json", "-o", tmp_path / "x.gotrace")
    assert done.returncode == 0, done.stderr
    assert [target["pid"] for target in json.loads(done.stdout)["targets"]] == both(services)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--name", "^OWN-sleep$"], 3, "selects no Go process, but"),
        (["--name", "^no-such-name$"], 1, "selects no process"),
        (["--name", "("], 2, "is no regular expression"),
        (["--container", "deadbee"], 2, "at least 8 characters"),
        (["--container", "0123456789"], 1, "selects no process"),
        (["--cgroup", "/no/such/group"], 1, "selects no process"),
        ([], 2, "no process is given"),
        ([1, "--name", "x"], 2, "are both given"),
    ],
    ids=str,
)
@pytest.mark.parametrize("verb", ["attach", "dump", "probes"])
def test_what_selects_nothing(services, gotrace, verb: str, arguments: list, code: int, text: str) -> None:
    done = gotrace(verb, *(str(word).replace("OWN", OWN) for word in arguments))
    assert done.returncode == code and text in done.stderr.splitlines()[0], done.stderr
    assert len(done.stderr.splitlines()) == 2 and done.stderr.splitlines()[1].startswith("hint: ")


def test_by_container_and_by_cgroup(services) -> None:
    first, second = both(services)
    third = services["third"].pid
    with group(f"/gotrace-test/docker-{ONE}.scope", "cpu") as one, group(f"/gotrace-test/pod{POD}/{OTHER}", "cpu") as other:
        enter(one, first, services["sleeper"].pid)
        enter(other, second, third)
        assert chosen(Wanted(container=ONE[:8]), "dump") == (first,)
        assert chosen(Wanted(container=ONE), "dump") == (first,)
        assert chosen(Wanted(container=OTHER[:12]), "attach", several=True) == tuple(sorted((second, third)))
        assert chosen(Wanted(container=POD), "attach", several=True) == tuple(sorted((second, third)))
        assert chosen(Wanted(container=OTHER[:12], name=f"^{OWN}x"), "dump") == (third,)
        assert chosen(Wanted(cgroup=f"/gotrace-test/docker-{ONE}.scope"), "dump") == (first,)
        assert chosen(Wanted(cgroup=str(one)), "dump") == (first,)
        assert chosen(Wanted(cgroup="/gotrace-test"), "attach", several=True) == tuple(sorted((first, second, third)))
        assert chosen(Wanted(cgroup=f"/gotrace-test/pod{POD}/"), "attach", several=True) == tuple(sorted((second, third)))


def test_stops(services, gotrace) -> None:
    service = services["third"]
    assert stopped(service.pid) is None and note_of_stop(service.pid) == ""
    service.signal(signal.SIGSTOP)
    try:
        await_stop(service.pid)
        assert stopped(service.pid).words == "stopped by signal"
        note = f"process {service.pid} is stopped by a signal (T)"
        assert any(note in each for each in json.loads(gotrace("dump", service.pid, "--json").stdout)["notes"])
        assert f"note: {note}" in gotrace("probes", service.pid).stderr
    finally:
        service.signal(signal.SIGCONT)
    assert "notes" not in gotrace("probes", service.pid).stderr


def test_attach_says_that_the_target_is_stopped(services, gotrace) -> None:
    service = services["third"]
    service.signal(signal.SIGSTOP)
    try:
        await_stop(service.pid)
        done = gotrace("attach", service.pid, "--dry-run")
        assert done.returncode == 0 and "is stopped by a signal (T): nothing in it runs" in done.stderr and "kill -CONT" in done.stderr
    finally:
        service.signal(signal.SIGCONT)


def await_stop(pid: int) -> None:
    deadline = time.monotonic() + 10
    while "State:\tT" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_tracer(services) -> None:
    """As under gdb: the tracer has stopped it."""
    import ctypes as ct

    pid = services["third"].pid
    child = os.fork()
    if not child:
        ptrace = ct.CDLL(None).ptrace
        ptrace.argtypes = [ct.c_long, ct.c_long, ct.c_void_p, ct.c_void_p]
        ptrace(16, pid, None, None)  # PTRACE_ATTACH
        time.sleep(60)
        os._exit(0)
    try:
        deadline = time.monotonic() + 10
        while (found := stopped(pid)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        comm = Path(f"/proc/{child}/comm").read_text().strip()
        assert found.words.startswith("traced by") and f"its tracer, {comm} (pid {child})" in found.text
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    services["third"].signal(signal.SIGCONT)
    assert stopped(pid) is None


def test_a_frozen_group(services) -> None:
    pid = services["third"].pid
    with group("/gotrace-test-frozen/inner", "freezer") as folder:
        enter(folder, pid)
        assert stopped(pid) is None
        freeze = next((path for path in (folder / "freezer.state", folder / "cgroup.freeze") if path.exists()), None)
        if freeze is None:
            unavailable("no freezer (remedy: mount cgroup2, or the freezer controller)")
        freeze.write_text("FROZEN" if freeze.name == "freezer.state" else "1")
        try:
            deadline = time.monotonic() + 10
            while (found := stopped(pid)) is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert found.words == "cgroup is frozen"
        finally:
            freeze.write_text("THAWED" if freeze.name == "freezer.state" else "0")
        assert stopped(pid) is None
