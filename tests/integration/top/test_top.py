"""`gotrace top` without a terminal: what it shows is what the program did, and what attach says of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from attach import probes_of
from gobuild import SOME_VERSIONS, build
from workload import Workload

from gotrace.run.options import AttachOptions
from gotrace.run.session import Session
from gotrace.top.history import Window
from gotrace.top.view import LiveView, place_in

pytestmark = [pytest.mark.bpf, pytest.mark.beside]


class Top:
    """`gotrace top` of a process, running."""

    def __init__(self, pid: int, *arguments: object, **environment: str) -> None:
        command = [sys.executable, "-m", "gotrace", "top", str(pid), "--max-overhead", "0", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment)

    def end(self) -> str:
        self.process.send_signal(signal.SIGINT)
        return self.output()

    def output(self) -> str:
        out, errors = self.process.communicate(timeout=180)
        assert self.process.returncode == 0, errors
        return out


def rows_of(screen: dict, name: str) -> list[dict]:
    return [row for row in screen["rows"] if row["place"] == name]


@pytest.mark.parametrize("version", SOME_VERSIONS)
def test_waits_that_were_made(version: str) -> None:
    with Workload(build("selftimed", version, "stripped"), "-scenarios", "sleep,mutex") as workload:
        top = Top(workload.pid, "--once", "--json", "-d", "60s")
        deadline = time.monotonic() + 30
        while not probes_of(workload.pid):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1)  # the window opens once all are placed
        workload.send("go")
        workload.read_json(30)
        screen = json.loads(top.end())
    assert screen["target"]["pid"] == workload.pid
    sleep, = [row for row in rows_of(screen, "main.sleepOnce") if row["reason"] == "sleep"]
    seconds = screen["window"]["duration_ns"] / 1e9
    assert round(sleep["rate_per_s"] * seconds) == 40 and sleep["waiting_now"] == 0 and sleep["state"] == "waiting"
    assert 0 < sleep["p50_ns"] <= sleep["p99_ns"] <= sleep["max_ns"] <= sleep["total_ns"]
    assert sum(row["share"] for row in screen["rows"]) == pytest.approx(1)
    assert [row["total_ns"] for row in screen["rows"]] == sorted((row["total_ns"] for row in screen["rows"]), reverse=True)


def test_those_that_wait_now() -> None:
    """Waits that began before are counted, with the time that they have waited in the window."""
    with Workload(build("parked", "1.27.3", "stripped"), "-goroutines", "300", "-active", "0", "-places", "3") as workload:
        screen = json.loads(Top(workload.pid, "--once", "--json", "-d", "3s").output())
    waiting = rows_of(screen, "main.wait")
    assert sum(row["waiting_now"] for row in waiting) == 300 and all(row["rate_per_s"] == 0 for row in waiting)
    window = screen["window"]["duration_ns"]
    assert sum(row["total_ns"] for row in waiting) == pytest.approx(300 * window, rel=0.01)
    assert max(row["max_ns"] for row in waiting) <= window


@pytest.fixture(scope="module")
def service() -> Iterator[Workload]:
    with Workload(build("service", "1.27.3", "stripped"), "-stdin-ends") as workload:
        yield workload


def test_tables_one_after_another(service) -> None:
    out = Top(service.pid, "--batch", "-d", "5s", "--interval", "1s", "--rows", "5", "--window", "10s", COLUMNS="80").output()
    tables = out.strip("\n").split("\n\n")
    assert len(tables) >= 3
    for table in tables:
        lines = table.splitlines()
        assert f"(pid {service.pid})" in lines[0] and "intervals/s" in lines[0] and max(map(len, lines[2:])) <= 80
        heading = next(number for number, line in enumerate(lines) if line.split()[:1] == ["now"])
        assert len(lines) - heading - 1 == 5
        assert any("ServeHTTP" in line for line in lines[2:heading])


def test_lines_of_json_and_requests(service) -> None:
    out = Top(service.pid, "--batch", "--json", "-d", "4500ms", "--interval", "1s").output()
    screens = [json.loads(line) for line in out.splitlines()]
    assert len(screens) >= 3
    spans = [screen["window"]["rows_ns"] for screen in screens]
    assert spans == sorted(spans) and spans[0] < spans[-1]
    calls = [next(row["count"] for row in screen["requests"] if row["span"].endswith("ServeHTTP")) for screen in screens]
    assert calls == sorted(calls) and calls[-1] > calls[0]
    assert any(row["idle"] for row in screens[-1]["rows"]) and any(row["object"] for row in screens[-1]["rows"])


def test_what_is_idle_is_left_out_on_demand(service) -> None:
    screen = json.loads(Top(service.pid, "--once", "--json", "-d", "1s", "--no-idle").output())
    assert screen["rows"] and not any(row["idle"] for row in screen["rows"])


def test_it_ends_with_the_process() -> None:
    with Workload(build("parked", "1.27.3", "stripped"), "-goroutines", "10") as workload:
        top = Top(workload.pid, "--batch", "--json")
        assert json.loads(top.process.stdout.readline())["rows"]
        workload.close()
        top.output()


def test_its_sums_are_those_of_the_profile(service) -> None:
    view = LiveView()
    with Session(AttachOptions((service.pid,), duration_ns=2_500_000_000)) as session:
        session.sinks.append(view)
        session.prepare()
        profile = session.run()
    screen = view.screen(Window.START)
    assert sum(row.total_ns for row in screen.rows) == profile.total().total_ns == sum(screen.states.values())
    assert {state.value: d.total_ns for state, d in profile.by_state().items()} == screen.states
    places = {place_in(stack) for stack in profile.stacks}
    assert {row.place for row in screen.rows} == places and len(places) > 20
    assert {row.span: row.count for row in screen.requests} == {span.function: span.latency.count for span in profile.requests}
    last = view.screen(Window.LAST)
    assert 0 < len(last.rows) <= len(screen.rows)
    view.reset()
    assert not [row for row in view.screen(Window.START).rows if row.rate_per_s]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--once", "--batch"), "--once and --batch"), (("--batch", "--interval", "10ms"), "at least 1s"),
        (("--once", "-d", "0"), "needs an end"), (("--json",), "needs a terminal"),
    ],
    ids=str,
)
def test_usage(service, gotrace, flags: tuple[str, ...], text: str) -> None:
    done = gotrace("top", service.pid, *flags)
    assert done.returncode == 2 and text in done.stderr
