"""What each goroutine waits for, against a program that tells the truth about itself."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable

import pytest
from gobuild import GO_VERSIONS, SOME_VERSIONS, build
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside]


def by_function(dump: dict) -> dict[str, dict]:
    """The goroutines by each function of main that is on their stacks."""
    return {frame["name"]: one for one in dump["goroutines"] for frame in reversed(one["frames"]) if frame["name"].startswith("main.")}


@pytest.mark.parametrize("variant", ["stripped", "pie", "plain"])
@pytest.mark.parametrize("version", SOME_VERSIONS)
def test_objects_are_what_the_program_says(
    gotrace: Callable[..., subprocess.CompletedProcess[str]], version: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # From Go 1.23 on channels and timers are linked, but for programs with an older go.mod, as the fixture's; 1.27 has no such setting.
    monkeypatch.setenv("GODEBUG", f"asynctimerchan={int(variant == 'pie' and version != GO_VERSIONS[-1])}")
    with Workload(build("waits", version, variant)) as workload:
        said = workload.read_json(20)
        began = time.monotonic_ns()
        done = gotrace("dump", workload.pid, "--json")
        read_at = time.monotonic_ns()
    assert done.returncode == 0, done.stderr
    dump = json.loads(done.stdout)
    assert not any(dump["losses"].values()), dump["losses"]
    mine = by_function(dump)
    for name, truth in said.items():
        found = mine[name]["object"]
        detail = dict(found["detail"])
        assert found["kind"] == truth.pop("kind"), name
        address = truth.pop("address")
        if address:
            assert found["address"] == address, name
        for moment, left in (("deadline", "deadline_in_ns"), ("due", "due_in_ns")):
            if moment in truth:
                assert began <= truth[moment] - detail[left] <= read_at, (name, detail)
            truth.pop(moment, None)
        if "cases" in truth:
            order = sorted(truth.pop("cases"), key=lambda case: case["address"])
            cases = sorted(detail["cases"] if order else detail.get("cases", []), key=lambda case: case["address"])
            assert cases == order, name
        assert {key: detail.get(key) for key in truth} == truth, name
    check_objects(dump, mine)


def check_objects(dump: dict, mine: dict[str, dict]) -> None:
    by_address = {one["address"]: one for one in dump["objects"]}
    for name in ("main.receive", "main.lock", "main.join", "main.await", "main.readConn"):
        one = mine[name]
        assert by_address[one["object"]["address"]]["goroutines"] == [one["id"]]
        assert by_address[one["object"]["address"]]["kind"] == one["object"]["kind"]
    readers = by_address[mine["main.writeLock"]["object"]["address"]]
    assert readers["waiters"] == 3 and readers["kind"] == "rwmutex"
    for case in mine["main.choose"]["object"]["detail"]["cases"]:
        assert by_address[case["address"]]["goroutines"] == [mine["main.choose"]["id"]]
    peer = mine["main.readConn"]["object"]["detail"]["file"]
    assert peer.startswith("tcp 127.0.0.1:") and "127.0.0.1:" in peer[14:]


@pytest.mark.parametrize("version", [GO_VERSIONS[0], GO_VERSIONS[-1]])
def test_a_crowd_at_one_object_is_counted(gotrace: Callable[..., subprocess.CompletedProcess[str]], version: str) -> None:
    with Workload(build("waits", version, "stripped"), "300") as workload:
        said = workload.read_json(20)
        done = gotrace("dump", workload.pid, "--json")
        text = gotrace("dump", workload.pid, "--match", r"main\.crowd").stdout
    dump = json.loads(done.stdout)
    assert not any(dump["losses"].values()), dump["losses"]
    by_address = {one["address"]: one for one in dump["objects"]}
    for name in ("crowdLock", "crowdReceive", "crowdAwait"):
        one = by_address[said[f"main.{name}"]["address"]]
        assert (one["waiters"], len(set(one["goroutines"]))) == (300, 300)
        assert 0 < one["oldest_wait_ns"] < 60e9
    assert by_address[said["main.crowdLock"]["address"]]["detail"]["waiters"] == 300
    receive, send = (by_address[address] for address in said["main.crowdSelect"]["addresses"])
    assert receive["goroutines"] == send["goroutines"] and receive["waiters"] == 300
    ops = {(case["address"], case["op"]) for one in dump["goroutines"] if one["object"] and one["object"]["kind"] == "select"
           for case in one["object"]["detail"].get("cases", []) if case["elem"] == "[2]int8"}
    assert ops == {(receive["address"], "receive"), (send["address"], "send")}
    assert [verdict["goroutines"] for verdict in dump["verdicts"] if verdict["kind"] == "convoy"] == [
        by_address[said["main.crowdLock"]["address"]]["goroutines"]]
    assert re.search(rf"300 goroutines wait for mutex {said['main.crowdLock']['address']}, locked.*, the oldest for about", text), text[:3000]
    assert re.search(r"^300 goroutines \(.* and 292 more\)  waiting: sync\.Cond\.Wait", text, re.MULTILINE)


def test_goroutines_that_went_on_before_their_object_was_read_are_told(gotrace: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Each wait of this program lasts for some milliseconds."""
    with Workload(build("locks", GO_VERSIONS[-1], "stripped")) as workload:
        dump = json.loads(gotrace("dump", workload.pid, "--json").stdout)
    without = [
        one for one in dump["goroutines"]
        if one["object"] is None and one["reason"].startswith(("chan ", "select", "sync.", "sleep"))
    ]
    told = sum(int(note.split()[0]) for note in dump["notes"] if " went on before it was read which channel" in note)
    assert len(without) == told + dump["losses"]["objects_unread"], (dump["notes"], dump["losses"])
