"""Probes that the kernel takes and the process never meets; programs behind loaders and wrappers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gobuild import build, build_text
from prerequisites import unavailable

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

SLEEPER = """package main

import "time"

//go:noinline
func sleeper() {
	for {
		time.Sleep(20 * time.Millisecond)
	}
}

func main() {
	sleeper()
}
"""
LOADER = "/lib64/ld-linux-x86-64.so.2"


@contextlib.contextmanager
def running(*command: object, **options: object) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        time.sleep(0.3)
        yield process
    finally:
        process.kill()
        process.wait()


def gotrace(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "gotrace", *map(str, arguments)], capture_output=True, text=True, timeout=90)


def sleeps(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 0, done.stderr
    return sum(
        stack["count"] for stack in json.loads(done.stdout)["stacks"]
        if stack["reason"] == "sleep" and any(frame["name"] == "main.sleeper" for frame in stack["frames"])
    )


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    # The upper layer must not lie on an overlay itself, which the temporary folder may.
    for name in ("work", "merged"):
        (tmp_path / name).mkdir()
    binary = build_text("sleeper", "sleeper", SLEEPER, "1.27.3", "stripped")
    if subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "work"]).returncode:
        unavailable("no mounts")
    for name in ("upper", "inner", "lower"):
        (tmp_path / "work" / name).mkdir()
    program = tmp_path / "work" / "lower" / "program"
    program.write_bytes(binary.read_bytes())
    program.chmod(0o755)
    work = tmp_path / "work"
    try:
        mounted = subprocess.run(
            ["mount", "-t", "overlay", "none", "-o", f"lowerdir={work}/lower,upperdir={work}/upper,workdir={work}/inner", tmp_path / "merged"]
        )
        if mounted.returncode:
            unavailable("no overlayfs")
        yield tmp_path / "merged" / "program"
    finally:
        subprocess.run(["umount", "-l", tmp_path / "merged"], stderr=subprocess.DEVNULL)
        subprocess.run(["umount", "-l", work])


@pytest.mark.parametrize("mode", [(), ("--mode", "lean"), ("--syscalls", "uprobes")])
def test_an_executable_that_was_copied_up(overlay: Path, mode: tuple[str, ...]) -> None:
    with running(overlay) as process:
        overlay.chmod(0o775)  # the process goes on with the lower file
        done = gotrace("attach", process.pid, "-d", 1.5, "-q", "--json", "--max-overhead", 0, "-o", overlay.parents[1] / "x.gotrace", *mode)
    if mode == ("--mode", "lean"):
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["overhead"]["hits"] > 20
    else:
        assert sleeps(done) > 20


def test_a_lower_file_that_is_out_of_reach(overlay: Path) -> None:
    work = overlay.parents[1] / "work"
    with running(overlay) as process:
        overlay.chmod(0o775)
        (work / "lower" / "program").rename(work / "hidden")
        done = gotrace("attach", process.pid, "-d", 1, "-q", "-o", overlay.parents[1] / "x.gotrace")
    assert done.returncode == 3
    assert "probes do not arrive" in done.stderr and "copied up after it started" in done.stderr
    assert f"gotrace attach {process.pid} --mode sample" in done.stderr


@pytest.mark.parametrize("version", ["1.21.13", "1.27.3"])
def test_code_in_anonymous_memory(tmp_path: Path, version: str) -> None:
    with running(build("movedtext", version, "cgo")) as process:
        for mode in ((), ("--mode", "lean")):
            done = gotrace("attach", process.pid, "-d", 1, "-q", "-o", tmp_path / "x.gotrace", *mode)
            assert done.returncode == 3
            assert "its code is in anonymous memory" in done.stderr and "--mode sample" in done.stderr
        assert process.poll() is None


@pytest.mark.parametrize("variant", ["cgo", "pie"])
def test_a_program_that_the_loader_was_told_to_run(tmp_path: Path, variant: str) -> None:
    text = SLEEPER if variant == "pie" else SLEEPER.replace('import "time"', 'import "C"\nimport "time"')
    binary = build_text(f"sleeper-{variant}", "sleeper", text, "1.27.3", variant)
    with running(LOADER, binary) as process:
        summary = gotrace("attach", process.pid, "-d", 1, "-q", "--json", "--max-overhead", 0, "-o", tmp_path / "x.gotrace")
        assert sleeps(summary) > 10
        assert json.loads(summary.stdout)["target"]["exe"] == os.path.realpath(binary)
        assert "main.sleeper" in gotrace("dump", process.pid).stdout


WRAPPERS = [
    ("sh", "-c", "{}; true"), ("timeout", "60", "{}"), ("sh", "-c", "timeout 60 {}; true"), ("strace", "-f", "-o", "/dev/null", "{}"),
    ("script", "-qec", "{}", "/dev/null"), ("sudo", "{}"), ("sudo", "sh", "-c", "{}; true"), ("tini", "-s", "--", "{}"),
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_names_its_child(wrapper: tuple[str, ...]) -> None:
    if shutil.which(wrapper[0]) is None:
        unavailable(f"needs {wrapper[0]} (remedy: sudo ./scripts/test)")
    binary = build_text("sleeper", "sleeper", SLEEPER, "1.27.3", "stripped")
    child = 0
    with running(*(word.format(binary) for word in wrapper), start_new_session=True) as process:
        try:
            for verb in (("attach",), ("dump",), ("attach", "--mode", "sample"), ("probes",), ("sched",)):
                done = gotrace(*verb, process.pid)
                assert done.returncode == 3
                assert "is not a Go program; its child" in done.stderr and "(sleeper) is" in done.stderr
                child = int(done.stderr.split("its child ")[1].split()[0])
                assert os.path.samefile(f"/proc/{child}/exe", binary)
                assert f"gotrace {verb[0]} {child}" in done.stderr
        finally:
            os.killpg(process.pid, 9)
            if child:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, 9)  # script and sudo give it a session of its own


def test_what_replaces_itself_is_no_wrapper() -> None:
    binary = build_text("sleeper", "sleeper", SLEEPER, "1.27.3", "stripped")
    with running("env", "-u", "HOME", binary) as process:
        assert "main.sleeper" in gotrace("dump", process.pid).stdout


SLOW = SLEEPER.replace(
    'import "time"',
    """/*
#include <stdlib.h>
#include <unistd.h>
static void __attribute__((constructor)) slow(void) { if (getenv("SLOW")) usleep(1000 * atoi(getenv("SLOW"))); }
*/
import "C"
import "time\"""",
)


