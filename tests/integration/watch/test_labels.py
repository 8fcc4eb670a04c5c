"""`attach --label`: totals by the value of a profiler label are those of the program's own account."""

from __future__ import annotations

import gzip
import json
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from attach import Attached
from gobuild import build
from wire import each, fields, packed
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

LONG = "long" * 16 + "..."
"""The program's 100 letters, as far as they are kept."""


def traced(version: str, *flags: object, program: tuple[str, ...] = (), label: str = "tenant") -> tuple[dict, dict]:
    """The summary of a trace, and what the program says of itself."""
    with Workload(build("labelled", version, "stripped"), *program) as workload:
        with Attached(workload.pid, "-d", "0", "--json", "--label", label, *flags) as trace:
            workload.send("go")
            own = workload.read_json(30)
            summary = trace.end_json()
    own["own"] = {("long" * 16 + "..." if len(tenant) > 64 else tenant): ns for tenant, ns in own["own"].items()}
    return summary, own


def names(stack: dict) -> set[str]:
    return {frame["name"] for frame in stack["frames"]}


def by_tenant(summary: dict) -> dict[str, int]:
    return {value: figures["total_ns"] for value, figures in summary["totals"]["by_label"]["tenant"].items()}


# Labels are a map up to Go 1.23, a slice from then on.
@pytest.mark.beside
@pytest.mark.parametrize("version", ["1.19", "1.21.13", "1.23.9", "1.24.11", "1.27.3"])
def test_totals_by_label_are_the_program_s_own(
    version: str, tmp_path: Path, gotrace: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    capture = tmp_path / "x.gotrace"
    outputs = [tmp_path / name for name in ("x.folded", "x.pftrace", "x.speedscope.json", "x.svg", "x.pb.gz")]
    summary, said = traced(version, "-o", capture, *(part for path in outputs for part in ("-o", path)))
    found = by_tenant(summary)
    assert found.keys() == {"a", "b", LONG, "", "sys", "parked-a", "parked-b"}
    for tenant, own_ns in said["own"].items():
        if tenant:  # the program counts waits outside of any label with those of the empty value
            assert abs(found[tenant] - own_ns) < 0.01 * own_ns, (tenant, found[tenant], own_ns)
    unlabelled = [stack for stack in summary["stacks"] if "labels" not in stack and {"time.Sleep", "main.sleeper"} <= names(stack)]
    assert abs(found[""] + sum(stack["total_ns"] for stack in unlabelled) - said["own"][""]) < 0.02 * said["own"][""]
    # Go's own profile of goroutines counts them by label, too.
    parked = [stack for stack in summary["stacks"] if stack.get("labels", {}).get("tenant", "").startswith("parked")]
    assert {stack["labels"]["tenant"]: stack["goroutines"] for stack in parked} == said["profile"] == {"parked-a": 3, "parked-b": 2}
    assert all(stack["in_progress"] == stack["goroutines"] for stack in parked)
    assert summary["losses"]["labels_unread"] == summary["losses"]["label_values_full"] == 0
    in_outputs(outputs, found)
    db = sqlite3.connect(capture)
    query = "SELECT json_extract(labels, '$.tenant') AS tenant, sum(total_ns) FROM stack WHERE labels NOTNULL GROUP BY tenant"
    assert dict(db.execute(query)) == found
    report = json.loads(gotrace("report", capture, "--json", "--label", "tenant=b").stdout)
    assert by_tenant(report) == {"b": found["b"]}
    text = gotrace("report", capture).stdout
    assert "label tenant" in text and "(no such label)" in text and "tenant=parked-a" in text


def in_outputs(outputs: list[Path], found: dict[str, int]) -> None:
    folded, timeline, scope, picture, profile = outputs
    totals: dict[str, int] = {}
    for line in folded.read_text().splitlines():
        root, value = line.partition(";")[0], int(line.rpartition(" ")[2])
        if root.startswith("tenant=") and root.endswith("_[l]"):
            tenant = root.removeprefix("tenant=").removesuffix("_[l]")
            totals[tenant] = totals.get(tenant, 0) + value
    assert totals == found
    assert b"label tenant" in timeline.read_bytes() and "tenant=sys" in scope.read_text() and "tenant=parked-a" in picture.read_text()
    raw = gzip.decompress(profile.read_bytes())
    texts = [text.decode() for text in each(raw, 6)]
    labelled: dict[str, int] = {}
    for sample in each(raw, 2):
        for label in each(sample, 3):
            parts = dict(fields(label))
            if texts[parts[1]] == "tenant":
                value = texts[parts[2]] if 2 in parts else ""
                labelled[value] = labelled.get(value, 0) + sum(packed(value)[1] for value in each(sample, 2))
    assert labelled == {tenant: ns for tenant, ns in found.items() if tenant}  # an empty text is no label in a profile


@pytest.mark.parametrize("version", ["1.19", "1.27.3"])
def test_samples_know_labels(version: str, tmp_path: Path) -> None:
    summary, said = traced(version, "--mode", "sample", "--sample-rate", "100", "-o", tmp_path / "x.gotrace")
    found = by_tenant(summary)
    for tenant in ("a", "b", "sys"):
        # On a busy machine samples come late.
        assert 0.6 * said["own"][tenant] < found[tenant] < 1.4 * said["own"][tenant], (tenant, found, said["own"])
    parked = [stack for stack in summary["stacks"] if stack.get("labels", {}).get("tenant", "").startswith("parked")]
    assert {stack["labels"]["tenant"]: stack["goroutines"] for stack in parked} == said["profile"]


@pytest.mark.beside
@pytest.mark.parametrize("version", ["1.23.9", "1.27.3"])
def test_labels_that_are_none_are_bounded_and_counted(version: str, tmp_path: Path) -> None:
    page = tmp_path / "x.html"
    summary, said = traced(version, "-o", page, "-o", tmp_path / "x.folded", program=("-hostile",))
    found = by_tenant(summary)
    assert found["(unread)"] > 0 and summary["losses"]["labels_unread"] > 0
    assert all(abs(found[tenant] - said["own"][tenant]) < 0.01 * said["own"][tenant] for tenant in ("b", "sys"))
    assert b"<script>\\xff" not in page.read_bytes() and b"\x1b" not in (tmp_path / "x.folded").read_bytes()


@pytest.mark.beside
def test_more_values_than_are_kept_are_other_values(tmp_path: Path) -> None:
    summary, _ = traced("1.27.3", "-o", tmp_path / "x.gotrace", program=("-values", "1100"))
    found = summary["totals"]["by_label"]["tenant"]
    assert len(found) <= 1025 and found["(other values)"]["count"] >= 1100 - 1024
    assert summary["losses"]["label_values_full"] >= 1100 - 1024


@pytest.mark.beside
def test_without_labels_none_is_read(tmp_path: Path, gotrace: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    with Workload(build("labelled", "1.27.3", "stripped")) as workload:
        with Attached(workload.pid, "-d", "0", "--json", "--no-labels", "-o", tmp_path / "x.gotrace") as trace:
            workload.send("go")
            workload.read_line(30)
            summary = trace.end_json()
        dumped = gotrace("dump", workload.pid, "--no-labels", "--json")
    assert "by_label" not in summary["totals"] and b"parked-a" not in (tmp_path / "x.gotrace").read_bytes()
    assert dumped.returncode == 0 and "parked-a" not in dumped.stdout
