"""`attach --objects`: what was waited for, and who held the locks, against a program that keeps its own account."""

from __future__ import annotations

import gzip
import json
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import pytest
from gobuild import GO_VERSIONS, build
from schemas import schema, strict
from workload import Workload

pytestmark = pytest.mark.bpf
VERSIONS = (GO_VERSIONS[0], "1.24.11", GO_VERSIONS[-1])
SHARE = 0.05


class Traced:
    def __init__(self, folder: Path, gotrace: Callable[..., subprocess.CompletedProcess[str]], version: str) -> None:
        self.version = version
        self.capture, self.page, self.pprof = (folder / f"locks{suffix}" for suffix in (".gotrace", ".html", ".pb.gz"))
        with Workload(build("locks", version, "stripped"), undisturbed=True) as workload:
            workload.send("account")
            before = workload.read_json(20)
            self.done = gotrace(
                "attach", workload.pid, "-d", "3s", "--objects", "--json", "--max-overhead", "0",
                "-o", self.capture, "-o", self.page, "-o", self.pprof,
            )
            workload.send("account")
            after = workload.read_json(20)
        assert self.done.returncode == 0, self.done.stderr
        self.summary = json.loads(self.done.stdout)
        self.after = after
        self.elapsed_ns = after["elapsed"] - before["elapsed"]
        self.waited_ns = {name: one["ns"] - before["waits"][name]["ns"] for name, one in after["waits"].items()}
        self.held_ns = {name: ns - before["held"][name] for name, ns in after["held"].items()}

    def object(self, name: str) -> dict:
        truth = self.after["waits"][name]
        return next(one for one in self.summary["objects"] if (one["kind"], one["address"]) == (truth["kind"], truth["address"] or None))

    def waited_share(self, name: str) -> tuple[float, float]:
        """How many goroutines waited for it on average: as traced, and by the program's own account."""
        return self.object(name)["total_ns"] / self.summary["window"]["duration_ns"], self.waited_ns[name] / self.elapsed_ns


@pytest.fixture(scope="module", params=VERSIONS)
def traced(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, gotrace: Callable[..., subprocess.CompletedProcess[str]],
) -> Iterator[Traced]:
    yield Traced(tmp_path_factory.mktemp("objects"), gotrace, request.param)


def test_objects_are_those_of_the_program(traced: Traced) -> None:
    for name in ("mutex", "rwmutex", "chan", "select", "waitgroup", "cond"):
        assert traced.object(name)["count"] > 100, name
    for name in ("chan", "select", "waitgroup", "cond"):
        found, true = traced.waited_share(name)
        assert found == pytest.approx(true, rel=0.15), name
    channels = traced.object("select")["detail"]["text"]
    assert sorted(channels.replace("chan ", "").split(", ")) == sorted(traced.after["select"])
    assert traced.object("chan")["goroutines"] == 1 and traced.object("mutex")["goroutines"] == 6
    assert not traced.summary["losses"]["waited_unread"] and not traced.summary["losses"]["waited_full"]


def test_every_stack_tells_its_object(traced: Traced) -> None:
    stacks = traced.summary["stacks"]
    for one in traced.summary["objects"]:
        mine = [stacks[index] for index in one["stacks"]]
        assert one["total_ns"] == sum(stack["total_ns"] for stack in mine)
        assert all((stack["object"]["kind"], stack["object"]["address"]) == (one["kind"], one["address"]) for stack in mine)
    unknown = [stack for stack in stacks if stack["object"] and stack["object"]["kind"] == "unknown"]
    assert sum(stack["count"] for stack in unknown) == sum(stack["in_progress"] for stack in unknown) <= 16


@pytest.mark.parametrize(("lock", "functions"), [
    ("mutex", ("main.flush", "main.compact", "main.work")), ("rwmutex", ("main.scan", "main.update")),
])
def test_holders_have_their_shares(traced: Traced, lock: str, functions: tuple[str, ...]) -> None:
    found = traced.object(lock)
    assert found["explained_ns"] >= 0.95 * found["contended_ns"] > 0
    mine: dict[str, int] = {}
    for holder in found["holders"]:
        assert holder["sure_ns"] <= holder["held_ns"]
        # Whoever is handed the lock has it, or nobody has, until it gets a P: the program's own clock begins after that.
        on_the_way = sum(did["total_ns"] for did in holder["waits"] if did["text"].startswith("waiting for a P")) if lock == "mutex" else 0
        mine[holder["function"]] = mine.get(holder["function"], 0) + holder["held_ns"] - on_the_way
    if lock == "mutex":  # always wanted: all that it was held counts
        whole = sum(traced.held_ns[name] for name in functions)
        for name in functions:
            assert mine.get(name, 0) / sum(mine.values()) == pytest.approx(traced.held_ns[name] / whole, abs=SHARE), (name, mine)
        flush = next(holder for holder in found["holders"] if holder["function"] == "main.flush")
        assert flush["waits"][0]["text"].startswith("nanosleep in main.kernelSleep")
    else:  # only the other side's time counts: the writer waits for the reader, and the reader for the writer
        assert mine["main.scan"] == pytest.approx(traced.object(lock)["contended_ns"] - mine["main.update"], rel=SHARE)
        assert next(holder for holder in found["holders"] if holder["function"] == "main.scan")["reading"]


def test_outputs_have_objects(traced: Traced, gotrace: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    address = traced.after["waits"]["mutex"]["address"]
    jsonschema.validate(traced.summary, strict(schema("summary")))
    again = json.loads(gotrace("report", traced.capture, "--json").stdout)
    assert again["objects"] == traced.summary["objects"]
    text = gotrace("report", traced.capture).stdout
    assert f"mutex {address}" in text and "of that time by main.flush, which spent" in text and "who held the lock is known of" in text
    with sqlite3.connect(traced.capture) as db:
        total, = db.execute(
            "SELECT sum(total_ns) FROM stack JOIN object ON object.id = stack.object WHERE kind = 'mutex' AND address = ?", (int(address, 16),)
        ).fetchone()
    assert total == traced.object("mutex")["total_ns"]
    assert f"mutex {address}".encode() in gzip.decompress(traced.pprof.read_bytes())
