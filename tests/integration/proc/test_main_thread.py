"""Hosts written in C whose main thread ends with pthread_exit, before or while they are traced: the others, and Go, go on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attach import Attached, probes_of
from gobuild import CACHE, go_command, go_environment
from summaries import at, count
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

LIBRARY = """package main

import "C"
import (
	"net"
	"sync/atomic"
	"time"
)

var naps atomic.Int64

//export Nap
func Nap() {
	for {
		time.Sleep(10 * time.Millisecond)
		naps.Add(1)
	}
}

//export Accept
func Accept() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	for {
		l.Accept()
	}
}

//export Naps
func Naps() int64 { return naps.Load() }

func main() {}
"""
HOST = """#include "lib.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_t first;
static int leave[2], go[2];

static void *napper(void *x) { Nap(); return x; }
static void *acceptor(void *x) { Accept(); return x; }
static void *passer(void *x) { char c; read(go[0], &c, 1); return x; }

/* Answers to lines: "naps" with how many there were, "main" and "passer" by ending that thread. Ends with its input. */
static void *teller(void *x) {
	char line[16];
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "main\\n") && write(leave[1], "", 1) != 1) abort();
		if (!strcmp(line, "passer\\n") && write(go[1], "", 1) != 1) abort();
		printf("%lld\\n", (long long)Naps());
		fflush(stdout);
	}
	_exit(0);
}

int main(void) {
	pthread_t t;
	char c;
	if (pipe(leave) || pipe(go)) abort();
	for (int i = 0; i < 4; i++) pthread_create(&t, 0, napper, 0);
	pthread_create(&t, 0, acceptor, 0);
	pthread_create(&t, 0, teller, 0);
	pthread_create(&t, 0, passer, 0);
	usleep(200000);
	printf("ready\\n");
	fflush(stdout);
	read(leave[0], &c, 1);
	pthread_exit(0);
}
"""


def host(version: str) -> Path:
    folder = CACHE / "fixtures" / f"pthread-exit-{version}"
    (folder / "lib").mkdir(parents=True, exist_ok=True)
    for name, text in (("lib/go.mod", "module lib\n\ngo 1.19\n"), ("lib/lib.go", LIBRARY), ("host.c", HOST)):
        (folder / name).write_text(text)
    subprocess.run(
        [go_command(version), "build", "-buildmode=c-archive", "-o", "../lib.a", "."], cwd=folder / "lib", check=True,
        env=go_environment() | {"CGO_ENABLED": "1"},
    )
    subprocess.run(["gcc", "-I.", "-o", "host", "host.c", "lib.a", "-lpthread"], cwd=folder, check=True)
    return folder / "host"


def asked(workload: Workload, what: str) -> int:
    workload.send(what)
    return int(workload.read_line(10))


def ended(workload: Workload) -> None:
    asked(workload, "main")
    deadline = time.monotonic() + 10
    while "State:\tZ" not in Path(f"/proc/{workload.pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.full("1.27.3")
@pytest.mark.parametrize("version", ["1.21.13", "1.27.3"])
def test_before_the_trace(gotrace, version: str, tmp_path: Path) -> None:
    with Workload(host(version)) as workload:
        ended(workload)
        for mode in ("exact", "lean"):
            with Attached(workload.pid, "--json", "--mode", mode, "-d", 0, "-o", tmp_path / f"{mode}.gotrace") as trace:
                before = asked(workload, "naps")
                time.sleep(1)
                after = asked(workload, "naps")
                summary = trace.end_json()
            # Naps that ended before the first answer, or after the second, are in the window as well.
            naps = count(at(summary, "main.Nap", state="waiting"))
            assert after - before <= naps, (before, after, naps)
            assert asked(workload, "naps") - before + 100 > naps
            assert not any(summary["losses"].get(loss) for loss in ("interval_lost", "goroutine_table_full", "missed_hits"))
            accept, = at(summary, "main.Accept", state="waiting")
            if mode == "exact":
                assert "tcp listening on 127.0.0.1:" in json.dumps(accept), accept
            assert not probes_of(workload.pid)
        text = gotrace("dump", workload.pid).stdout
        assert "4 goroutines (" in text and text.count("main.Nap") == 1 and text.count("main.Accept") == 1
        done = gotrace("attach", workload.pid, "-q", "--json", "--mode", "sample", "-d", 1, "-o", tmp_path / "s.gotrace")
        assert done.returncode == 0, done.stderr
        naps = at(json.loads(done.stdout), "main.Nap")
        window = json.loads(done.stdout)["window"]["duration_ns"]
        assert 0.9 * 4 * window < sum(stack["total_ns"] for stack in naps) <= 4.01 * window


@pytest.mark.parametrize("mode", ["exact", "sample"])
def test_during_the_trace(mode: str, tmp_path: Path) -> None:
    with Workload(host("1.27.3")) as workload:
        with Attached(workload.pid, "--json", "--mode", mode, "-d", 0, "-o", tmp_path / "x.gotrace") as trace:
            ended(workload)
            before = asked(workload, "naps")
            time.sleep(2)
            after = asked(workload, "naps")
            assert trace.process.poll() is None
            summary = trace.end_json()
        stacks = at(summary, "main.Nap")
        window = summary["window"]["duration_ns"]
        assert window > 1_900_000_000
        assert 0.9 * 4 * window < sum(stack["total_ns"] for stack in stacks) <= 4.01 * window
        if mode == "exact":
            assert count(at(summary, "main.Nap", state="waiting")) >= after - before
        assert asked(workload, "naps") > after


@pytest.mark.full
def test_the_thread_that_the_breakpoints_are_kept_for_ends(tmp_path: Path) -> None:
    """They stay where they are, and go with the trace."""
    code = (
        "import os, sys; import gotrace.kernel.uprobes as uprobes; from gotrace.cli import run;"
        "uprobes.living_thread = lambda pid: max(map(int, os.listdir(f'/proc/{pid}/task'))); sys.exit(run(sys.argv[1:]))"
    )
    with Workload(host("1.27.3")) as workload:
        ended(workload)
        last = max(Path(f"/proc/{workload.pid}/task").iterdir(), key=lambda path: int(path.name))
        assert last.joinpath("comm").read_text() == "host\n"
        arguments = ["attach", workload.pid, "--json", "-d", 3, "--max-overhead", 0, "-o", tmp_path / "x.gotrace"]
        trace = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with trace:
            assert trace.stderr.readline().startswith("Tracing")
            asked(workload, "passer")
            before = asked(workload, "naps")
            time.sleep(1)
            after = asked(workload, "naps")
            out, errors = trace.communicate(timeout=60)
        assert trace.returncode == 0, errors
        assert count(at(json.loads(out), "main.Nap", state="waiting")) >= after - before > 100
        assert not probes_of(workload.pid)
        assert asked(workload, "naps") > after


def test_the_end_of_the_process_ends_the_trace(tmp_path: Path) -> None:
    for mode in ("exact", "sample"):
        with Workload(host("1.27.3")) as workload:
            ended(workload)
            with Attached(workload.pid, "--json", "--mode", mode, "-d", 60, "-o", tmp_path / f"{mode}.gotrace") as trace:
                time.sleep(0.5)
                workload.close()
                summary = trace.result_json(timeout=30)
            assert summary["window"]["duration_ns"] < 30_000_000_000
            assert at(summary, "main.Nap")
