"""Every command line and every query of the documentation is run, unless its block says why not, and docs/schema describes what --json
prints: every key, with its type. One sample service, and captures of it, are for all."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from documents import COMMANDS, ROOT, Block, all_blocks, blocks_of
from gobuild import GO_VERSIONS, build
from jsonschema import Draft202012Validator
from prerequisites import unavailable
from schemas import SCHEMA, schema, strict
from workload import Workload

from gotrace.cli.verbs import commands as verbs

pytestmark = [pytest.mark.bpf, pytest.mark.beside]
RUN = [block for block in all_blocks() if block.language == COMMANDS and block.tested]
QUERIES = [block for block in blocks_of(ROOT / "docs/capture.md") if block.language == "sql"]
# The last of several durations counts.
GOTRACE = """#!/bin/bash
[ "$1" != attach ] || set -- "$@" -d 200ms
# Names of files without -o have the second: another trace of the same process would have the same.
! compgen -G "gotrace-*$(date +%Y%m%dT%H%M%S)*" > /dev/null || sleep 1
exec {python} -m gotrace "$@"
"""
SUDO = """#!/bin/bash
exec "$@"
"""


@dataclass(frozen=True)
class Shown:
    """What the documentation calls PID and BINARY, and a folder with trace.gotrace, before.gotrace and after.gotrace."""

    pid: int
    binary: Path
    folder: Path


def attach(pid: int, *arguments: object) -> None:
    command = [sys.executable, "-m", "gotrace", "attach", str(pid), "--quiet", "--max-overhead", "0", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("captures")
    binary = build("service", GO_VERSIONS[-1], "stripped")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GOGC", "5")  # pauses in every window
        with Workload(binary, "-stdin-ends") as service:
            attach(service.pid, "-d", "2500ms", "--events-over", "0", "-o", folder / "trace.gotrace")
            for name in ("before", "after"):
                attach(service.pid, "-d", "500ms", "-o", folder / f"{name}.gotrace")
            yield Shown(service.pid, binary, folder)


# -- commands and queries ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(shown, tmp_path: Path) -> Path:
    """A folder in which a reader could be: with captures, and the checkout's scripts."""
    for name in ("trace", "before", "after"):
        shutil.copy(shown.folder / f"{name}.gotrace", tmp_path)
    for name in ("scripts", "tests", ".venv"):
        (tmp_path / name).symlink_to(ROOT / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("gotrace", GOTRACE.format(python=sys.executable)), ("sudo", SUDO)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return tmp_path


def commands(block: Block) -> list[str]:
    """The lines of a block, with those that are continued in one, without comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


@pytest.mark.full("README.md")
@pytest.mark.parametrize("name", sorted({str(block.path.relative_to(ROOT)) for block in RUN}))
def test_commands(name: str, shown, folder: Path) -> None:
    """A document's commands in their order, as they build on one another."""
    for block in (block for block in RUN if block.path == ROOT / name):
        for program in ("sqlite3", "jq"):
            if re.search(rf"\b{program} ", block.text) and shutil.which(program) is None:
                unavailable(f"needs {program} (remedy: apt-get install {program})")
        for line in commands(block):
            line = re.sub(r"\bPID\b", str(shown.pid), line)
            line = re.sub(r"\bBINARY\b", str(shown.binary), line)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", line], cwd=folder, capture_output=True, text=True, timeout=120,
                env=os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
            )
            assert done.returncode == 0, f"{block.where}: {line}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("block", QUERIES, ids=lambda block: block.where)
def test_queries(block: Block, shown) -> None:
    with closing(sqlite3.connect(shown.folder / "trace.gotrace")) as db:
        rows = db.execute(block.text).fetchall()
    assert rows or "empty=" in block.mark


def test_the_p99_of_a_query_is_that_of_the_report(shown, gotrace) -> None:
    query = next(block for block in QUERIES if "AS p99_ns" in block.text)
    with closing(sqlite3.connect(shown.folder / "trace.gotrace")) as db:
        found = dict(db.execute(query.text))
    told = json.loads(gotrace("report", shown.folder / "trace.gotrace", "--json").stdout)["totals"]["by_state"]
    assert found.keys() == told.keys()
    # Where it is the very last interval, the report knows it exactly.
    assert {state: min(ns, told[state]["max_ns"]) for state, ns in found.items() if told[state]["count"] > 100} == {
        state: figures["p99_ns"] for state, figures in told.items() if figures["count"] > 100
    }


# -- schemas -----------------------------------------------------------------------------------------------------------

