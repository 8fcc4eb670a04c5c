"""`gotrace sched` says what the runtime says of itself: by GODEBUG=schedtrace in the same process, by runtime/metrics, by what was made."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attach import probes_of
from gobuild import GO_VERSIONS, SOME_VERSIONS, build, build_text
from groups import enter, group
from workload import Workload

from gotrace.sched.reading import SchedReader
from gotrace.sched.types import Snapshot

pytestmark = pytest.mark.bpf

BLOCKED, WAITING, TIMERS, COLLECTIONS = 5, 7, 10, 3
HEADS = re.compile(r"^SCHED \d+ms: (.*)$", re.MULTILINE)
G_LINE = re.compile(r"^  G(\d+): status=(\d+)\(", re.MULTILINE)
P_LINE = re.compile(r"^  P\d+: .*?runqsize=(\d+) .*?timerslen=(\d+)", re.MULTILINE)
M_LINE = re.compile(r"^  M\d+: p=(\S+) curg=(\S+) .*?spinning=(\w+)", re.MULTILINE)
DEAD = {0, 6, 11}


def numbers(line: str) -> dict[str, int]:
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line)}


def reports(text: str) -> list[dict]:
    """The whole reports of schedtrace with scheddetail."""
    parts = re.split(r"(?=^SCHED )", text, flags=re.MULTILINE)[1:-1]  # the last one may be incomplete
    found = []
    for part in parts:
        head = numbers(part.splitlines()[0])
        states = [int(state) & ~0x1000 for _, state in G_LINE.findall(part)]
        queues = [tuple(map(int, pair)) for pair in P_LINE.findall(part)]
        found.append(head | {
            "queues": [length for length, _ in queues], "timers": sum(timers for _, timers in queues),
            "threads_listed": len(M_LINE.findall(part)),
            "total": sum(state not in DEAD for state in states), "syscall": states.count(3), "runnable": states.count(1),
            "running": states.count(2) + states.count(8), "waiting": states.count(4) + states.count(9) + states.count(10),
        })
    return found


class Traced:
    """The fixture under GODEBUG=schedtrace. `lines` returns what it has reported since the last call."""

    def __init__(self, binary: Path, folder: Path, *flags: str, procs: int = 3, every_ms: int = 50) -> None:
        self.errors = folder / "schedtrace.txt"
        self._command = ["sh", "-c", 'exec "$0" "$@" 2>"$ERRORS"', str(binary), *flags]
        self._environment = {"GODEBUG": f"schedtrace={every_ms},scheddetail=1", "GOMAXPROCS": str(procs), "ERRORS": str(self.errors)}
        self._read = 0

    @contextmanager
    def running(self) -> Iterator[Workload]:
        with pytest.MonkeyPatch.context() as environment:
            for name, value in self._environment.items():
                environment.setenv(name, value)
            with Workload(*self._command) as workload:
                yield workload

    def lines(self) -> str:
        text = self.errors.read_text()[self._read :]
        self._read += len(text)
        return text


@contextmanager
def reader_of(pid: int) -> Iterator[SchedReader]:
    reader = SchedReader(pid)
    try:
        yield reader
    finally:
        reader.close()


def compare(ours: list[Snapshot], theirs: list[dict], name: str, values: list, key: str) -> None:
    """Each of our values lies between the least and the greatest of theirs, or is no farther off than those are apart."""
    assert len(ours) >= 5 and len(theirs) >= 5, (len(ours), len(theirs))
    assert None not in values, name
    low, high = min(each[key] for each in theirs), max(each[key] for each in theirs)
    apart = high - low
    wrong = [value for value in values if not low - apart <= value <= high + apart]
    assert not wrong, f"{name}: {wrong}, by schedtrace {low} to {high}"


def readings(reader: SchedReader, count: int, every_s: float) -> list[Snapshot]:
    found = []
    for _ in range(count):
        found.append(reader.read())
        time.sleep(every_s)
    return found


@pytest.mark.parametrize("version", SOME_VERSIONS)
def test_at_rest(version: str, tmp_path: Path) -> None:
    """Nothing changes: every value is the one that schedtrace reports, and the one that was made."""
    traced = Traced(build("scheduled", version, "stripped"), tmp_path)
    with traced.running() as workload:
        time.sleep(0.3)
        traced.lines()
        with reader_of(workload.pid) as reader:
            ours = readings(reader, 12, 0.05)
        theirs = reports(traced.lines())
        workload.send("tell")
        told = workload.read_json(10)
    last = ours[-1]
    for key, name in (
        ("gomaxprocs", "gomaxprocs"), ("idleprocs", "idle_procs"), ("threads", "threads"), ("spinningthreads", "spinning_threads"),
        ("idlethreads", "idle_threads"), ("runqueue", "run_queue"),
    ):
        compare(ours, theirs, name, [getattr(each, name) for each in ours], key)
    for name in ("total", "running", "runnable", "waiting", "syscall"):
        compare(ours, theirs, name, [getattr(each.goroutines, name) for each in ours], name)
    compare(ours, theirs, "timers", [each.timers.count for each in ours], "timers")
    assert [each.local_run_queues for each in ours] == [[0, 0, 0]] * len(ours) and theirs[-1]["queues"] == [0, 0, 0]
    assert last.gomaxprocs == told["gomaxprocs"] == 3 and last.threads == theirs[-1]["threads_listed"]
    # Its main goroutine reads stdin, which is a pipe.
    assert last.syscall_threads == {"read": BLOCKED + 1} and last.goroutines.syscall == BLOCKED + 1
    assert last.goroutines.total >= told["goroutines"] >= BLOCKED + WAITING + 1 and last.goroutines.waiting >= WAITING
    assert last.timers.count >= TIMERS and last.timers.next_ns <= 3_600_000_000_000
    if last.timers.count == TIMERS:  # else the scavenger has one of its own
        assert last.timers.overdue_ns == 0 and last.timers.next_ns > 3_000_000_000_000
    assert (last.gc.cycles, last.gc.pause_total_ns) == (told["num_gc"], told["pause_total_ns"]) and last.gc.cycles >= COLLECTIONS
    assert last.gc.cycles == told["metrics"]["/gc/cycles/total:gc-cycles"] and last.gc.pause_total_ns > 0
    assert (last.gc.running, last.gc.phase) == (False, "off") and last.running_threads == 0 and last.cgo_threads == 0
    # Go 1.26 and later count by state. The main goroutine runs while it tells, and is in read(2) otherwise.
    for metric, value in (
        ("gomaxprocs:threads", last.gomaxprocs),
        ("goroutines/runnable:goroutines", last.goroutines.runnable), ("goroutines/waiting:goroutines", last.goroutines.waiting),
        ("goroutines/running:goroutines", last.goroutines.running + 1), ("goroutines/not-in-go:goroutines", last.goroutines.syscall - 1),
    ):
        assert told["metrics"].get(f"/sched/{metric}", value) == value, metric
    # To tell may take one more thread.
    assert told["metrics"].get("/sched/threads/total:threads", last.threads) - last.threads in (0, 1)
    assert ("/sched/goroutines/waiting:goroutines" in told["metrics"]) == (version in GO_VERSIONS[-2:])


@pytest.mark.parametrize("version", SOME_VERSIONS)
@pytest.mark.parametrize("variant", ["stripped", "plain"])
def test_with_more_to_run_than_there_are_procs(version: str, variant: str, tmp_path: Path) -> None:
    """Goroutines that never wait: three run, the others are in the queues."""
    burners = 30
    traced = Traced(build("scheduled", version, variant), tmp_path, "-burners", str(burners))
    with traced.running() as workload:
        traced.lines()
        with reader_of(workload.pid) as reader:
            ours = readings(reader, 15, 0.05)
        theirs = reports(traced.lines())
    for key, name in (("gomaxprocs", "gomaxprocs"), ("idleprocs", "idle_procs"), ("threads", "threads"), ("runqueue", "run_queue")):
        compare(ours, theirs, name, [getattr(each, name) for each in ours], key)
    for name in ("total", "running", "runnable", "syscall"):
        compare(ours, theirs, name, [getattr(each.goroutines, name) for each in ours], name)
    longest = max(max(each["queues"]) for each in theirs)
    assert longest > 0 and max(max(each.local_run_queues) for each in ours) <= burners
    # Each P may have set one aside to run next, and some move between the readings of two tables: in few readings many.
    right = [
        burners - 3 - 6 <= each.run_queue + sum(each.local_run_queues) <= burners + 6 and abs(each.goroutines.runnable - (burners - 3)) <= 6
        for each in ours
    ]
    assert sum(right) >= len(ours) - 3
    assert sorted(each.running_threads for each in ours)[len(ours) // 2] == 3 == sorted(each.goroutines.running for each in ours)[len(ours) // 2]


def test_a_collection_is_seen() -> None:
    """A program that does hardly anything but collect garbage."""
    text = (
        "package main\n\nimport (\n\t\"fmt\"\n\t\"runtime\"\n)\n\nvar kept [][]*int\n\nfunc main() {\n\tfor n := 0; n < 2000; n++ {\n"
        "\t\trow := make([]*int, 1000)\n\t\tfor i := range row {\n\t\t\trow[i] = new(int)\n\t\t}\n\t\tkept = append(kept, row)\n\t}\n"
        "\tfmt.Println(\"ready\")\n\tgo func() {\n\t\tfor {\n\t\t\truntime.GC()\n\t\t}\n\t}()\n\tfmt.Scanln()\n}\n"
    )
    with Workload(build_text("collecting", "collecting", text, "1.27.3", "stripped")) as workload, reader_of(workload.pid) as reader:
        found = readings(reader, 60, 0.01)
    phases = {each.gc.phase for each in found}
    assert "mark" in phases and phases <= {"off", "mark", "mark termination"}
    assert all(each.gc.running == (each.gc.phase != "off") for each in found)
    cycles, pauses = [each.gc.cycles for each in found], [each.gc.pause_total_ns for each in found]
    assert cycles == sorted(cycles) and cycles[-1] > cycles[0] and pauses == sorted(pauses) and pauses[-1] > pauses[0]


CGO = """package main

