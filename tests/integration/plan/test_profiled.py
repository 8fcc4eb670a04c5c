"""Programs that were built with a profile: what is probed elsewhere is inlined into its callers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from built import by_reason, go_build, gotrace, module, trace
from gobuild import CACHE
from summaries import at, count
from workload import Workload

from gotrace.gobin.binary import GoBinary
from gotrace.gobin.image import Image

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

PROFILED = """package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"time"
)

var pace time.Duration

func wait() {
	if pace > 0 {
		time.Sleep(pace)
	}
}

//go:noinline
func echo(from, to chan int) {
	for v := range from {
		wait()
		to <- v
	}
}

//go:noinline
func yield() {
	for ; ; wait() {
		runtime.Gosched()
	}
}

//go:noinline
func spawn() {
	for done := make(chan int, 9); ; wait() {
		go func() { done <- 1 }()
		<-done
	}
}

func main() {
	if len(os.Args) > 1 {
		f, _ := os.Create(os.Args[1])
		pprof.StartCPUProfile(f)
		defer pprof.StopCPUProfile()
	} else {
		pace = 5 * time.Millisecond
	}
	a, b := make(chan int), make(chan int)
	time.AfterFunc(time.Millisecond, func() { a <- 1 })
	go echo(a, b)
	go echo(b, a)
	go yield()
	go yield()
	go spawn()
	if len(os.Args) > 1 {
		time.Sleep(6 * time.Second)
		return
	}
	fmt.Println("ready")
	os.Stdin.Read(make([]byte, 1))
}
"""


def profiled(version: str) -> Path:
    folder = CACHE / "fixtures" / f"profiled-{version}"
    binary = folder / "profiled"
    if not binary.exists() or (folder / "main.go").read_text() != PROFILED:
        module(folder, PROFILED)
        go_build(folder, version, "-pgo=off", "-o", "plain", ".")
        subprocess.run([folder / "plain", "default.pgo"], cwd=folder, check=True)
        go_build(folder, version, "-pgo=default.pgo", "-o", "profiled", ".")
    return binary


@pytest.mark.complete("1.27.3")
@pytest.mark.full("exact-1.27.3")
@pytest.mark.parametrize("version", ["1.22.10", "1.24.11", "1.27.3"])
@pytest.mark.parametrize("mode", ["exact", "lean"])
def test_a_profile_has_inlined_what_is_probed(version: str, mode: str, tmp_path: Path) -> None:
    binary = profiled(version)
    # What else the compiler inlines depends on where the profile's samples fell.
    assert GoBinary(Image(binary.read_bytes())).table.inlined_into("runtime.schedule")
    with Workload(binary) as workload:
        summary = trace(workload, tmp_path, "--mode", mode)
    found = by_reason(summary)
    assert found["chan receive"] > 200 and found["sleep"] > 500
    assert "unknown" not in found
    assert found["Gosched"] > 100
    # Each wait ends in a sleep or a message of the next goroutine: both are counted alike.
    echoes = at(summary, "main.echo", state="waiting")
    slept = sum(stack["count"] for stack in echoes if stack["reason"] == "sleep")
    assert abs(slept - sum(stack["count"] for stack in echoes if stack["reason"] == "chan receive")) < 0.1 * slept
    if mode == "exact":
        assert abs(found["created"] - count(at(summary, "main.spawn", "time.Sleep", state="waiting"))) < 0.1 * found["created"]
        assert summary["losses"]["end_while_running"] == summary["losses"]["start_while_stopped"] == 0


@pytest.mark.full("gopark")
@pytest.mark.parametrize("probes", ["schedule", "gopark"])
def test_sets_of_one_probe_are_refused_where_copies_are_inlined(probes: str) -> None:
    binary = profiled("1.27.3")
    refused = gotrace("probes", "--probes", probes, binary)
    if not GoBinary(Image(binary.read_bytes())).table.inlined_into(f"runtime.{probes}"):
        assert probes != "schedule" and refused.returncode == 0
        return
    assert refused.returncode == 3
    assert f"runtime.{probes}" in refused.stderr and "inlined" in refused.stderr and "hint:" in refused.stderr
