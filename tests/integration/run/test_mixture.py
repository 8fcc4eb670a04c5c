"""A program whose goroutines wait in every way, in turn, and keep account: gotrace's account is the same. More seeds: scripts/soak."""

from __future__ import annotations

from pathlib import Path

import pytest
from gobuild import GO_VERSIONS, build
from mixture import compare, run

pytestmark = pytest.mark.bpf

PARKS = "sleep,timer,chan receive,chan send,select,mutex,rwmutex,cond,waitgroup,network,compute"
CALLS = "read,c read,c sleep,sleep"


@pytest.mark.full
@pytest.mark.parametrize("only", [PARKS, CALLS], ids=["parks", "calls"])
def test_waits_of_one_sort_balance(tmp_path: Path, only: str) -> None:
    traced = run(build("mixture", GO_VERSIONS[-1], "cgo"), 7, tmp_path / "mixture.gotrace", "exact", 2.0, "-only", only)
    found = compare(traced)
    assert not found.wrong, (traced.ready, found.losses, *found.wrong)


@pytest.mark.full
def test_an_account_that_differs_is_told(tmp_path: Path) -> None:
    traced = run(build("mixture", GO_VERSIONS[-1], "cgo"), 4, tmp_path / "mixture.gotrace", "exact", 2.0, "-only", "chan receive,sleep")
    worker = max((a for a in traced.own["accounts"] if a["what"] == "mixed"), key=lambda a: len(a["phases"]))
    for phase in worker["phases"]:
        phase[0] = "mutex"
    assert any("not waiting: semacquire/sync.Mutex.Lock" in text for text in compare(traced).wrong)
    traced.intervals.pop(worker["goid"])
    assert any(f"goroutine {worker['goid']} " in text and "gotrace has 0.0" in text for text in compare(traced).wrong)
