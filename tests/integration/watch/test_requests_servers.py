"""Requests of a server that is not ours, against what it counts itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from attach import Attached
from etcd import running_etcd

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
