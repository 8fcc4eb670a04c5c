"""Copies of a Go process that fork made without exec: nothing of Go goes on in them, and that is said; of the original it is not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from gobuild import CACHE, build_text, go_command, go_environment
from summaries import at
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

COPY = """
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>
static int copy(void) {
	int pid = fork();
	if (pid) return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alarm(120);
	close(0);
	close(1);
	for (;;) pause();
}
"""
FORKER = f"""package main

/*{COPY}*/
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"time"
)

//go:noinline
func nap() {{
	for {{
		time.Sleep(10 * time.Millisecond)
	}}
}}

//go:noinline
func spin() {{
	for {{
	}}
}}

func main() {{
	runtime.GOMAXPROCS(3)
	go nap()
	go spin()
	time.Sleep(100 * time.Millisecond)
	fmt.Println("ready", C.copy())
	os.Stdin.Read(make([]byte, 1))
}}
"""
LIBRARY = """package main

import "C"
import "time"

//go:noinline
func nap() {
	for {
		time.Sleep(10 * time.Millisecond)
	}
}

//export Start
func Start() { go nap() }

func main() {}
"""
HOST = f"""#include "lib.h"
#include <pthread.h>
#include <stdio.h>
{COPY}
static void *starter(void *x) {{ Start(); return x; }}
int main(void) {{
	pthread_t t;
	pthread_create(&t, 0, starter, 0);
	pthread_join(t, 0);
	usleep(200000);
	printf("ready %d\\n", copy());
	fflush(stdout);
	getchar();
	return 0;
}}
"""


def daemon() -> Path:
    """A host in C whose main thread, which has nothing to do with Go, forks."""
    folder = CACHE / "fixtures" / "daemon"
    (folder / "lib").mkdir(parents=True, exist_ok=True)
    for name, text in (("lib/go.mod", "module lib\n\ngo 1.19\n"), ("lib/lib.go", LIBRARY), ("host.c", HOST)):
        (folder / name).write_text(text)
    subprocess.run(
        [go_command("1.27.3"), "build", "-buildmode=c-archive", "-o", "../lib.a", "."], cwd=folder / "lib", check=True,
        env=go_environment() | {"CGO_ENABLED": "1"},
    )
    subprocess.run(["gcc", "-I.", "-o", "host", "host.c", "lib.a", "-lpthread"], cwd=folder, check=True)
    return folder / "host"


def dumped(gotrace, pid: int) -> dict:
    done = gotrace("dump", "--json", pid)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.full
@pytest.mark.parametrize("version", ["1.21.13", "1.27.3"])
def test_a_copy_with_goroutines_that_ran(gotrace, version: str, tmp_path: Path) -> None:
    with Workload(build_text("forker", "forker", FORKER, version, "cgo")) as workload:
        copy = int(workload.ready.split()[1])
        assert not any("forked copy" in note for note in dumped(gotrace, workload.pid)["notes"])
        found = dumped(gotrace, copy)
        note, = found["notes"]
        assert f"{copy} is a forked copy of a Go process" in note and "will never run" in note
        states = {one["start_function"]: one["state"] for one in found["goroutines"]}
        assert states["main.spin"] == states["runtime.main"] == "no thread" and states["main.nap"] == "waiting", states
        assert "running" not in states.values()
        assert "is a forked copy" in gotrace("dump", copy).stdout
        done = gotrace("attach", copy, "-q", "--json", "--mode", "sample", "-d", 1, "-o", tmp_path / "x.gotrace")
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert summary["totals"]["running_ns"] is None and not at(summary, "main.spin") and at(summary, "main.nap", state="waiting")


def test_a_copy_that_a_thread_of_c_made(gotrace) -> None:
    with Workload(daemon()) as workload:
        copy = int(workload.ready.split()[1])
        assert not any("forked copy" in note for note in dumped(gotrace, workload.pid)["notes"])
        note, = dumped(gotrace, copy)["notes"]
        assert "is a forked copy of a Go process" in note
