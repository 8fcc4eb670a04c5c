"""Programs that have loaded plugins: code, and copies of the runtime's functions, that the executable does not have."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attach import Attached
from gobuild import CACHE, build, go_command, go_environment
from summaries import at, names
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

VERSIONS = ("1.21.13", "1.27.3")
OUTSIDE = "[code outside the binary]"
PLUGIN = """package main

import "time"

//go:noinline
func wait(work chan int) int { return <-work }

//go:noinline
func Each(work chan int, then func()) {
	for {
		wait(work)
		then()
	}
}

//go:noinline
func Tick() {
	for {
		time.Sleep(20 * time.Millisecond)
	}
}
"""
HOST = """package main

import (
	"fmt"
	"os"
	"plugin"
	"time"
)

//go:noinline
func attend(each func(chan int, func()), work chan int) {
	each(work, func() { time.Sleep(2 * time.Millisecond) })
}

func main() {
	if len(os.Args) > 2 {
		fmt.Println("ready")
		os.Stdin.Read(make([]byte, 100))
	}
	loaded, err := plugin.Open(os.Args[1])
	if err != nil {
		panic(err)
	}
	each, _ := loaded.Lookup("Each")
	tick, _ := loaded.Lookup("Tick")
	idle, busy := make(chan int), make(chan int)
	for i := 0; i < 6; i++ {
		go attend(each.(func(chan int, func())), idle)
	}
	go attend(each.(func(chan int, func())), busy)
	go tick.(func())()
	go func() {
		for {
			busy <- 1
		}
	}()
	fmt.Println("ready")
	os.Stdin.Read(make([]byte, 1))
}
"""


def built(version: str) -> tuple[Path, Path]:
    """The program, and the plugin that it loads."""
    folder = CACHE / "fixtures" / "plugins" / version
    for name, text in (("addon", PLUGIN), ("host", HOST)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "main.go").write_text(text)
    (folder / "go.mod").write_text("module example.com/plugins\n\ngo 1.19\n")
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for flags in (["-buildmode=plugin", "-o", "addon.so", "./addon"], ["-o", "prog", "./host"]):
            subprocess.run(
                [go_command(version), "build", *flags], cwd=folder, check=True, capture_output=True, env=go_environment() | {"CGO_ENABLED": "1"},
            )
    return folder / "prog", folder / "addon.so"


def frames(stack: dict) -> list[str]:
    return names(stack, "go", "runtime", "lost")


@pytest.mark.complete("1.27.3")
@pytest.mark.full("1.27.3-exact")
@pytest.mark.parametrize("mode", ["exact", "sample"])
@pytest.mark.parametrize("version", VERSIONS)
def test_goroutines_that_wait_in_a_plugin(version: str, mode: str, tmp_path: Path) -> None:
    program, addon = built(version)
    with Workload(program, str(addon)) as workload:
        time.sleep(0.3)
        with Attached(workload.pid, "-d", "2s", "--json", "--mode", mode, "-o", tmp_path / "trace.gotrace") as trace:
            summary = trace.result_json()
    window = summary["window"]["duration_ns"]
    # Those that got no work waited for it all the time, and it is known who called the plugin.
    idle = [stack for stack in at(summary, "main.attend", state="waiting") if frames(stack) == [OUTSIDE, "main.attend", "runtime.goexit"]]
    assert {stack["reason"] for stack in idle} <= {"chan receive", "unknown"}
    received = [stack for stack in idle if stack["reason"] == "chan receive"]
    assert sum(stack["total_ns"] for stack in received) >= 5.9 * window
    # Code of the executable that the plugin calls has both in its stack.
    called = [stack for stack in at(summary, "main.attend.func1") if stack["reason"] == "sleep"]
    assert called and all(frames(stack)[-4:] == ["main.attend.func1", OUTSIDE, "main.attend", "runtime.goexit"] for stack in called)
    assert not [stack for stack in summary["stacks"] if stack["reason"] in ("Gosched", "preempted")]
    [missing] = summary["missing"]
    assert missing["stage"] == "plugins" and missing["why"].startswith("addon.so is loaded")


def test_a_plugin_that_is_opened_in_the_window(tmp_path: Path) -> None:
    program, addon = built(VERSIONS[-1])
    with Workload(program, str(addon), "later") as workload:
        with Attached(workload.pid, "-d", "0", "--json", "-o", tmp_path / "trace.gotrace") as trace:
            workload.send("go")
            time.sleep(0.5)
            summary = trace.end_json()
    assert [missing["stage"] for missing in summary["missing"]] == ["plugins"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_dump(version: str) -> None:
    program, addon = built(version)
    with Workload(program, str(addon)) as workload:
        time.sleep(0.3)
        done = subprocess.run(
            [sys.executable, "-m", "gotrace", "dump", "--json", str(workload.pid)], capture_output=True, text=True, check=True,
        )
    found = [goroutine for goroutine in json.loads(done.stdout)["goroutines"] if "main.attend" in frames(goroutine)]
    waits = [goroutine for goroutine in found if frames(goroutine) == [OUTSIDE, "main.attend", "runtime.goexit"]]
    assert len(found) == 7 and len(waits) >= 6 and sum(goroutine["reason"] == "chan receive" for goroutine in waits) >= 6


def test_programs_without_plugins_say_nothing() -> None:
    from gotrace.watch.target import open_target, plugins_loaded

    with Workload(build("oversleep", "1.27.3", "cgo"), "0", "1", "1", "1") as workload:
        target = open_target(workload.pid, "")
        try:
            assert plugins_loaded(target, probes=True) == []
        finally:
            target.close()
