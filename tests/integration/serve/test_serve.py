"""`gotrace serve` beside real processes: what it keeps, writes and answers is what happened."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import pytest
from attach import probes_of
from browser import Browser
from gobuild import ROOT, build, go_command, go_environment
from jsonschema import Draft202012Validator
from mainthread import asked, ended, host
from prerequisites import unavailable
from schemas import schema, strict
from serving import Serving
from workload import Workload

from gotrace.capture.reader import read_capture
from gotrace.common.vocabulary import CONTINUED

pytestmark = pytest.mark.bpf


class Faulty:
    """A service with a name of its own, which may be started again."""

    def __init__(self, folder: Path) -> None:
        self.name = f"faulty{os.getpid()}"
        self.binary = folder / self.name
        shutil.copy(build("faulty", "1.27.3", "stripped"), self.binary)

    def started(self) -> Workload:
        return Workload(self.binary)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    return Faulty(tmp_path_factory.mktemp("faulty"))


@pytest.fixture(scope="module")
def service(faulty: Faulty) -> Iterator[Workload]:
    with faulty.started() as workload:
        yield workload


def as_in_the_unit() -> list[str]:
    """What gives a command the capabilities that the unit of systemd leaves it."""
    unit = (ROOT / "docs/systemd/gotrace.service").read_text()
    names = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)[1].split()
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in names)
    return ["setpriv", f"--bounding-set=-all,{kept}", "--no-new-privs"]


@pytest.fixture(scope="module")
def serving(faulty: Faulty, service: Workload, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("serve")
    trigger = "max(reason~'sync.Mutex.Lock') > 500ms"
    flags = ["--name", f"^{faulty.name}$", "--trigger", trigger, "--after", "1s", "--max-overhead", "50"]
    with Serving(folder, *flags, before=as_in_the_unit()) as serving:
        serving.tracing(service.pid, 3)
        yield serving


def test_a_fault_that_comes_once_is_caught(serving: Serving, service: Workload) -> None:
    service.send("fault")
    line = serving.until(lambda: next((line for line in serving.lines if line["kind"] == "trigger"), None))
    assert line["target"]["pid"] == service.pid and line["triggers"] == ["max(reason~'sync.Mutex.Lock') > 500ms"]
    assert re.search(r"500ms \(it is \d{3} ms\)", line["reason"])
    assert json.loads((serving.folder / "captures/triggers.jsonl").read_text().splitlines()[0]) == line
    capture, page, dump = map(Path, line["files"])
    profile = read_capture(capture)
    waits = [stack for stack in profile.stacks if stack.reason == "sync.Mutex.Lock"]
    longest = max(waits, key=lambda stack: stack.distribution.max_ns)
    assert 600e6 < longest.distribution.max_ns < 1200e6 and any(frame.name == "main.takeOrder" for frame in longest.frames)
    assert any(frame.name == "main.rebuildIndex" and frame.kind.value == "waker" for stack in waits for frame in stack.frames)
    assert any(frame.name == "main.rebuildIndex" for stack in profile.stacks if stack.reason == "sleep" for frame in stack.frames)
    assert any("captured by gotrace serve: max(reason~" in note for note in profile.notes)
    assert b"<html" in page.read_bytes()[:500].lower() and json.loads(dump.read_text())["target"]["pid"] == service.pid


def test_metrics_are_what_prometheus_takes(serving: Serving, faulty: Faulty) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        unavailable("needs promtool (remedy: apt-get install prometheus)")
    status, text, headers = serving.ask("/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=")
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=180)
    assert done.returncode == 0 and not done.stdout + done.stderr, done.stdout + done.stderr
    lines = text.decode().splitlines()
    waited = [line for line in lines if line.startswith("gotrace_offcpu_seconds_total{") and 'reason="sync.Mutex.Lock"' in line]
    assert waited and f'target="{faulty.name}"' in waited[0] and float(waited[0].split()[-1]) > 0
    assert not any("pid=" in line for line in lines)
    requests = [line for line in lines if line.startswith("gotrace_request_duration_seconds_count{")]
    assert requests and float(requests[0].split()[-1]) > 10


def test_targets_are_as_the_schema_says(serving: Serving) -> None:
    found = serving.json("/targets")
    assert [error.message for error in Draft202012Validator(strict(schema("serve"))).iter_errors(found)] == []
    assert found["targets"][0]["goroutines"]["total"] > 10 and found["captures"]


def test_prometheus_scrapes_it_and_evaluates_the_rules(serving: Serving, faulty: Faulty, tmp_path: Path) -> None:
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        unavailable("needs prometheus (remedy: apt-get install prometheus)")
    port = free_port()
    config = (ROOT / "docs/prometheus/scrape.yml").read_text().replace("127.0.0.1:9470", urlsplit(serving.url).netloc)
    (tmp_path / "prometheus.yml").write_text(re.sub(r"(_interval): 15s", r"\1: 1s", config))
    shutil.copy(ROOT / "docs/prometheus/rules.yml", tmp_path)
    command = [
        prometheus, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address=127.0.0.1:{port}",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=tmp_path) as process:

        def asked(path: str) -> Any:
            try:
                with urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=10) as answer:
                    return json.load(answer)["data"]
            except OSError:
                return None

        def value(query: str) -> float:
            found = asked(f"query?query={quote(query)}")
            return float(found["result"][0]["value"][1]) if found and found["result"] else 0.0

        try:
            serving.until(lambda: value(f'rate(gotrace_waits_total{{target="{faulty.name}",reason="sleep"}}[10s])') > 0)
            serving.until(lambda: value(f'gotrace:request_duration_seconds:p99{{target="{faulty.name}"}}') > 0)
            rules = [rule for group in asked("rules")["groups"] for rule in group["rules"]]
            assert len(rules) > 10 and {rule["health"] for rule in rules} <= {"ok", "unknown"}
            assert asked("targets")["activeTargets"][0]["health"] == "up"
        finally:
            process.terminate()
            said = process.stderr.read().decode()
    warned = [line for line in said.splitlines() if "level=warn" in line or "level=error" in line]
    assert [line for line in warned if "Received SIGTERM" not in line] == []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_captures_and_endpoints_say_the_same(serving: Serving, service: Workload, tmp_path: Path) -> None:
    """Of a stretch of the past: go tool pprof, by HTTP, has the totals of a capture of the same time."""
    time.sleep(2)
    ring = serving.tracing(service.pid)["ring"]
    window = f"target={service.pid}&from={ring['to'] - 6}&to={ring['to'] - 1}"
    line = serving.json(f"/capture?{window}", "POST")
    profile = read_capture(Path(line["files"][0]))
    go = go_command("1.27.3")
    done = subprocess.run(
        [go, "tool", "pprof", "-raw", f"{serving.url}/debug/pprof/offcpu?{window}"], capture_output=True, text=True, timeout=120,
        env=go_environment() | {"PPROF_TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    samples = re.findall(r"^\s+(\d+)\s+(\d+):", done.stdout, re.MULTILINE)
    intervals = sum(s.distribution.count for s in profile.stacks if s.reason not in CONTINUED)
    total_ns = sum(s.distribution.total_ns for s in profile.stacks)
    # What was in progress at the first may have ended until the second.
    assert samples and sum(int(count) for count, _ in samples) == pytest.approx(intervals, rel=0.05)
    assert sum(int(ns) for _, ns in samples) == pytest.approx(total_ns, rel=0.05)
    assert 4.98e9 <= profile.window.duration_ns < 8e9


def test_the_page(serving: Serving, service: Workload, browser: Browser) -> None:
    browser.open(serving.url + "/")
    serving.until(lambda: browser.run("document.querySelectorAll('#places tbody tr').length"))
    assert str(service.pid) in browser.text("#targets tbody") and "main.takeOrder" not in browser.text("#requests")
    assert "net/http.serverHandler.ServeHTTP" in browser.text("#requests") and browser.run("axis.steps.length") > 2
    assert browser.problems() == []


def test_go_s_other_endpoints(serving: Serving, service: Workload) -> None:
    status, text, headers = serving.ask(f"/debug/pprof/goroutine?target={service.pid}&debug=2")
    assert status == 200 and b"goroutine 1 [" in text and b"main.ask(...)" in text and headers["x-content-type-options"] == "nosniff"
    status, text, _ = serving.ask(f"/debug/pprof/goroutine?target={service.pid}&debug=1")
    assert status == 200 and text.startswith(b"goroutine profile: total ")
    status, body, _ = serving.ask(f"/debug/pprof/block?target={service.pid}&seconds=5")
    assert status == 200 and b"contentions" in gzip.decompress(body) and b"netpoll" not in gzip.decompress(body)
    status, text, headers = serving.ask(f"/debug/pprof/heap?target={service.pid}")
    assert status == 404 and b"known to the process alone" in text and headers["x-go-pprof"] == "1"
    status, text, _ = serving.ask(f"/flamegraph?target={service.pid}&seconds=5")
    assert status == 200 and b"Content-Security-Policy" in text
    assert serving.ask("/debug/pprof/offcpu?target=nobody")[0] == 404


def test_it_follows_processes_and_signals(serving: Serving, faulty: Faulty, service: Workload) -> None:
    """A process that is started again is traced as well; SIGUSR1 writes captures; the kill file detaches; SIGTERM ends."""
    with faulty.started() as second:
        serving.tracing(second.pid)
        assert serving.ask(f"/debug/pprof/offcpu?target={faulty.name}")[0] == 409
        written = len(serving.lines)
        serving.process.send_signal(signal.SIGUSR1)
        serving.until(lambda: len([line for line in serving.lines[written:] if line["kind"] == "signal" and line["files"]]) == 2)
        (serving.folder / "off").touch()
        serving.until(lambda: not probes_of(second.pid) and not probes_of(service.pid))
        serving.until(lambda: {one["condition"] for one in serving.targets()} == {"stopped"})
        (serving.folder / "off").unlink()
        serving.tracing(second.pid)
        serving.tracing(service.pid)
    ended = serving.until(lambda: next((one for one in serving.targets() if one["condition"] == "ended"), None))
    assert ended["pid"] == second.pid
    # What is kept of it does not change any more: a capture and the endpoint are equal.
    line = serving.json(f"/capture?target={second.pid}", "POST")
    profile = read_capture(Path(line["files"][0]))
    body = gzip.decompress(serving.ask(f"/debug/pprof/offcpu?target={second.pid}")[1])
    assert body and profile.targets[0].pid == second.pid and profile.stacks
    with faulty.started() as third:
        began = time.monotonic()
        serving.tracing(third.pid, 0.1)
        print(f"picked up after {time.monotonic() - began:.1f} s")
        took_s = serving.end()
        told = "\n".join(serving.notified)
        assert told.startswith("READY=1\nSTATUS=serving at http://") and "WATCHDOG=1" in told and told.endswith("STOPPING=1")
        print(f"ended after {took_s:.1f} s")
        assert took_s < 6 and not probes_of(third.pid) and not probes_of(service.pid)


@pytest.mark.full
def test_a_fault_is_caught_whatever_the_governor_gives_up(faulty: Faulty, tmp_path: Path) -> None:
    """It may do without probes, but there are no pauses in which nothing is seen."""
    flags = ["--name", f"^{faulty.name}$", "--trigger", "max(reason~Mutex) > 500ms", "--after", "1s", "--max-overhead", "0.01"]
    with faulty.started() as workload, Serving(tmp_path, *flags) as serving:
        serving.until(lambda: serving.tracing(workload.pid, 3)["rung"] == "probes")
        for _ in range(6):  # where samples have to wait for a CPU, one may be missed
            workload.send("fault")
            deadline = time.monotonic() + 8
            serving.until(lambda until=deadline: serving.lines or time.monotonic() > until)
            if serving.lines:
                break
        line = serving.lines[0]
        profile = read_capture(Path(line["files"][0]))
        waits = [stack for stack in profile.stacks if any(frame.name == "main.takeOrder" for frame in stack.frames)]
        assert max(stack.distribution.max_ns for stack in waits) > 500e6
        assert any(frame.name == "main.rebuildIndex" for stack in profile.stacks if stack.reason == "sleep" for frame in stack.frames)
        serving.end()


@pytest.mark.full
def test_a_process_whose_main_thread_has_ended_is_traced(tmp_path: Path) -> None:
    """Through a thread that lives; and it goes on if that happens while it is traced."""
    name = f"hosting{os.getpid()}"
    shutil.copy(host("1.27.3"), tmp_path / name)
    flags = ["--name", f"^{name}$"]
    with Workload(tmp_path / name) as before, Workload(tmp_path / name) as later:
        ended(before)
        with Serving(tmp_path, *flags) as serving:
            for workload in (before, later):
                assert serving.tracing(workload.pid, 2)["name"] == name
            ended(later)
            to = serving.tracing(later.pid)["ring"]["to"]
            naps = asked(later, "naps")
            target = serving.until(lambda: next((t for t in serving.targets() if t["pid"] == later.pid and t["ring"]["to"] > to + 2), None))
            assert target["condition"] == "tracing" and target["traces"] == 1 and asked(later, "naps") > naps
            body = gzip.decompress(serving.ask(f"/debug/pprof/offcpu?target={before.pid}&seconds=2")[1])
            assert b"main.Nap" in body
            serving.end()
