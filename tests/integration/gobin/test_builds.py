"""Programs that were built otherwise than most: with a runtime of their own, large thread-local storage, as an archive."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from built import by_reason, go_build, gotrace, module, trace
from gobuild import CACHE, build_text, go_command, go_environment
from prerequisites import unavailable
from summaries import at, count
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

both = pytest.mark.parametrize("version", ["1.21.13", "1.27.3"])

WITHOUT_MAIN = """package main

import (
	"fmt"
	"os"
	"runtime"
	"time"
)

//go:noinline
func worker() {
	again := make(chan int)
	for {
		time.Sleep(10 * time.Millisecond)
		go func() { again <- 1 }() // takes the g of the goroutine that has ended
		<-again
	}
}

func main() {
	go worker()
	go func() {
		time.Sleep(100 * time.Millisecond)
		fmt.Println("ready")
		os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}()
	runtime.Goexit()
}
"""

ARCHIVE = """package main

import "C"

import "time"

//export Begin
func Begin() {
	go nap()
}

//go:noinline
func nap() {
	for {
		time.Sleep(10 * time.Millisecond)
	}
}

func main() {}
"""
HOST = '#include "lib.h"\n#include <stdio.h>\nint main(void) { Begin(); puts("ready"); fflush(stdout); getchar(); return 0; }\n'

LARGE_TLS = """package main

/*
static __thread volatile char block[24000];
static int touch(void) { block[0] = 1; return block[sizeof block - 1]; }
*/
import "C"

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

//go:noinline
func reader(fd int) {
	for one := make([]byte, 1); ; {
		syscall.Read(fd, one)
	}
}

func main() {
	C.touch()
	var p [2]int
	syscall.Pipe(p[:])
	go reader(p[0])
	go func() {
		for {
			time.Sleep(20 * time.Millisecond)
			syscall.Write(p[1], []byte{1})
		}
	}()
	fmt.Println("ready")
	os.Stdin.Read(make([]byte, 1))
}
"""

LABELLED = """package main

import (
	"context"
	"fmt"
	"os"
	"runtime/pprof"
	"time"
)

var values = make(chan int)

//go:noinline
func take() {
	for {
		<-values
	}
}

//go:noinline
func nap() {
	for {
		time.Sleep(20 * time.Millisecond)
	}
}

//go:noinline
func read() {
	r, w, _ := os.Pipe()
	go func() {
		for {
			time.Sleep(20 * time.Millisecond)
			w.Write([]byte("x"))
		}
	}()
	_ = r.Fd() // blocks its thread from now on
	for one := make([]byte, 1); ; {
		r.Read(one)
	}
}

//go:noinline
func spawn(name string, job func()) {
	go pprof.Do(context.Background(), pprof.Labels("job", name), func(context.Context) { job() })
}

func main() {
	spawn("take", take)
	spawn("nap", nap)
	spawn("read", read)
	go func() {
		for {
			time.Sleep(10 * time.Millisecond)
			values <- 1
		}
	}()
	time.Sleep(50 * time.Millisecond)
	fmt.Println("ready")
	os.Stdin.Read(make([]byte, 1))
}
"""


SANITIZED = """package main

import "C"

import (
	"fmt"
	"os"
)

//go:noinline
func work(counts map[int]int, values []int) (sum int) {
	for i := 0; sum != -1; i++ {
		counts[i&255]++
		values[i&1023] += i
		sum = sum&0xffff + values[i*7&1023]
	}
	return sum
}

//go:noinline
func root() {
	fmt.Println(work(map[int]int{}, make([]int, 1024)))
}