// #include <unistd.h>
import "C"
import "fmt"

func main() {
	for n := 0; n < 4; n++ {
		go C.sleep(1000)
	}
	fmt.Println("ready")
	fmt.Scanln()
}
"""


@pytest.mark.parametrize("version", [GO_VERSIONS[0], GO_VERSIONS[-1]])
def test_threads_in_c(version: str) -> None:
    with Workload(build_text(f"sleeps-in-c-{version}", "inc", CGO, version, "cgo")) as workload, reader_of(workload.pid) as reader:
        deadline = time.monotonic() + 10
        while (found := reader.read()).cgo_threads != 4:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
    assert found.goroutines.syscall == 5 and found.syscall_threads == {"read": 1}


@pytest.mark.parametrize("version", SOME_VERSIONS)
def test_timers_that_are_overdue(version: str) -> None:
    """The process is stopped: what is due does not happen."""
    with Workload(build("parked", version, "stripped"), "-goroutines", "10") as workload, reader_of(workload.pid) as reader:
        workload.signal(signal.SIGSTOP)
        try:
            time.sleep(0.5)
            late = reader.read().timers.overdue_ns
            time.sleep(0.5)
            later = reader.read().timers.overdue_ns
        finally:
            workload.signal(signal.SIGCONT)
    assert late > 0 and 450_000_000 <= later - late <= 60_000_000_000


def test_a_quota_and_its_throttling() -> None:
    tenth = {"cpu.cfs_period_us": "20000", "cpu.cfs_quota_us": "2000", "cpu.max": "2000 20000"}
    with Workload(build("scheduled", "1.27.3", "stripped"), "-burners", "4") as workload, group("/gotrace-sched", "cpu", tenth) as folder:
        enter(folder, workload.pid)
        with reader_of(workload.pid) as reader:
            first, second = readings(reader, 2, 0.5)
    assert first.cpu_quota == second.cpu_quota == 0.1
    assert second.throttled_ns > first.throttled_ns >= 0


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service() -> Iterator[Workload]:
    with Workload(build("scheduled", "1.27.3", "stripped")) as workload:
        yield workload


def test_readings_as_json(service, gotrace) -> None:
    done = gotrace("sched", service.pid, "--json", "--every", "20ms", "--count", "4")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(found) == 4 and not done.stderr
    assert [each["time"] for each in found] == sorted({each["time"] for each in found})
    contract = ["time", "gomaxprocs", "cpu_quota", "idle_procs", "threads", "spinning_threads", "idle_threads", "run_queue",
                "local_run_queues", "goroutines", "syscall_threads", "gc"]
    assert list(found[0])[: len(contract)] == contract
    assert list(found[0]["goroutines"]) == ["total", "running", "runnable", "waiting", "syscall"]
    assert list(found[0]["gc"])[:3] == ["running", "cycles", "pause_total_ns"]


def test_one_reading_for_people(service, gotrace) -> None:
    done = gotrace("sched", service.pid)
    assert done.returncode == 0 and done.stdout.startswith(f"scheduled (pid {service.pid}) · go1.27.3\n")
    assert f"read {BLOCKED + 1}\n" in done.stdout and "no CPU quota" in done.stdout and f"off, {COLLECTIONS} cycles" in done.stdout


@pytest.mark.parametrize("width", [60, 80, 160])
def test_a_table_that_fits(service, gotrace, width: int) -> None:
    done = gotrace("sched", service.pid, "--every", "10ms", "--count", "25", env=os.environ | {"COLUMNS": str(width)})
    lines = done.stdout.splitlines()
    assert len(lines) == 27 and lines[0] == lines[21], "a heading each 20 rows"
    assert max(map(len, lines)) <= width
    assert ("throttled" in lines[0], "trend" in lines[0]) == (width == 160, width == 160)
    assert re.fullmatch(r"\d\d:\d\d:\d\d +\d+ .*", lines[1])


def test_it_ends_with_the_process_or_at_ctrl_c(gotrace) -> None:
    for how in ("ends", "ctrl-c"):
        with Workload(build("scheduled", "1.27.3", "stripped")) as workload:
            command = [sys.executable, "-m", "gotrace", "sched", str(workload.pid), "--every", "50ms", "--json"]
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background job ignores it
            ) as process:
                for _ in range(3):
                    assert json.loads(process.stdout.readline())["gomaxprocs"]
                if how == "ends":
                    workload.close()
                else:
                    process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=20)
                assert process.returncode == 0 and not errors


@pytest.mark.parametrize(("flags", "text"), [(["--every", "1ms"], "at least 10ms"), (["--count", "0"], "--count")], ids=str)
def test_usage(service, gotrace, flags: list[str], text: str) -> None:
    done = gotrace("sched", service.pid, *flags)
    assert done.returncode == 2 and text in done.stderr


def test_a_stopped_target_is_read_and_said_to_be(service, gotrace) -> None:
    service.signal(signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 10
        while "State:\tT" not in Path(f"/proc/{service.pid}/status").read_text():
            assert time.monotonic() < deadline
        done = gotrace("sched", service.pid, "--json")
        assert done.returncode == 0 and json.loads(done.stdout)["gomaxprocs"] and "is stopped by a signal (T)" in done.stderr
    finally:
        service.signal(signal.SIGCONT)


def test_a_target_by_name(tmp_path: Path, gotrace) -> None:
    program = tmp_path / f"t{os.getpid()}-sched"
    shutil.copy(build("scheduled", "1.27.3", "stripped"), program)
    with Workload(program):
        assert json.loads(gotrace("sched", "--name", f"^{program.name}$", "--json").stdout)["gomaxprocs"]


# -- waits to run ------------------------------------------------------------------------------------------------------

CROWD = """package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/metrics"
	"time"
)