VERBS = {
    "attach": "summary", "report": "summary", "diff": "diff", "dump": "dump", "ps": "ps", "top": "top", "sched": "sched", "probes": "probes",
    "doctor": "doctor",
}
ALL = {*VERBS.values(), "dump-changes", "serve"}  # serve: what it answers to requests


def check(name: str, text: str) -> dict:
    value = json.loads(text)
    errors = Draft202012Validator(strict(schema(name))).iter_errors(value)
    problems = [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in errors]
    assert not problems, problems[:5]
    return value


def test_every_verb_with_json_has_a_schema() -> None:
    with_json = {name for name, command in verbs().items() if any("--json" in parameter.opts for parameter in command.params)}
    assert with_json == VERBS.keys()
    assert {path.stem for path in SCHEMA.iterdir()} == ALL


@pytest.mark.parametrize("name", sorted(ALL))
def test_schemas_are_schemas(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))
    assert list(Draft202012Validator(schema(name)).iter_errors({}))


def test_a_key_that_is_not_described_is_found(shown, gotrace) -> None:
    value = json.loads(gotrace("report", shown.folder / "before.gotrace", "--json").stdout)
    value["stacks"][0]["new"] = 1
    assert [error.message for error in Draft202012Validator(strict(schema("summary"))).iter_errors(value)]
    assert not list(Draft202012Validator(schema("summary")).iter_errors(value)), "users' validators take new keys"


@pytest.mark.parametrize(
    "flags", [("--mode", "sample"), ("--mode", "lean"), ("--max-overhead", "0.01"), ("--no-kernel", "--no-wakers", "--per-goroutine")], ids=" ".join,
)
def test_attach(shown, gotrace, flags: tuple[str, ...], tmp_path: Path) -> None:
    written = tmp_path / "x.json"
    done = gotrace("attach", shown.pid, "-d", "400ms", "-q", "--json", "-o", written, *flags)
    assert done.returncode == 0, done.stderr
    assert check("summary", done.stdout)["stacks"]
    check("summary", written.read_text())


def test_several_processes(shown, gotrace) -> None:
    with Workload(shown.binary, "-stdin-ends") as other:
        done = gotrace("attach", shown.pid, other.pid, "-d", "300ms", "-q", "--json", "-o", "two.folded", cwd=shown.folder)
    summary = check("summary", done.stdout)
    assert {stack["pid"] for stack in summary["stacks"]} == {shown.pid, other.pid} == {target["pid"] for target in summary["targets"]}


def test_report(shown, gotrace) -> None:
    summary = check("summary", gotrace("report", shown.folder / "trace.gotrace", "--json").stdout)
    assert summary["pauses"] and summary["totals"]["pauses"]


@pytest.mark.parametrize("per", ["window", "goroutine"])
def test_diff(shown, gotrace, per: str) -> None:
    found = check("diff", gotrace("diff", shown.folder / "before.gotrace", shown.folder / "after.gotrace", "--per", per, "--json").stdout)
    assert {"new", "vanished", "changed"} & {stack["status"] for stack in found["stacks"]}


def test_dump(shown, gotrace) -> None:
    assert check("dump", gotrace("dump", shown.pid, "--json").stdout)["goroutines"]


def test_dumps_that_are_compared(shown, gotrace, tmp_path: Path) -> None:
    series = gotrace("dump", shown.pid, "--every", "300ms", "--count", "2", "--json")
    found = check("dump-changes", series.stdout)
    assert len(found["goroutines"]) == 2 and all(len(change["counts"]) == 2 for change in found["changes"]), series.stderr
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    for path, flags in zip(paths, ((), ("--state", "waiting"))):
        assert gotrace("dump", shown.pid, "-o", path, *flags).returncode == 0
    assert check("dump-changes", gotrace("diff", *paths, "--json").stdout)["changes"]


def test_probes(shown, gotrace) -> None:
    assert check("probes", gotrace("probes", shown.pid, "--json").stdout)["verified_live"]
    assert not check("probes", gotrace("probes", shown.binary, "--json").stdout)["verified_live"]


def test_ps(shown, gotrace) -> None:
    assert shown.pid in [row["pid"] for row in check("ps", gotrace("ps", "--json").stdout)]


def test_top(shown, gotrace) -> None:
    found = check("top", gotrace("top", shown.pid, "--once", "--json", "-d", "500ms").stdout)
    assert found["rows"] and found["requests"]


def test_sched(shown, gotrace) -> None:
    lines = gotrace("sched", shown.pid, "--json", "--count", 2, "--every", "10ms").stdout.splitlines()
    assert [check("sched", line)["syscall_threads"] is not None for line in lines] == [True, True]


def test_doctor(gotrace) -> None:
    assert check("doctor", gotrace("doctor", "--json").stdout)["attach_possible"]
