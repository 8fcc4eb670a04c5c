"""One wait is one interval, whatever its thread does in the handlers of the signals that interrupt it."""

from __future__ import annotations

from pathlib import Path

import pytest
from attach import Attached
from gobuild import build_text
from summaries import at, count, total_ns
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

SIGNALS, NAP_MS = 4, 30
PROGRAM = f"""package main

/*
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static int ends[2];
static pthread_t reader;
static long long napped;
static long long slept(void) {{ return napped; }}
static long long now(void) {{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}}
static void nap(long ms) {{
	struct timespec t = {{0, ms * 1000000}};
	while (nanosleep(&t, &t));
}}
static void handler(int number) {{
	long long begin = now();
	nap({NAP_MS});
	napped += now() - begin;
}}
static void *interrupt(void *x) {{
	for (int i = 0; i < {SIGNALS}; i++) {{
		nap(100);
		pthread_kill(reader, SIGUSR2);
	}}
	nap(100);
	write(ends[1], "x", 1);
	return x;
}}
static void prepare(void) {{
	struct sigaction act = {{.sa_handler = handler, .sa_flags = SA_ONSTACK | SA_RESTART}};
	sigaction(SIGUSR2, &act, 0);
	pipe(ends);
}}
static long long wait_for_data(void) {{
	char c;
	pthread_t t;
	reader = pthread_self();
	pthread_create(&t, 0, interrupt, 0);
	long long begin = now();
	read(ends[0], &c, 1);
	return now() - begin;
}}
*/
import "C"

import (
	"fmt"
	"os"
)

//go:noinline
func waitForData() int64 {{ return int64(C.wait_for_data()) }}

func main() {{
	C.prepare()
	fmt.Println("ready")
	os.Stdin.Read(make([]byte, 1))
	waited := waitForData()
	fmt.Printf("{{\\"waited\\": %d, \\"napped\\": %d}}\\n", waited, int64(C.slept()))
	os.Stdin.Read(make([]byte, 1))
}}
"""


def test_handlers_that_sleep_do_not_part_a_wait(tmp_path: Path) -> None:
    with Workload(build_text("interrupted", "interrupted", PROGRAM, "1.27.3", "cgo")) as program:
        with Attached(program.pid, "-d", "0", "--json", "-o", tmp_path / "x.gotrace") as trace:
            program.send("")
            own = program.read_json(30)
            summary = trace.end_json()
    inside = at(summary, "main.waitForData")
    reads = [stack for stack in inside if stack["reason"] == "read"]
    naps = [stack for stack in inside if stack["reason"] in ("nanosleep", "clock_nanosleep")]
    assert (count(reads), count(naps)) == (1, SIGNALS)
    longest, = (stack["max_ns"] for stack in reads)
    assert longest == total_ns(reads)
    # The rest: waits for a CPU, and what the handlers ran.
    assert total_ns(reads) == pytest.approx(own["waited"] - own["napped"], rel=0.15)
    assert SIGNALS * NAP_MS * 1_000_000 <= total_ns(naps) <= own["napped"]
    assert total_ns(inside) == pytest.approx(own["waited"], rel=0.05)


STOLEN = """package main

/*
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
static int ends[2];
static volatile int taken, done;
static long long now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}
static void handler(int number) {}
static void *take(void *x) {
	sigset_t set;
	struct timespec none = {0, 0};
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, 0);
	while (!done)
		taken += sigtimedwait(&set, 0, &none) == SIGUSR2;
	return x;
}
static void *send(void *x) {
	sigset_t set;
	struct timespec pause = {0, 10000000};
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, 0);
	for (int i = 0; i < 500 && taken < 5; i++) {
		nanosleep(&pause, 0);
		kill(getpid(), SIGUSR2);
	}
	done = 1;
	write(ends[1], "x", 1);
	return x;
}
static void prepare(void) {
	struct sigaction act = {.sa_handler = handler, .sa_flags = SA_ONSTACK | SA_RESTART};
	sigaction(SIGUSR2, &act, 0);
	pipe(ends);
}
static long long wait_for_data(void) {
	char c;
	pthread_t t;
	pthread_create(&t, 0, take, 0);
	pthread_create(&t, 0, send, 0);
	long long begin = now();
	read(ends[0], &c, 1);
	return now() - begin;
}
static int thefts(void) { return taken; }
*/
import "C"

import (
	"fmt"
	"os"
	"runtime"
)

func init() { runtime.LockOSThread() } // the kernel asks the main thread first

//go:noinline
func waitForData() int64 { return int64(C.wait_for_data()) }

func main() {
	C.prepare()
	fmt.Println("ready")
	os.Stdin.Read(make([]byte, 1))
	waited := waitForData()
	fmt.Printf("{\\"waited\\": %d, \\"taken\\": %d}\\n", waited, int64(C.thefts()))
	os.Stdin.Read(make([]byte, 1))
}
"""


def test_signals_that_another_thread_takes_do_not_part_a_wait(tmp_path: Path) -> None:
    """The kernel wakes a thread for a signal to the process, and another thread is quicker: the sleep goes on with no signal delivered."""
    with Workload(build_text("stolen", "stolen", STOLEN, "1.27.3", "cgo")) as program:
        with Attached(program.pid, "-d", "0", "--json", "-o", tmp_path / "x.gotrace") as trace:
            program.send("")
            own = program.read_json(30)
            summary = trace.end_json()
    reads = [stack for stack in at(summary, "main.waitForData") if stack["reason"] == "read"]
    assert own["taken"] and count(reads) == 1
