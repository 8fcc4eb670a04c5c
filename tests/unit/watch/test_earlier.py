"""Requests that began before the window."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gotrace.kernel.history import Completed
from gotrace.kernel.records import RawStack
from gotrace.watch.inprogress.cutoff import Parked
from gotrace.watch.requests.earlier import EarlierRequests
from gotrace.watch.requests.timelines import Timelines


def test_after_a_loss_it_is_not_known_which_are_in_progress() -> None:
    timelines, serving = Timelines(0), SimpleNamespace(functions=lambda stack: stack.pcs)
    requests: Any = EarlierRequests(serving, timelines, lambda row: None)  # type: ignore[arg-type]
    requests.begin(100, [Parked(1, 7, 0, RawStack((3,))), Parked(2, 8, 0, RawStack((3,)))])
    requests.take([Completed(100, 20, 8, 0, 5, 3)])
    assert requests.now(set()) == {(3, 7)}
    timelines.lost(100)
    assert requests.now(set()) == {(3, 7)}
    timelines.lost(101)
    assert requests.now(set()) is None
