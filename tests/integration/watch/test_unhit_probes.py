"""Probes that are in place and are not hit, though goroutines run: the trace says that it is worth nothing."""

from __future__ import annotations

import pytest
from gobuild import GO_VERSIONS, build_text
from workload import Workload

from gotrace.run.options import AttachOptions
from gotrace.run.session import Session

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

PROGRAM = """package main

import (
	"bufio"
	"fmt"
	"os"
)

func pass(from, to chan int) {
	for v := range from {
		to <- v
	}
}

func main() {
	from, to := make(chan int), make(chan int)
	go pass(from, to)
	in := bufio.NewReader(os.Stdin)
	fmt.Println("ready")
	for {
		if _, err := in.ReadString('\\n'); err != nil {
			return
		}
		for i := 0; i < 10; i++ {
			from <- i
			<-to
		}
		fmt.Println("passed")
	}
}
"""


@pytest.mark.parametrize("version", [GO_VERSIONS[0], GO_VERSIONS[-1]])
@pytest.mark.parametrize("deaf", [True, False], ids=["deaf", "sound"])
def test_goroutines_run_and_no_probe_is_hit(version: str, deaf: bool) -> None:
    with Workload(build_text("passing", "example.com/passing", PROGRAM, version, "stripped"), "x") as workload:

        def started(_told: list[str]) -> None:
            if deaf:
                session.processes[0].tracer.stop()  # the programs let all pass from here on
            workload.send("go")
            assert workload.read_line(10) == "passed"
            session.stop()

        with Session(AttachOptions((workload.pid,), duration_ns=0)) as session:
            session.prepare()
            profile = session.run(started)
    if deaf:
        assert "no probe was hit, but 1 goroutines" in str(session.failure) and "--mode sample" in session.failure.hint
        assert [missing.stage for missing in profile.missing] == ["probes"]
    else:
        assert session.failure is None and not profile.missing
