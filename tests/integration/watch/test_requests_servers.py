"""Requests of servers that are not ours, against what they count themselves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from attach import Attached
from etcd import running_etcd
from prometheus import running_prometheus

from gotrace.capture.reader import read_capture
from gotrace.common.histogram import bucket_range

pytestmark = pytest.mark.bpf
UNARY = r'grpc_server_handled_total\{.*grpc_type="unary"'
SYNCS = r"etcd_disk_wal_fsync_duration_seconds_"
PUTS = 40


def test_etcd_s_requests_and_what_they_wait_for_in_the_end(tmp_path: Path) -> None:
    with running_etcd(tmp_path) as etcd, Attached(etcd.pid, "-d", "0", "--json", "-o", tmp_path / "etcd.gotrace") as trace:
        before, synced = etcd.metric(UNARY), etcd.metric(SYNCS + "sum")
        for number in range(PUTS):
            assert etcd.ask("put", f"key{number}", "value").returncode == 0
        handled, synced_ns = etcd.metric(UNARY) - before, (etcd.metric(SYNCS + "sum") - synced) * 1e9
        summary = trace.end_json()
    (span,) = [each for each in summary["requests"] if each["span"].endswith("processUnaryRPC")]
    assert span["count"] == handled >= PUTS and span["in_progress"] == 0
    for band in span["bands"]:
        assert abs(band["cpu_ns"] + sum(band["by_state"].values()) - band["total_ns"]) <= 0.01 * band["total_ns"] + 100
    # Each put waits for one write of the log: its fdatasync is a cause, and what the goroutine that does it waits for or runs meanwhile.
    causes: dict[str, int] = {}
    for band in span["bands"]:
        for cause in band["causes"]:
            causes[cause["cause"]] = causes.get(cause["cause"], 0) + cause["total_ns"]
    sync = sum(ns for text, ns in causes.items() if text.startswith("fdatasync of fd") and ".wal" in text and "raftNode" in text)
    in_sync = sum(ns for text, ns in causes.items() if "Fdatasync" in text)
    assert 0 < sync <= in_sync <= 1.1 * synced_ns
    assert sum(causes.values()) > 0.95 * sum(band["total_ns"] for band in span["bands"])
    named = {exemplar["what"] for exemplar in span["exemplars"]}
    assert named <= {"Put", None} and "Put" in named
    for exemplar in span["exemplars"]:
        at = exemplar["start_ns"] + exemplar["duration_ns"]
        for step in exemplar["path"]:
            assert step["to_ns"] == at
            at = step["from_ns"]
        assert at == exemplar["start_ns"]


def steps(number: int) -> str:
    """A query that takes the longer the larger the number is: of an average over so many averages over 100 values."""
    return f"avg_over_time(avg_over_time(vector(7)[100s:1s])[{number}s:1s])"


def test_prometheus_s_requests_are_those_of_its_own_histogram(tmp_path: Path) -> None:
    """Their number, their sum, and how many took at most as long as each of its buckets."""
    capture = tmp_path / "prometheus.gotrace"
    with running_prometheus(tmp_path) as server:
        with Attached(server.pid, "-d", "0", "--json", "--max-overhead", 0, "-o", capture) as trace:
            before = server.served()
            asked = [*[10] * 30, *[3000] * 20, *[20_000] * 8, 100_000]
            for number in asked:
                assert server.query(steps(number)) == 7
            took_s = 0.0
            while took_s < 0.15:  # above its lowest edge, on a fast machine too
                asked.append(2 * asked[-1])
                began = time.monotonic()
                assert server.query(steps(asked[-1])) == 7
                took_s = time.monotonic() - began
            own = server.served() - before
            summary = trace.end_json()
    (span,) = [each for each in summary["requests"] if each["span"] == "net/http.serverHandler.ServeHTTP"]
    # Ours has both looks at its figures, its own only the first.
    assert span["count"] == own.count + 1 == len(asked) + 2 and (span["in_progress"], span["begun_before"]) == (0, 0)
    assert span["rate_per_s"] == pytest.approx(span["count"] * 1e9 / summary["window"]["duration_ns"], rel=0.02)
    # It measures its handlers, inside of what we measure.
    assert own.sum_s <= span["total_ns"] / 1e9 <= 1.02 * own.sum_s + 0.002 * span["count"]
    (latency,) = [each.latency for each in read_capture(capture).requests if each.function == span["span"]]
    edges = sorted(edge for edge in own.up_to if edge != float("inf"))
    assert own.up_to[edges[0]] < own.count  # not all are in one bucket
    for edge in edges:
        surely = sum(count for bucket, count in latency.histogram.items() if bucket_range(bucket)[1] <= edge * 1e9)
        maybe = sum(count for bucket, count in latency.histogram.items() if bucket_range(bucket)[0] <= edge * 1e9 + 2e6)
        assert surely <= own.up_to[edge] + 1 and own.up_to[edge] <= maybe, edge
    for name, fraction in (("p50_ns", 0.5), ("p90_ns", 0.9), ("p99_ns", 0.99)):
        # The bucket of its histogram in which that percentile lies.
        above = next((edge for edge in edges if own.up_to[edge] >= fraction * own.count), float("inf"))
        below = max((edge for edge in edges if own.up_to[edge] < fraction * own.count - 1), default=0.0)
        assert below * 15 / 16 <= span[name] / 1e9 <= above * 17 / 16, name
    slow = [exemplar for exemplar in span["exemplars"] if exemplar["duration_ns"] >= 0.5 * span["max_ns"]]
    assert slow and all(exemplar["what"] == "GET /api/v1/query" for exemplar in slow)
    assert sum(cause["total_ns"] for band in span["bands"] for cause in band["causes"]) > 0.9 * span["total_ns"]
