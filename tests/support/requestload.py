"""Runs tests/fixtures/requests under gotrace: what the program says of its requests, and what gotrace says of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from attach import Attached
from workload import Workload

HTTP = "net/http.serverHandler.ServeHTTP"


@dataclass
class Account:
    """What the program knows: its requests, and how many had not ended."""

    requests: list[dict]
    in_progress: int

    def of(self, kind: str) -> list[dict]:
        return [request for request in self.requests if request["kind"] == kind]

    def by_length(self) -> list[dict]:
        return sorted(self.requests, key=lambda request: request["duration_ns"])


@dataclass
class Traced:
    """One run."""

    account: Account
    summary: dict

    def span(self, function: str = HTTP) -> dict:
        (found,) = [span for span in self.summary["requests"] if span["span"] == function]
        return found


def traced_load(
    binary: Path, folder: Path, mix: str, *options: object, program: Iterable[str] = (), cgroup: Path | None = None
) -> Traced:
    """Attaches, then lets the program, in that `cgroup`, make its load, then ends the trace."""
    # The program's clock also sees a thread that waits for a CPU while its goroutine runs; gotrace says so, the program can't.
    with Workload(binary, "-dir", str(folder), *program, undisturbed=True) as workload:
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text(str(workload.pid))
        with Attached(workload.pid, "-d", "0", "--json", "-o", folder / "requests.gotrace", *options) as trace:
            workload.send(f"go 4 {mix}")
            account = Account(**workload.read_json(60))
            summary = trace.end_json()
        if account.in_progress:
            workload.send("release")
            assert workload.read_line(20) == "released"
        assert workload.finish()[0] == 0
    return Traced(account, summary)


def total(requests: Iterable[dict], *waits: str) -> int:
    """Their time, or of it what they have waited so."""
    if not waits:
        return sum(request["duration_ns"] for request in requests)
    return sum(request["waits"].get(wait, 0) for request in requests for wait in waits)


def at_most(request: dict) -> int:
    """How long it can have been: one that ends by a panic does so when that is recovered, and by runtime.Goexit with its goroutine. The
    server closes its connection before either."""
    return max(request["duration_ns"], request["closed_ns"])


def waits_in(bands: Iterable[dict]) -> int:
    """How many waits of any kind there were."""
    return sum(stack["count"] for band in bands for stack in band["stacks"])


def off_ns(bands: Iterable[dict]) -> int:
    return sum(ns for band in bands for ns in band["by_state"].values())


def cause_ns(span: dict, *fragments: str) -> int:
    """What the causes charge to those whose text has all of these fragments."""
    return sum(
        cause["total_ns"] for band in span["bands"] for cause in band["causes"] if all(fragment in cause["cause"] for fragment in fragments)
    )


def check_path(exemplar: dict) -> None:
    """It covers the request without gaps and overlaps, the latest step first."""
    at = exemplar["start_ns"] + exemplar["duration_ns"]
    assert exemplar["path"]
    for step in exemplar["path"]:
        assert step["to_ns"] == at and step["from_ns"] < step["to_ns"], exemplar
        at = step["from_ns"]
    assert at == exemplar["start_ns"]