func main() {
	for i := 0; i < 4; i++ {
		go root()
	}
	fmt.Println("ready")
	os.Stdin.Read(make([]byte, 1))
}
"""


# -- goroutine 1 ------------------------------------------------------------------------------------------------------


@both
def test_main_has_left(version: str, tmp_path: Path) -> None:
    with Workload(build_text("withoutmain", "example.com/built", WITHOUT_MAIN, version, "stripped")) as workload:
        summary = trace(workload, tmp_path)
        dumped = json.loads(gotrace("dump", "--json", workload.pid).stdout)
    assert count(at(summary, "main.worker", state="waiting")) > 100
    assert any(frame["name"] == "main.worker" for one in dumped["goroutines"] for frame in one["frames"])


@pytest.mark.full("1.27.3")
@both
def test_an_archive_in_a_c_program(version: str, tmp_path: Path) -> None:
    folder = module(tmp_path / "lib", ARCHIVE)
    (folder / "host.c").write_text(HOST)
    (folder / "host.c").rename(tmp_path / "host.c")
    go_build(folder, version, "-buildmode=c-archive", "-o", "lib.a", ".", cgo=True)
    subprocess.run(["gcc", "-Ilib", "-o", "host", "host.c", "lib/lib.a", "-lpthread"], cwd=tmp_path, check=True)
    with Workload(tmp_path / "host") as workload:
        assert workload.ready
        summary = trace(workload, tmp_path)
    assert count(at(summary, "main.nap", state="waiting")) > 100


# -- thread-local storage ---------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("mode", ["exact", "lean"])
def test_thread_local_storage_of_c_is_large(version: str, mode: str, tmp_path: Path) -> None:
    with Workload(build_text("largetls", "example.com/built", LARGE_TLS, version, "cgo")) as workload:
        summary = trace(workload, tmp_path, "--mode", mode)
    assert by_reason(summary)["read"] > 60
    assert count(at(summary, "main.main.func1", state="waiting")) > 60


# -- checks of memory accesses -----------------------------------------------------------------------------------------


@pytest.mark.complete("1.27.3")
@pytest.mark.full
@both
@pytest.mark.parametrize("flag", ["race", "asan"])
def test_a_thread_waits_for_a_cpu_inside_a_check(version: str, flag: str, tmp_path: Path) -> None:
    try:
        binary = build_text("sanitized", "example.com/built", SANITIZED, version, flag)
    except RuntimeError as error:
        if "san" not in str(error):
            raise
        unavailable(f"needs the compiler's library for go build -{flag}: {str(error)[-300:]}")
    with Workload(binary) as workload:
        summary = trace(workload, tmp_path, seconds=3)
    of_threads = [stack for stack in at(summary, state="runqueue")]
    inside = [stack for stack in of_threads if stack["frames"][0]["name"] == "[in the memory access checks of -race, -asan or -msan]"]
    assert count(inside) > 0.1 * count(of_threads) > 5
    whole = [stack for stack in inside if [frame["name"] for frame in stack["frames"]][-3:] == ["main.work", "main.root", "runtime.goexit"]]
    # Between two instructions of the switch to C a few are not.
    assert count(whole) > 0.95 * count(inside)
    assert summary["losses"]["stack_in_transit"] < 0.05 * count(of_threads)
    assert any(f"built with -{flag}" in note for note in summary["notes"])


# -- a runtime of one's own -------------------------------------------------------------------------------------------

MOVED = {"waitreason": r"^\twaitreason\s+waitReason.*$", "m": r"^\tm\s+\*m.*$", "writebuf": r"^\twritebuf\s+\[\]byte.*$",
         "startpc": r"^\tstartpc\s+uintptr.*$"}


def changed(field: str, version: str = "1.27.3") -> Path:
    """A stripped program whose runtime.g has two words more, behind that field."""
    folder = module(CACHE / "fixtures" / f"changed-{field}-{version}", LABELLED)
    binary = folder / "changed"
    if not binary.exists():
        root = subprocess.run([go_command(version), "env", "GOROOT"], capture_output=True, text=True, env=go_environment()).stdout.strip()
        source = Path(root) / "src/runtime/runtime2.go"
        text = source.read_text()
        begin = text.index("type g struct {")
        place = re.compile(MOVED[field], re.MULTILINE).search(text, begin)
        (folder / "runtime2.txt").write_text(text[: place.end()] + "\n\tagent [2]uintptr\n" + text[place.end() :])
        (folder / "overlay.json").write_text(json.dumps({"Replace": {str(source): str(folder / "runtime2.txt")}}))
        go_build(folder, version, "-overlay", "overlay.json", "-ldflags=-s -w", "-o", "changed", ".")
    return binary


@pytest.mark.complete("startpc")
@pytest.mark.full
@pytest.mark.parametrize("field", list(MOVED))
def test_fields_of_g_have_moved(field: str, tmp_path: Path) -> None:
    with Workload(changed(field)) as workload:
        summary = trace(workload, tmp_path)
        looked = trace(workload, tmp_path, "--mode", "sample")
        dumped = json.loads(gotrace("dump", "--json", workload.pid).stdout)
    assert by_reason(summary)["read"] > 60
    # Two looks at one sleeper of 20 ms see two of its sleeps.
    assert by_reason(looked)["sleep"] > 20  # on a busy machine samples are taken less often
    jobs = {one["labels"].get("job"): one for one in dumped["goroutines"]}
    assert {"take", "nap", "read"} <= jobs.keys()
    assert all(jobs[job]["created_by"] == "main.spawn" for job in ("take", "nap"))
    assert not any(one.get("locked_to_thread") for one in dumped["goroutines"])


@pytest.mark.full
def test_a_release_that_no_table_has(tmp_path: Path) -> None:
    binary = build_text("labelled", "example.com/built", LABELLED, "1.27.3", "stripped")
    renamed = tmp_path / "renamed"
    renamed.write_bytes(binary.read_bytes().replace(b"go1.27.3", b"go1.31.3"))
    renamed.chmod(0o755)
    with Workload(renamed) as workload:
        summary = trace(workload, tmp_path)
        dumped = json.loads(gotrace("dump", "--json", workload.pid).stdout)
        planned = gotrace("probes", workload.pid)
    assert summary["target"]["go_version"] == "go1.31.3"
    assert by_reason(summary)["read"] > 60
    assert dumped["losses"]["fields_unread"] and "not known for go1.31.3" in planned.stdout
    assert any(one["created_by"] == "main.spawn" for one in dumped["goroutines"])


@pytest.mark.full
def test_no_thread_tells_its_goroutine(tmp_path: Path) -> None:
    """m.curg is nowhere to be found: in no table, and not in the code that compares with it."""
    folder = module(tmp_path / "module", LABELLED)
    root = subprocess.run([go_command("1.27.3"), "env", "GOROOT"], capture_output=True, text=True, env=go_environment()).stdout.strip()
    source = Path(root) / "src/runtime/asm_amd64.s"
    text = source.read_text()
    begin = text.index("TEXT runtime·systemstack(SB)")
    line = re.compile(r"\tCMPQ\tAX, m_curg\(BX\)").search(text, begin)
    (folder / "asm.txt").write_text(text[: line.start()] + "\tMOVQ\tm_curg(BX), R10\n\tCMPQ\tAX, R10" + text[line.end() :])
    (folder / "overlay.json").write_text(json.dumps({"Replace": {str(source): str(folder / "asm.txt")}}))
    go_build(folder, "1.27.3", "-overlay", "overlay.json", "-ldflags=-s -w", "-o", "blind", ".")
    binary = folder / "blind"
    binary.write_bytes(binary.read_bytes().replace(b"go1.27.3", b"go1.31.3"))
    with Workload(binary) as workload:
        refused = gotrace("attach", "--mode", "lean", "-d", "1", "-o", tmp_path / "x.gotrace", workload.pid)
        done = gotrace("attach", "--json", "-d", "2", "-f", "-o", tmp_path / "x.gotrace", "--max-overhead", "0", workload.pid)
    assert refused.returncode == 3 and "the layout of runtime.m is not known" in refused.stderr
    assert done.returncode == 0 and "note: system calls are seen by uprobes: the layout of runtime.m" in done.stderr
    summary = json.loads(done.stdout)
    assert count(at(summary, "main.read", state="syscall")) > 60
    assert not any(stack["long_runs"] for stack in summary["stacks"])
    assert any("uprobes" in text for text in summary["filters"])
