"""The exports of a real trace, read back by the tools that they are for, against the summary of the same trace."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from gobuild import build, go_command, go_environment
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb
from traceprocessor import complaints, queried, rows
from workload import Workload

from gotrace import session as session_module
from gotrace.options import AttachOptions
from gotrace.session import Session
from gotrace.vocabulary import Loss

pytestmark = pytest.mark.bpf

GO = "1.27.3"


@pytest.fixture
def service():
    with Workload(build("service", GO, "stripped"), "-stdin-ends") as workload:
        yield workload


def slices_ns(path: Path) -> int:
    """Sum of the lengths of all slices on the goroutines' tracks."""
    total, opened, goroutines = 0, {}, set()
    for packet in pb.Trace.FromString(path.read_bytes()).packet:
        if packet.track_descriptor.name.startswith("goroutine "):
            goroutines.add(packet.track_descriptor.uuid)
        event = packet.track_event
        if event.track_uuid in goroutines and event.type == pb.TrackEvent.TYPE_SLICE_BEGIN:
            opened[event.track_uuid] = packet.timestamp
        elif event.track_uuid in goroutines and event.type == pb.TrackEvent.TYPE_SLICE_END:
            total += packet.timestamp - opened.pop(event.track_uuid)
    assert not opened
    return total


def test_every_format_has_the_total_of_the_summary(service: Workload, tmp_path: Path, gotrace) -> None:
    names = ("x.gotrace", "x.pb.gz", "x.speedscope.json", "x.pftrace", "x.svg", "x.folded", "x.html", "x.json")
    outputs = [argument for name in names for argument in ("-o", tmp_path / name)]
    # Single intervals that the governor samples away are in the totals alone.
    result = gotrace("attach", service.pid, "-d", "1s", "--max-overhead", "0", "--per-goroutine", "--json", *outputs)
    assert result.returncode == 0, result.stderr
    totals = json.loads(result.stdout)["totals"]
    off_cpu_ns = totals["off_cpu_ns"]

    raw = subprocess.run(
        [go_command(GO), "tool", "pprof", "-raw", tmp_path / "x.pb.gz"], capture_output=True, text=True, timeout=120,
        check=True, env=go_environment() | {"PPROF_TMPDIR": str(tmp_path)},
    ).stdout  # fmt: skip
    rows = re.findall(r"^ +(\d+) +(\d+): ", raw.split("delay/nanoseconds\n", 1)[1].split("Locations\n")[0], re.MULTILINE)
    assert sum(int(delay) for _, delay in rows) == off_cpu_ns
    assert sum(int(count) for count, _ in rows) == totals["intervals"]

    speedscope = json.loads((tmp_path / "x.speedscope.json").read_text())
    assert {part["name"]: part["endValue"] for part in speedscope["profiles"]} == {
        state: weights["total_ns"] for state, weights in totals["by_state"].items()
    }
    folded = (tmp_path / "x.folded").read_text().splitlines()
    assert sum(int(line.rpartition(" ")[2]) for line in folded) == off_cpu_ns
    assert ET.parse(tmp_path / "x.svg").getroot().tag.endswith("svg")
    # Each goroutine's last wait is in progress: only where it can be told from what else is missing it is drawn.
    assert 0.95 * off_cpu_ns <= slices_ns(tmp_path / "x.pftrace") <= off_cpu_ns
    # A capture is recorded once and rendered again, to the same bytes.
    for name in ("x.pb.gz", "x.speedscope.json", "x.pftrace", "x.svg"):
        again = gotrace("report", tmp_path / "x.gotrace", "-o", tmp_path / f"again-{name}")
        assert again.returncode == 0, again.stderr
        assert (tmp_path / f"again-{name}").read_bytes() == (tmp_path / name).read_bytes(), name


def test_a_perfetto_output_records_single_intervals_unasked(service: Workload, tmp_path: Path, gotrace) -> None:
    trace, capture = tmp_path / "x.pftrace", tmp_path / "x.gotrace"
    result = gotrace("attach", service.pid, "-d", "1s", "-o", trace, "-o", capture)
    assert result.returncode == 0, result.stderr
    assert gotrace("report", capture, "-o", tmp_path / "again.pftrace").returncode == 0
    with sqlite3.connect(capture) as db:
        recorded_ns, goids = db.execute("SELECT SUM(duration_ns), COUNT(goid) FROM interval").fetchone()
        assert db.execute("SELECT COUNT(goid) FROM stack").fetchone() == (0,)  # goroutines are not kept apart for it
    assert goids > 100
    assert slices_ns(trace) == slices_ns(tmp_path / "again.pftrace") == recorded_ns


def test_without_single_intervals_there_is_no_perfetto_trace(service: Workload, tmp_path: Path, gotrace) -> None:
    capture = tmp_path / "x.gotrace"
    assert gotrace("attach", service.pid, "-d", "500ms", "-o", capture).returncode == 0
    result = gotrace("report", capture, "-o", tmp_path / "x.html", "-o", tmp_path / "x.pftrace")
    assert result.returncode == 1 and not (tmp_path / "x.html").exists()
    assert result.stderr.startswith("error: the capture has no single intervals") and "--per-goroutine" in result.stderr


def test_intervals_beyond_what_is_kept_are_counted(
    service: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_TIMELINE_LIMIT", 50)
    outputs = (str(tmp_path / "x.pftrace"), str(tmp_path / "x.gotrace"))
    with Session(AttachOptions((service.pid,), 1_000_000_000, outputs)) as session:
        session.prepare()
        profile = session.run()
    with sqlite3.connect(tmp_path / "x.gotrace") as db:
        recorded, = db.execute("SELECT COUNT(*) FROM interval").fetchone()
        meta = json.loads(db.execute("SELECT value FROM meta WHERE key = 'losses'").fetchone()[0])
    assert len(profile.timeline) == 50
    assert profile.losses[Loss.TIMELINE_FULL] == recorded - 50 == meta["timeline_full"] > 0


def test_a_perfetto_trace_of_a_real_process_is_read_without_complaint(service: Workload, tmp_path: Path, gotrace) -> None:
    trace, capture = tmp_path / "x.pftrace", tmp_path / "x.gotrace"
    assert gotrace("attach", service.pid, "-d", "1s", "-o", trace, "-o", capture).returncode == 0
    with sqlite3.connect(capture) as db:
        recorded_ns, = db.execute("SELECT SUM(duration_ns) FROM interval").fetchone()
    with queried(trace) as processor:
        assert not complaints(processor)
        on_goroutines = "FROM slice JOIN track ON slice.track_id = track.id WHERE track.name GLOB 'goroutine *'"
        assert rows(processor, f"SELECT SUM(slice.dur) {on_goroutines}") == [(recorded_ns,)]
        (arrows,), = rows(processor, "SELECT COUNT(*) FROM flow")
        (woken,), = rows(processor, f"SELECT COUNT(*) {on_goroutines} AND slice.name GLOB 'wakes goroutine *'")
    assert arrows == woken > 100