func spin(length time.Duration) {
	for begin := time.Now(); time.Since(begin) < length; {
	}
}

// Eight pairs hand a turn to and fro, and spin with it, on two Ps.
func main() {
	runtime.GOMAXPROCS(2)
	for pair := 0; pair < 8; pair++ {
		turns := make(chan int)
		for n := 0; n < 2; n++ {
			go func() {
				for turn := range turns {
					spin(200 * time.Microsecond)
					turns <- turn
				}
			}()
		}
		turns <- 0
	}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		sample := []metrics.Sample{{Name: "/sched/latencies:seconds"}}
		metrics.Read(sample)
		found := sample[0].Value.Float64Histogram()
		least := make([]float64, len(found.Counts))
		for n := range least {
			least[n] = math.Max(0, found.Buckets[n])
		}
		text, _ := json.Marshal(map[string]any{"counts": found.Counts, "least": least})
		fmt.Println(string(text))
	}
}
"""


@pytest.mark.parametrize("version", [GO_VERSIONS[2], GO_VERSIONS[-1]])
def test_waits_to_run_are_those_of_the_runtime_s_own_metric(gotrace, version: str) -> None:
    with Workload(build_text("crowd", "crowd", CROWD, version, "stripped")) as workload:
        workload.send("before")
        before = workload.read_json(20)
        done = gotrace("sched", workload.pid, "--latency", "-d", "2s", "--max-overhead", "0", "--json")
        workload.send("after")
        after = workload.read_json(20)
        found = json.loads(done.stdout)["latency"]
    own = [(low, late - early) for low, late, early in zip(after["least"], after["counts"], before["counts"], strict=True)]
    # The metric is of more than the window, and of the runtime's goroutines as well: shares are compared, not counts.
    for limit_ns in (131_072, 524_288, 1_048_576, 2_097_152):
        theirs = sum(count for low, count in own if low * 1e9 >= limit_ns) / sum(count for _, count in own)
        waits = [found[name] for name in ("runnable", "preempted")]
        ours = sum(n for one in waits for low, n in one["histogram"].items() if int(low) >= limit_ns) / sum(one["count"] for one in waits)
        assert ours == pytest.approx(theirs, abs=0.1), limit_ns
    assert found["runnable"]["count"] > 300 and found["runqueue"] is not None
    assert found["duration_ns"] == found["runnable_traced_ns"] == found["runqueue_traced_ns"] and found["notes"] == []
    for one in (found["runnable"], found["preempted"], found["runqueue"]):
        assert sum(one["histogram"].values()) == one["count"] and one["p50_ns"] <= one["p99_ns"] <= one["max_ns"]


@pytest.mark.parametrize("version", [GO_VERSIONS[0], GO_VERSIONS[-1]])
def test_the_probes_are_where_goroutines_become_runnable_and_run(gotrace, version: str) -> None:
    done = gotrace("probes", build("scheduled", version, "stripped"), "--probes", "ready", "--json")
    found = {probe["symbol"].removeprefix("runtime."): probe["role"] for probe in json.loads(done.stdout)["probes"]}
    back = "exitsyscallNoP" if version == GO_VERSIONS[-1] else "exitsyscall0"
    starts = ("goschedImpl", "goyield_m", back, "ready", "netpollready", "newproc.func1")
    assert found == dict.fromkeys(starts, "start") | {"execute": "end"}


@pytest.mark.full
def test_what_a_cap_gave_up_of_the_waits_to_run_is_said(gotrace) -> None:
    with Workload(build_text("crowd", "crowd", CROWD, GO_VERSIONS[-1], "stripped")) as workload:
        done = gotrace("sched", workload.pid, "--latency", "-d", "2s", "--max-overhead", "0.05")
        found = json.loads(gotrace("sched", workload.pid, "--latency", "-d", "1s", "--max-overhead", "0.05", "--json").stdout)["latency"]
    assert "(seen for " in done.stdout and "! governor: tracing cost" in done.stdout
    assert found["runnable_traced_ns"] < 0.8 * found["duration_ns"] and found["notes"]


def test_what_was_traced_is_shown_although_the_process_has_ended() -> None:
    with Workload(build_text("crowd", "crowd", CROWD, GO_VERSIONS[-1], "stripped")) as workload:
        command = [sys.executable, "-m", "gotrace", "sched", str(workload.pid), "--latency", "-d", "60s", "--max-overhead", "0", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tracing:
            deadline = time.monotonic() + 30
            while not probes_of(workload.pid):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            time.sleep(1)
            workload.signal(signal.SIGKILL)
            out, errors = tracing.communicate(timeout=180)
    found = json.loads(out)
    assert tracing.returncode == 0, errors
    assert found["latency"]["runnable"]["count"] > 100 and found["gomaxprocs"] is None and found["syscall_threads"] is None


@pytest.mark.parametrize("arguments", [["--latency", "--every", "1s"], ["--latency", "--count", "2"], ["-d", "1s"]])
def test_a_trace_and_readings_do_not_mix(gotrace, arguments: list[str]) -> None:
    done = gotrace("sched", os.getpid(), *arguments)
    assert done.returncode == 2 and "hint: gotrace sched PID --latency -d 10s" in done.stderr
