"""A stop of the world that does not come about: who does not stop is named, and a world that does stop has no verdict."""

from __future__ import annotations

import json

import pytest
from gobuild import SOME_VERSIONS, build_text
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

PROGRAM = """package main

import (
	"fmt"
	"os"
	"runtime"
	"time"
)

var sum uint64

//go:noinline
func spin() {
	for i := uint64(0); ; i++ {
		sum += i * i
	}
}

func main() {
	runtime.GOMAXPROCS(3)
	for range make([]int, 5) {
		go func() {
			for {
				time.Sleep(time.Millisecond)
			}
		}()
	}
	go spin()
	time.Sleep(50 * time.Millisecond)
	go func() {
		for {
			runtime.GC()
		}
	}()
	fmt.Println("ready")
	os.Stdin.Read(make([]byte, 1))
}
"""


def found(gotrace, version: str, *setting: str) -> list[dict]:
    binary = build_text("stopping", "stopping", PROGRAM, version, "stripped")
    with Workload("env", *setting, str(binary)) as program:
        done = gotrace("dump", "--json", program.pid)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    spinning = [one["id"] for one in read["goroutines"] if one["start_function"] == "main.spin"]
    return [verdict | {"spins": verdict["goroutines"] == spinning} for verdict in read["verdicts"] if verdict["kind"] == "stop of the world"]


@pytest.mark.parametrize("version", SOME_VERSIONS)
def test_a_loop_that_is_not_preempted(gotrace, version: str) -> None:
    verdict, = found(gotrace, version, "GODEBUG=asyncpreemptoff=1")
    assert verdict["spins"] and verdict["certain"] and verdict["evidence"]["for_ns"] >= 200_000_000
    assert "(running, started in main.spin) does not stop" in verdict["text"]
    # Its twin is preempted by a signal, and stops hundreds of times a second.
    assert found(gotrace, version, "GODEBUG=") == []
