"""Hosts written in C whose main thread ends with pthread_exit, before or while they are traced: the others, and Go, go on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attach import Attached, probes_of
from mainthread import asked, ended, host
from summaries import at, count
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside]


@pytest.mark.complete("1.27.3")
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
        for _ in range(20):  # now and then some of the four have just been woken
            text = gotrace("dump", workload.pid).stdout
            if text.count("main.Nap") == 1:
                break
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
            out, errors = trace.communicate(timeout=180)
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
