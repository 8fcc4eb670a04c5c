"""What slow requests asked for, and the profiler labels that they had."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attach import Attached
from gobuild import build_text
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

SERVER = """package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/pprof"
	"strings"
	"time"
)

func handle(w http.ResponseWriter, r *http.Request) {
	labels := pprof.Labels("trace_id", r.URL.Query().Get("id"), "long", strings.Repeat("v", 100))
	pprof.Do(r.Context(), labels, func(context.Context) { time.Sleep(2 * time.Millisecond) })
	time.Sleep(time.Millisecond)
	if strings.HasPrefix(r.URL.Path, "/held") {
		time.Sleep(time.Minute)
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println("ready", listener.Addr())
	go http.Serve(listener, http.HandlerFunc(handle))
	os.Stdin.Read(make([]byte, 1))
}
"""


def asked(version: str, folder: Path, *flags: str) -> list[dict]:
    """The exemplars of twenty requests, each with its own path and id, of a long one, and of one that is not answered."""
    with Workload(build_text("named", "example.com/named", SERVER, version, "stripped")) as server:
        address = server.ready.split()[-1]
        with Attached(server.pid, "-d", "0", "--json", "--exemplars", "30", "-o", folder / "x.gotrace", *flags) as trace:
            client = http.client.HTTPConnection(address)
            for number in range(20):
                client.request("GET", f"/item/{number}?id=trace-{number}")
                client.getresponse().read()
            client.request("DELETE", "/" + "x" * 300)
            client.getresponse().read()
            client.request("PUT", "/held/up")
            time.sleep(0.5)
            return trace.end_json()["requests"][0]["exemplars"]


# Labels are a map up to Go 1.23, a slice from then on.
@pytest.mark.parametrize("version", ["1.19", "1.21.13", "1.23.9", "1.24.11", "1.27.3"])
def test_slow_requests_have_their_names_and_labels(version: str, tmp_path: Path) -> None:
    found = asked(version, tmp_path)
    assert len(found) == 22
    by_name = {exemplar["what"]: exemplar["labels"] for exemplar in found}
    for number in range(20):
        labels = by_name[f"GET /item/{number}"]
        assert labels == {"trace_id": f"trace-{number}", "long": "v" * 64 + "..."}
    assert "DELETE /" + "x" * 127 + "..." in by_name
    assert [exemplar["what"] for exemplar in found if exemplar["in_progress"]] == ["PUT /held/up"]


def test_names_are_left_out_on_request(tmp_path: Path, gotrace: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    found = asked("1.27.3", tmp_path, "--no-request-names")
    assert {(exemplar["what"], json.dumps(exemplar["labels"])) for exemplar in found} == {(None, "{}")}
    assert b"trace-7" not in (tmp_path / "x.gotrace").read_bytes()
    assert "trace-7" not in gotrace("report", tmp_path / "x.gotrace").stdout
