"""scripts/load as a user runs it: counts of requests, what a stalling server is charged with, a command in the midst."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gobuild import GO_VERSIONS, go_command, go_environment

ROOT = Path(__file__).resolve().parents[3]


def load(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROOT / "scripts/load", *arguments], capture_output=True, text=True, timeout=120)


@pytest.fixture
def stalling() -> Iterator[str]:
    """A server that answers its first request after half a second, all others at once."""
    first = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if not first.is_set():
                first.set()
                time.sleep(0.5)
            self.send_response(200 if self.path == "/" else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.full
def test_the_fixture_s_own_tests() -> None:
    go = go_command(GO_VERSIONS[-1])
    done = subprocess.run([go, "test", "./..."], cwd=ROOT / "tests/fixtures/load", env=go_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_that_is_due_is_asked_and_answered() -> None:
    done = load("--json", "--stages", "1s@200,500ms@400,200ms@max", "--warm-up", "100ms")
    assert done.returncode == 0, done.stderr
    stages = [stage["before"] for stage in json.loads(done.stdout)["stages"]]
    # What is due at a stage's very end may fall to either side.
    assert abs(stages[0]["requests"] - 200) <= 1 and abs(stages[1]["requests"] - 200) <= 1 and stages[2]["requests"] > 10
    for stage in stages:
        assert stage["answers"] == stage["requests"] and stage["error_rate"] == 0 and not any(stage["errors"].values())
        latency = stage["latency"]
        assert latency["p50_ns"] <= latency["p90_ns"] <= latency["p99_ns"] <= latency["p999_ns"] <= latency["max_ns"]


def test_a_stall_is_charged_with_all_that_was_due_in_it(stalling: str) -> None:
    done = load("--json", "--url", stalling, "--stages", "1s@100", "--warm-up", "0s", "--connections", "1")
    assert done.returncode == 0, done.stderr
    latency = json.loads(done.stdout)["stages"][0]["before"]["latency"]
    # The i-th request is due i * 10 ms after the first and none is answered before the stall's end at 500 ms.
    assert latency["p90_ns"] >= 370_000_000 and latency["mean_ns"] >= 100_000_000


def test_errors_are_counted_by_kind(stalling: str) -> None:
    done = load("--json", "--url", stalling + "absent", "--stages", "500ms@100", "--warm-up", "0s", "--timeout", "100ms", "--connections", "1")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["stages"][0]["before"]
    assert found["errors"]["timeout"] >= 1 and found["errors"]["status"] >= 1 and found["answers"] == 0
    assert sum(found["errors"].values()) == found["requests"] and found["error_rate"] == 1


def test_a_command_runs_during_the_load() -> None:
    command = "import sys, time; print('Up', sys.argv[1], file=sys.stderr, flush=True); time.sleep(60)"
    done = load("--json", "--stages", "300ms@100", "--warm-up", "0s", "--settle", "0s", "--ready", "^Up", "--",
                sys.executable, "-c", command, "{pid}")
    # It is ended by SIGINT, which Python tells as a failure.
    assert done.returncode == 1 and "Up " in done.stderr and "{pid}" not in done.stderr
    found = json.loads(done.stdout)
    assert [abs(found["stages"][0][phase]["requests"] - 30) <= 1 for phase in ("before", "during", "after")] == [True] * 3
    assert found["command"]["exit_code"] and not found["command"]["ended_early"]


def test_load_for_others_is_refused() -> None:
    done = load("--url", "http://192.0.2.1/", "--stages", "1s@1")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "hint: " in done.stderr and "Traceback" not in done.stderr
