"""`attach` judges the process as `dump` does, once its probes are gone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from attach import probes_of
from gobuild import GO_VERSIONS, build
from workload import Workload
from zoo import CYCLES

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

Gotrace = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("repaired", [False, True])
def test_a_deadlock_is_told(gotrace: Gotrace, tmp_path: Path, repaired: bool) -> None:
    capture, page = tmp_path / "x.gotrace", tmp_path / "x.html"
    with Workload(build("deadlocks", GO_VERSIONS[-1], "stripped"), "opposite", *(["repaired"] if repaired else [])) as workload:
        done = gotrace("attach", workload.pid, "-d", "500ms", "--json", "-o", capture, "-o", page)
        assert not probes_of(workload.pid)
        assert workload.finish()[0] == 0
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    told = [verdict for verdict in summary.get("verdicts", []) if verdict["kind"] == "deadlock"]
    text = gotrace("report", capture).stdout
    assert json.loads(gotrace("report", capture, "--json").stdout).get("verdicts") == summary.get("verdicts")
    if repaired:
        assert not told and "DEADLOCK" not in text
        return
    kind, count, certain, words = CYCLES["opposite"]
    assert [(one["kind"], one["certain"], len(one["goroutines"])) for one in told] == [(kind, certain, count)]
    assert words in told[0]["text"] and "DEADLOCK: " in text and "DEADLOCK: " in done.stderr


def test_too_many_goroutines_are_not_judged(gotrace: Gotrace, tmp_path: Path) -> None:
    with Workload(build("parked", GO_VERSIONS[-1], "stripped")) as workload:  # 10,000, and its own
        done = gotrace("attach", workload.pid, "-d", "300ms", "--json", "-o", tmp_path / "x.folded")
    summary = json.loads(done.stdout)
    assert "verdicts" not in summary
    assert any(note.startswith(f"no verdicts on PID {workload.pid}: it has had 10,") for note in summary["notes"]), summary["notes"]
