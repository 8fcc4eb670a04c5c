"""Captures of a real service, before and after: figures second by second, hot spots, and what `gotrace diff` makes of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from attach import Attached
from gobuild import build
from workload import Workload

from gotrace.capture.reader import read_capture

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

Gotrace = Callable[..., subprocess.CompletedProcess[str]]
SECONDS = 5


def record(folder: Path, name: str, version: str, rate: int, procs: int, *flags: object) -> tuple[Path, dict]:
    """A capture of the service under that load, and attach's summary."""
    capture = folder / f"{name}.gotrace"
    environment = f"GOMAXPROCS={procs}"
    with Workload("/usr/bin/env", environment, str(build("service", version, "stripped")), "-stdin-ends", f"-rate={rate}") as service:
        with Attached(service.pid, "-d", f"{SECONDS}s", "--json", "-o", capture, *flags) as trace:
            out, err = trace.process.communicate(timeout=180)
            assert trace.process.returncode == 0, err
        assert service.running
    return capture, json.loads(out)


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict]]:
    folder = tmp_path_factory.mktemp("captures")
    return {
        "idle": record(folder, "idle", "1.27.3", 0, 1),
        "busy": record(folder, "busy", "1.27.3", 120, 2, "--hot-p99", "1us", "--hot-share", "1"),
        "old": record(folder, "old", "1.21.13", 120, 2),
    }


@pytest.mark.full
def test_every_interval_that_ended_is_in_a_sub_window(captures: dict[str, tuple[Path, dict]]) -> None:
    profile = read_capture(captures["busy"][0])
    for stack in profile.stacks:
        ended = sum(row.count for row in stack.subwindows)
        assert stack.distribution.count - stack.in_progress <= ended <= stack.distribution.count
        assert sum(row.total_ns for row in stack.subwindows) <= stack.distribution.total_ns
    starts = {row.start_ns for stack in profile.stacks for row in stack.subwindows}
    assert len(starts) >= SECONDS - 1 and max(starts) < profile.window.duration_ns


def test_attach_lists_hot_spots_by_its_flags(captures: dict[str, tuple[Path, dict]], gotrace: Gotrace) -> None:
    path, summary = captures["busy"]
    assert summary["hotspots"] and all(spot["why"] for spot in summary["hotspots"])
    reported = json.loads(gotrace("report", path, "--json", "--hot-p99", "1us", "--hot-share", "1").stdout)
    assert reported["hotspots"] == summary["hotspots"]
    for spot in summary["hotspots"]:
        stack = summary["stacks"][spot["stack"]]
        names = {frame["name"] for frame in stack["frames"]}
        if stack["state"] == "waiting":  # for work, by design
            assert not {"net/http.(*persistConn).writeLoop", "runtime.gcBgMarkWorker"} & names


def test_load_is_what_is_new(captures: dict[str, tuple[Path, dict]], gotrace: Gotrace, tmp_path: Path) -> None:
    idle, busy = captures["idle"][0], captures["busy"][0]
    page = tmp_path / "x.html"
    result = json.loads(gotrace("diff", idle, busy, "--json", "-o", page).stdout)
    assert page.stat().st_size > 10_000
    assert result["same_build"] and not result["empty"]
    by_name: dict[str, list[dict]] = {}
    for stack in result["stacks"]:
        for name in {frame["name"] for frame in stack["frames"]}:
            by_name.setdefault(name, []).append(stack)
    assert {stack["status"] for stack in by_name["main.(*shop).handleGetUser"]} == {"new"}
    assert any(stack["exceeds_noise"] for stack in by_name["main.(*shop).handleGetUser"])
    sleeping = [s for s in by_name["main.heartbeat"] if s["reason"] == "sleep"]
    assert [stack["status"] for stack in sleeping] == ["changed"]
    assert result["by_state"]["waiting"]["change"]["count"]["exceeds_noise"]
    text = gotrace("diff", idle, busy, env=os.environ | {"COLUMNS": "80"}).stdout
    assert max(map(len, text.splitlines())) <= 80 and "beyond the noise" in text


def test_a_capture_and_itself(captures: dict[str, tuple[Path, dict]], gotrace: Gotrace) -> None:
    path = captures["busy"][0]
    result = json.loads(gotrace("diff", path, path, "--json").stdout)
    assert result["empty"] and result["stacks"] == []


def test_places_survive_six_go_versions(captures: dict[str, tuple[Path, dict]], gotrace: Gotrace) -> None:
    result = json.loads(gotrace("diff", captures["old"][0], captures["busy"][0], "--json").stdout)
    assert not result["same_build"] and any("builds differ" in note for note in result["notes"])
    alone, both = [], set()
    for stack in result["stacks"]:
        names = [frame["name"] for frame in stack["frames"]]
        count = max(side["count"] for side in (stack["before"], stack["after"]) if side)
        if stack["state"] != "waiting" or count < 40 or not any(name.startswith("main.") for name in names):
            continue
        if stack["status"] == "changed":
            both |= set(names)
        else:
            alone.append((stack["status"], stack["reason"], names))
    assert alone == []
    assert {"main.(*userCache).lookup", "main.(*dbConn).roundTrip", "main.(*orderPipeline).price"} <= both
