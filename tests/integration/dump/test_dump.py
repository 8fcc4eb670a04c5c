"""gotrace dump against Go's own account of its goroutines (runtime.Stack)."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from attach import probes_of
from gobuild import GO_VERSIONS, SOME_VERSIONS, build
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

_HEAD = re.compile(r"goroutine (\d+) (?:gp=\S+ m=\S+ (?:mp=\S+ )?)?\[([^,\]]+)([^\]]*)\]")
_PLACE = re.compile(r"\t(?:.*/)?([^/]+):(\d+)")
_CREATED = re.compile(r"created by (.+?)(?: in goroutine (\d+))?$")


@dataclass
class Own:
    """What Go says of a goroutine; frames are (function, file, line), without the runtime's."""

    state: str
    locked: bool
    frames: list[tuple[str, str, int]]
    creator: tuple[str, int, str, int] | None


def go_s_own(text: str) -> dict[int, Own]:
    found = {}
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        head, frames, creator = _HEAD.match(lines[0]), [], None
        for line, place in zip(lines[1::2], lines[2::2]):
            where = _PLACE.match(place)
            if created := _CREATED.match(line):
                creator = (created.group(1), int(created.group(2) or 0), where.group(1), int(where.group(2)))
            elif not line.startswith("runtime."):
                frames.append((line.rsplit("(", 1)[0], where.group(1), int(where.group(2))))
        found[int(head.group(1))] = Own(head.group(2), "locked to thread" in head.group(3), frames, creator)
    return found


def dumped(gotrace: Callable[..., subprocess.CompletedProcess[str]], pid: int) -> dict[int, dict]:
    done = gotrace("dump", pid, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["target"]["pid"] == pid and not any(result["losses"].values()), result["losses"]
    return {one["id"]: one for one in result["goroutines"]}


def file_of(frame: dict) -> str:
    return frame["file"].rsplit("/", 1)[-1]


@pytest.mark.parametrize("variant", ["stripped", "pie"])
@pytest.mark.parametrize("version", SOME_VERSIONS)
def test_a_dump_equals_runtime_stack(gotrace: Callable, version: str, variant: str) -> None:
    with Workload(build("states", version, variant)) as workload:
        before = dumped(gotrace, workload.pid)
        workload.send("gc")
        own = go_s_own(workload.read_json(20))
        mine = dumped(gotrace, workload.pid)
        assert not probes_of(workload.pid)
    compared = 0
    for goid, said in own.items():
        if said.state == "running":
            continue  # the one that printed
        one = mine[goid]
        assert said.state == (one["state"] if one["state"] == "syscall" else one["reason"])
        frames = [
            (f["name"], file_of(f), f["line"]) for f in one["frames"]
            if f["kind"] not in ("syscall", "kernel") and not f["name"].startswith("runtime.")
        ]
        assert frames == said.frames
        assert one["locked_to_thread"] == said.locked
        name, line = one["created_at"].rsplit(":", 1)
        assert (one["created_by"], one["parent_id"], name.rsplit("/", 1)[-1], int(line)) == said.creator
        compared += 1
    assert compared >= 15
    assert sum(one["locked_to_thread"] for one in mine.values()) == 1
    users = [one for one in mine.values() if one["start_function"].startswith("main.main.func")]
    assert len(users) >= 13
    assert [one["labels"] for one in users if one["labels"]] == [{"tenant": "acme", "shard": "7"}]
    assert any(one["wait_ns"] is None for one in before.values())
    assert all(0 < one["wait_ns"] < 60e9 for one in users if one["state"] == "waiting"), [one["wait_ns"] for one in users]
    texts = [f["name"] for one in mine.values() for f in one["frames"] if f["kind"] == "syscall"]
    assert any(re.fullmatch(r"read\(fd \d+ → pipe\)", text) for text in texts), texts
    assert any(re.fullmatch(r"netpoll\(fd \d+ → tcp listening on 127.0.0.1:\d+\)", text) for text in texts), texts


def test_keys_are_the_contract(gotrace: Callable) -> None:
    with Workload(build("states", GO_VERSIONS[-1], "stripped")) as workload:
        result = json.loads(gotrace("dump", workload.pid, "--json").stdout)
        text = gotrace("dump", workload.pid).stdout
    assert {"target", "goroutines", "losses"} <= result.keys()
    for one in result["goroutines"]:
        assert one.keys() >= {
            "id", "state", "reason", "wait_ns", "parent_id", "created_by", "start_function", "locked_to_thread", "labels", "frames",
        }
    assert text.startswith(f"states (pid {workload.pid}) · go{GO_VERSIONS[-1]}")
    assert "created by main.main in goroutine 1" in text and "{shard: 7, tenant: acme}" in text
    assert "waiting: sync.Mutex.Lock" in text and "losses: none" in text


def test_goroutines_that_move_all_the_time_are_whole_or_counted(gotrace: Callable) -> None:
    with Workload(build("churn", GO_VERSIONS[-1], "stripped")) as workload:
        for _ in range(3):
            result = json.loads(gotrace("dump", workload.pid, "--json").stdout)
            ends = [one["frames"][-1] for one in result["goroutines"] if one["state"] != "running" and one["frames"]]
            lost = sum(frame["kind"] == "lost" for frame in ends)
            assert lost == result["losses"]["stack_torn"]
            assert all(frame["name"] == "runtime.goexit" for frame in ends if frame["kind"] != "lost")
            assert len(ends) > 10
        code, said = workload.finish()
        assert code == 0 and "CORRUPT" not in said


def test_a_stopped_process_can_be_dumped(gotrace: Callable) -> None:
    with Workload(build("states", GO_VERSIONS[-1], "stripped")) as workload:
        workload._process.send_signal(signal.SIGSTOP)
        try:
            assert len(dumped(gotrace, workload.pid)) > 15
        finally:
            workload._process.send_signal(signal.SIGCONT)


def test_what_is_no_go_process_is_refused(gotrace: Callable) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            done = gotrace("dump", other.pid)
        finally:
            other.kill()
    assert done.returncode == 3 and done.stderr.startswith("error: ") and not done.stdout
    assert gotrace("dump", other.pid).returncode == 1