@pytest.mark.full
def test_a_program_whose_constructors_run(tmp_path: Path) -> None:
    binary = build_text("slow", "slow", SLOW, "1.27.3", "cgo")
    with running(binary, env=os.environ | {"SLOW": "60000"}) as process:
        for verb in (("attach",), ("dump",), ("attach", "--mode", "sample"), ("probes",)):
            done = gotrace(*verb, process.pid)
            assert done.returncode == 3
            assert "has not started its Go runtime yet" in done.stderr and "hint: try again when it has started" in done.stderr
    with running(binary, env=os.environ | {"SLOW": "1000"}) as process:
        done = gotrace("dump", process.pid)
        assert done.returncode == 0 and "main.sleeper" in done.stdout or "runtime.main" in done.stdout, done.stderr


def test_a_memory_cgroup_at_its_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from gotrace.proc import limits

    (tmp_path / "a" / "b").mkdir(parents=True)
    for name, use, most in (("a/b", 10 << 20, 1 << 63), ("a", 60 << 20, 60 << 20)):
        (tmp_path / name / "memory.usage_in_bytes").write_text(str(use))
        (tmp_path / name / "memory.limit_in_bytes").write_text(str(most - 1 if most == 1 << 63 else most))
    monkeypatch.setattr(limits, "_groups", lambda pid: [(1, "/a/b")])
    monkeypatch.setattr(limits, "_mounts", lambda version: [str(tmp_path)])
    assert limits.memory_limit(1) == "/a is at its limit (60 of 60 MB)"
    (tmp_path / "a" / "memory.usage_in_bytes").write_text(str(20 << 20))
    assert limits.memory_limit(1) == ""


def test_lower_layers() -> None:
    from gotrace.proc.overlay import lower_layers

    assert lower_layers(r"rw,lowerdir=/a\134:b:/c\040d::/e,upperdir=/u") == ["/a:b", "/c d", "/e"]
    assert lower_layers("rw,lowerdir+=/a:b,lowerdir+=/c") == ["/a:b", "/c"]
