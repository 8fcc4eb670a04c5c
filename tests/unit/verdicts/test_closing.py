"""Verdicts at the end of a trace: what a note says where there are none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gotrace.common.errors import Refused
from gotrace.run.closing import closing_verdicts


@pytest.mark.parametrize("execed, notes", [(False, ["no verdicts on PID 7: its list of goroutines makes no sense"]), (True, [])])
def test_who_can_t_be_read_is_told_unless_it_has_ended(execed: bool, notes: list[str]) -> None:
    asked = []

    def count() -> int:
        asked.append(1)
        process.execed = execed
        raise Refused("its list of goroutines makes no sense", "")

    reader = SimpleNamespace(count=count)
    process: Any = SimpleNamespace(process=SimpleNamespace(pid=7), execed=False, target=SimpleNamespace(reader=reader), symbols=None)
    assert closing_verdicts([process]) == ([], notes) and asked


@pytest.mark.parametrize("error", [ValueError("negative shift count"), KeyError(3), RecursionError(), MemoryError()])
def test_memory_that_makes_no_sense_costs_the_verdicts_and_nothing_else(error: Exception) -> None:
    def count() -> int:
        raise error

    reader = SimpleNamespace(count=count)
    process: Any = SimpleNamespace(process=SimpleNamespace(pid=7), execed=False, target=SimpleNamespace(reader=reader), symbols=None)
    assert closing_verdicts([process]) == ([], [f"no verdicts on PID 7: its memory makes no sense ({type(error).__name__})"])
