"""Deadlocks of real life, each beside the same program without the mistake."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest
from gobuild import EXTENT, GO_VERSIONS, SOME_VERSIONS, TWO_VERSIONS, build
from workload import Workload
from zoo import CYCLES, LEAKS

pytestmark = [pytest.mark.bpf, pytest.mark.beside, pytest.mark.apart]

Gotrace = Callable[..., subprocess.CompletedProcess[str]]


def dumped(gotrace: Gotrace, version: str, *shape: str, more: tuple[str, ...] = (), variant: str = "stripped") -> dict:
    with Workload(build("deadlocks", version, variant), *shape) as workload:
        done = gotrace("dump", workload.pid, "--json", *more)
        assert done.returncode == 0, done.stderr
        code, said = workload.finish()
        assert code == 0, said
    return json.loads(done.stdout)


@pytest.mark.parametrize("shape", CYCLES)
@pytest.mark.parametrize("version", TWO_VERSIONS)
def test_a_deadlock_is_found_and_its_repaired_twin_is_not(gotrace: Gotrace, version: str, shape: str) -> None:
    kind, count, certain, text = CYCLES[shape]
    found = dumped(gotrace, version, shape)["verdicts"]
    assert [(verdict["kind"], verdict["certain"], len(verdict["goroutines"])) for verdict in found] == [(kind, certain, count)], found
    assert text in found[0]["text"]
    assert dumped(gotrace, version, shape, "repaired")["verdicts"] == []


@pytest.mark.complete("pie")
@pytest.mark.full()
@pytest.mark.parametrize("shape", CYCLES if EXTENT == "every" else list(CYCLES)[::3])
@pytest.mark.parametrize("variant", ["race", "pie"])
def test_it_is_found_in_other_builds(gotrace: Gotrace, variant: str, shape: str) -> None:
    """The race detector's code defers by lists, and calls functions that are inlined elsewhere."""
    kind, count, certain, text = CYCLES[shape]
    found = dumped(gotrace, GO_VERSIONS[-1], shape, variant=variant)["verdicts"]
    assert [(verdict["kind"], verdict["certain"], len(verdict["goroutines"])) for verdict in found] == [(kind, certain, count)], found
    assert text in found[0]["text"]


@pytest.mark.parametrize("version", SOME_VERSIONS)
def test_who_waits_behind_goroutines_without_hope(gotrace: Gotrace, version: str) -> None:
    dump = dumped(gotrace, version, "waitgroup-nil")
    forever, behind = dump["verdicts"]
    assert (len(forever["goroutines"]), forever["certain"]) == (3, True) and "nil" in forever["text"]
    assert behind["certain"] and set(forever["goroutines"]) < set(behind["goroutines"])
    assert behind["evidence"]["detail"]["counter"] == 3 and behind["evidence"]["ended_by"] == forever["goroutines"]
    assert dumped(gotrace, version, "waitgroup-nil", "repaired")["verdicts"] == []


def test_a_deadlock_s_evidence_names_locks_and_functions(gotrace: Gotrace) -> None:
    dump = dumped(gotrace, GO_VERSIONS[-1], "opposite")
    verdict, = dump["verdicts"]
    first, second = verdict["evidence"]["cycle"]
    assert {first["goroutine"], second["goroutine"]} == set(verdict["goroutines"])
    assert first["ended_by"] == {str(second["goroutine"]): "main.transfer"}
    assert second["ended_by"] == {str(first["goroutine"]): "main.transfer"}
    by_id = {one["id"]: one for one in dump["goroutines"]}
    for step in (first, second):
        assert by_id[step["goroutine"]]["object"]["address"] == step["address"]
        assert by_id[step["goroutine"]]["object"]["detail"]["locked"]


@pytest.mark.parametrize("shape", LEAKS)
def test_what_grows_and_never_ends_is_a_leak(gotrace: Gotrace, shape: str) -> None:
    function, reason = LEAKS[shape]
    series = ("--every", "300ms", "--count", "4")
    leak, = dumped(gotrace, GO_VERSIONS[-1], shape, more=series)["verdicts"]
    counts = leak["evidence"]["counts"]
    assert (leak["kind"], leak["certain"], leak["evidence"]["reason"]) == ("leak", False, reason)
    assert leak["evidence"]["function"] == function and len(counts) == 4 and sorted(set(counts)) == counts
    result = dumped(gotrace, GO_VERSIONS[-1], shape, "repaired", more=series)
    assert result["verdicts"] == [] and len(result["goroutines"]) == 4


@pytest.mark.parametrize("version", [GO_VERSIONS[0], GO_VERSIONS[-1]])
def test_a_pool_held_across_a_nested_query(gotrace: Gotrace, version: str) -> None:
    verdict, = dumped(gotrace, version, "sql-nested")["verdicts"]
    assert (verdict["kind"], verdict["certain"], verdict["evidence"]["pool"]) == ("pool exhausted", False, "database/sql")
    assert "no other goroutine is in the package now" in verdict["text"]
    assert dumped(gotrace, version, "sql-nested", "repaired")["verdicts"] == []
