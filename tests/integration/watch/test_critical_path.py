"""Critical paths of requests against those that Go's execution tracer has of the same run, which another program finds in its events."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

import pytest
from gobuild import EXTENT, GO_VERSIONS, build, go_command
from requestload import Traced, check_path, traced_load
from tracepaths import Trace

pytestmark = pytest.mark.bpf

MIX = "mutex:20:24,pool:18:24,group:35:10,chain:38:10,cond:36:10,worker:37:10,peer:39:10,file:30:6,recovered:34:6,sleep:3:100"
TIME_SLICE_NS = 5_000_000
CLASSES = {
    "waiting": "waiting", "netpoll": "waiting", "runnable": "runnable", "preempted": "runnable", "running": "running",
    "runqueue": "running", "syscall": "running",
}
"""In the tracer's words: a goroutine whose thread has no CPU runs, and so does one in a system call."""
# The newest tool reads the traces of Go 1.22 and later.
VERSIONS = {"quick": GO_VERSIONS[-1:], "every": GO_VERSIONS[2:]}.get(EXTENT, [GO_VERSIONS[2], GO_VERSIONS[-1]])


@pytest.fixture(
    scope="module", params=[(version, mix) for version in VERSIONS for mix in (MIX, f"cpu:12:40,{MIX}")],
    ids=lambda param: f"go{param[0]}-{'busy' if 'cpu' in param[1] else 'quiet'}",
)
def traced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Traced, Trace]:
    folder = tmp_path_factory.mktemp("paths")
    recorded, (version, mix) = folder / "trace.out", request.param
    run = traced_load(build("requests", version, "plain"), folder, mix, "--exemplars", 60, program=("-trace", str(recorded)))
    return run, Trace(go_command(GO_VERSIONS[-1]), recorded)


def starts(run: Traced) -> dict[int, int]:
    """When each exemplar began, by its place: gotrace tells it from the window's start, whose own moment the program's account has. That
    is where most requests of the two that are alike agree."""
    exemplars = run.span()["exemplars"]
    found = [
        request["start_ns"] - exemplar["start_ns"]
        for exemplar in exemplars
        for request in run.account.of(exemplar["what"].split("/")[1])
        if request["goid"] == exemplar["goid"] and abs(request["duration_ns"] - exemplar["duration_ns"]) < 300_000
    ]
    alike = max(([other for other in found if abs(other - each) < 50_000] for each in found), key=len)
    assert len(alike) > len(exemplars) / 3
    offset = median(alike)
    return {place: int(exemplar["start_ns"] + offset) for place, exemplar in enumerate(exemplars)}


def told(exemplar: dict) -> dict[tuple[int, str], int]:
    found: dict[tuple[int, str], int] = defaultdict(int)
    for step in exemplar["path"]:
        found[step["goid"], CLASSES.get(step["state"], step["state"])] += step["to_ns"] - step["from_ns"]
    return found


def test_the_slowest_requests_have_the_tracer_s_critical_paths(traced: tuple[Traced, Trace]) -> None:
    run, trace = traced
    exemplars = run.span()["exemplars"]
    assert len(exemplars) == 60
    wrong, compared = [], set()
    for place, start in starts(run).items():
        exemplar = exemplars[place]
        check_path(exemplar)
        mine, theirs = told(exemplar), trace.path(exemplar["goid"], start, start + exemplar["duration_ns"])
        assert sum(theirs.values()) == exemplar["duration_ns"]
        apart = sum(abs(mine.get(key, 0) - theirs.get(key, 0)) for key in mine | theirs) / 2
        compared.add(exemplar["what"])
        if apart > 0.02 * exemplar["duration_ns"]:
            wrong.append((exemplar["what"], exemplar["goid"], exemplar["duration_ns"], apart, dict(mine), dict(theirs)))
    # The two look at the clock some microseconds apart, in which a thread may lose its CPU for a time slice: to the program's own others
    # where it is busy, and to the machine.
    assert len(wrong) <= len(exemplars) / 20, wrong
    assert all(apart < 0.02 * duration_ns + TIME_SLICE_NS for _, _, duration_ns, apart, *_ in wrong), wrong
    assert len(compared) >= 5


def test_most_of_them_waited_for_others(traced: tuple[Traced, Trace]) -> None:
    """So that the comparison above is one of paths that lead somewhere."""
    run, _ = traced
    away = []
    for exemplar in run.span()["exemplars"]:
        others_ns = sum(ns for (goid, _), ns in told(exemplar).items() if goid != exemplar["goid"])
        away += [exemplar] if others_ns > 0.4 * exemplar["duration_ns"] else []
    assert len(away) >= 20
    assert len({exemplar["what"] for exemplar in away}) >= 4
