"""What `gotrace dump` writes, chooses and compares."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import re
import signal
import subprocess
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Browser
from gobuild import GO_VERSIONS, build, go_command
from prerequisites import unavailable
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

Gotrace = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def states() -> Workload:
    with Workload(build("states", GO_VERSIONS[-1], "stripped")) as workload:
        yield workload


def test_all_formats_count_the_same_goroutines(gotrace: Gotrace, states: Workload, tmp_path: Path, browser: Browser) -> None:
    names = [tmp_path / f"x.{suffix}" for suffix in ("json", "folded", "pb.gz", "html")]
    done = gotrace("dump", states.pid, *(word for name in names for word in ("-o", name)))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    dump = json.loads(names[0].read_text())
    count = len(dump["goroutines"])
    folded = dict(line.rsplit(" ", 1) for line in names[1].read_text().splitlines())
    assert sum(map(int, folded.values())) == count
    lock = r"runtime\.goexit;main\..*;main\.lock(_\[i\])?;.*;runtime\.gopark;\[waiting: sync\.Mutex\.Lock\]"
    assert any(re.fullmatch(lock, line) for line in folded), folded
    top = subprocess.run(
        [go_command(GO_VERSIONS[-1]), "tool", "pprof", "-raw", names[2]], capture_output=True, text=True, check=True,
    ).stdout
    assert "Samples:\ngoroutine/count[dflt] wait/nanoseconds" in top
    samples = re.findall(r"^ +(\d+) +(\d+): ", top, re.MULTILINE)
    assert sum(int(number) for number, _ in samples) == count
    assert "tenant:[acme]" in top and "state:[waiting]" in top and "object:[mutex 0x" in top
    assert gzip.decompress(names[2].read_bytes())
    text = names[3].read_text()
    assert "main.lock" not in text  # names are in the packed data alone
    data = json.loads(zlib.decompress(base64.b64decode(re.search(r'<script id="data"[^>]*>([^<]*)<', text)[1])))
    assert sum(group["count"] for group in data["groups"]) == count == data["goroutines"]
    assert ["shard: 7", "tenant: acme"] in [group["labels"] for group in data["groups"]]
    browser.open(names[3].as_uri())
    assert browser.run("document.getElementById('matched').textContent") == f"{count} goroutines in {len(data['groups'])} groups"
    assert browser.run("document.querySelector('#groups .group') !== null")
    locks = sum(group["count"] for group in data["groups"] if group["reason"] == "sync.Mutex.Lock")
    browser.open(names[3].as_uri() + "#reason=waiting%3A+sync.Mutex.Lock&open=1")
    assert browser.run("document.getElementById('matched').textContent").startswith(f"{locks} goroutine")
    assert "main.lock" in browser.run("document.querySelector('.stack').textContent")
    assert browser.problems() == []


@pytest.mark.parametrize("arguments, keeps", [
    (["--match", r"main\.labelled"], lambda one: any(f["name"].startswith("main.labelled") for f in one["frames"])),
    (["--reason", "sleep"], lambda one: one["reason"] == "sleep"),
    (["--state", "syscall"], lambda one: one["state"] == "syscall"),
    (["--label", "tenant=acme"], lambda one: one["labels"].get("tenant") == "acme"),
    (["--label", "shard", "--state", "waiting"], lambda one: "shard" in one["labels"]),
    (["--label", "tenant=other"], lambda one: False),
])
def test_filters_keep_what_they_say(gotrace: Gotrace, states: Workload, arguments: list[str], keeps: Callable[[dict], bool]) -> None:
    whole = json.loads(gotrace("dump", states.pid, "--json").stdout)
    part = json.loads(gotrace("dump", states.pid, "--json", *arguments).stdout)
    assert [one["id"] for one in part["goroutines"]] == [one["id"] for one in whole["goroutines"] if keeps(one)]
    assert len(part["goroutines"]) < len(whole["goroutines"])
    left = {one["id"] for one in part["goroutines"]}
    assert all(set(one["goroutines"]) <= left for one in part["objects"])
    assert any("goroutines are shown" in note for note in part["notes"])


def test_wrong_uses_are_refused(gotrace: Gotrace, states: Workload, tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("{}")
    for arguments, said in (
        (["-o", tmp_path / "x.svg"], "cannot tell a format"), (["-o", tmp_path / "there.json"], "exists"),
        (["--json", "-o", "-"], "both want stdout"), (["--count", "3"], "--every"), (["--match", "("], "not a regular expression"),
    ):
        done = gotrace("dump", states.pid, *arguments)
        assert done.returncode == 2 and said in done.stderr, done.stderr


def test_two_dumps_are_compared(gotrace: Gotrace, tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    with Workload(build("deadlocks", GO_VERSIONS[-1], "stripped"), "reader-left") as workload:
        for path in (before, after):
            assert gotrace("dump", workload.pid, "-o", path).returncode == 0
    counts = []
    for path in (before, after):
        names = Counter(frame["name"] for one in json.loads(path.read_text())["goroutines"] for frame in one["frames"])
        counts.append(names["main.answer"])
    assert 0 < counts[0] < counts[1]
    result = json.loads(gotrace("diff", before, after, "--json").stdout)
    assert result["changes"][0]["counts"] == counts and result["changes"][0]["growth"] == counts[1] - counts[0]
    text = gotrace("diff", before, after).stdout
    assert f"+{counts[1] - counts[0]}  {counts[0]} → {counts[1]}  waiting: chan send" in text and "main.answer" in text
    assert json.loads(gotrace("diff", before, before, "--json").stdout)["changes"] == []
    assert "nothing differs" in gotrace("diff", before, before).stdout
    after.write_text('{"goroutines": 3}')
    done = gotrace("diff", before, after)
    assert done.returncode == 2 and "not that of a dump" in done.stderr


def test_a_stopped_process_gets_no_verdicts_that_rest_on_time(gotrace: Gotrace) -> None:
    with Workload(build("deadlocks", GO_VERSIONS[-1], "stripped"), "opposite") as workload:
        workload.signal(signal.SIGSTOP)
        try:
            found = json.loads(gotrace("dump", workload.pid, "--json").stdout)["verdicts"]
        finally:
            workload.signal(signal.SIGCONT)
    assert [(one["kind"], one["certain"]) for one in found] == [("deadlock", True)]
    with Workload(build("pingpong", GO_VERSIONS[-1], "stripped")) as workload:
        workload.signal(signal.SIGSTOP)
        try:
            done = gotrace("dump", workload.pid, "--json")
        finally:
            workload.signal(signal.SIGCONT)
        assert done.returncode == 0 and json.loads(done.stdout)["verdicts"] == []


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process in a frozen control group of its own (cgroup v1: freezer.state; v2: cgroup.freeze)."""
    for parent, name, freeze, thaw in (
        (Path("/sys/fs/cgroup/freezer"), "freezer.state", "FROZEN", "THAWED"), (Path("/sys/fs/cgroup"), "cgroup.freeze", "1", "0"),
    ):
        folder = parent / f"gotrace-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            before = next(
                line.split(":", 2)[2].strip() for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
                if "freezer" in line.split(":")[1] or line.startswith("0::") and name == "cgroup.freeze"
            )
            folder.mkdir()
            try:
                (folder / "cgroup.procs").write_text(str(pid))
                (folder / name).write_text(freeze)
                yield
            finally:
                (folder / name).write_text(thaw)
                (parent / before.lstrip("/") / "cgroup.procs").write_text(str(pid))
                folder.rmdir()
            return
    unavailable("needs root and a control group that can be frozen")


def test_a_frozen_process_is_dumped_too(gotrace: Gotrace) -> None:
    with Workload(build("pingpong", GO_VERSIONS[-1], "stripped")) as workload:
        with frozen(workload.pid):
            done = gotrace("dump", workload.pid, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["verdicts"] == [] and len(json.loads(done.stdout)["goroutines"]) > 3
        assert workload.running
