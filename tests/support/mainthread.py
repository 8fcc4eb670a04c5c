"""A host written in C whose main thread ends with pthread_exit, while its other threads, and Go, go on."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from gobuild import CACHE, go_command, go_environment
from workload import Workload

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
