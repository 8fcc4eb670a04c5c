"""Goroutines read from memory against Go's own account of them (runtime.Stack), in every kind of wait."""

from __future__ import annotations

import re

import pytest
from gobuild import GO_VERSIONS, SOME_VERSIONS, VARIANTS, build
from workload import Workload

from gotrace.common.vocabulary import StartKind
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.records import IntervalRow, RawStack, RowKey
from gotrace.live.gstruct import Status
from gotrace.model.stacks import StackModel
from gotrace.profile.symbolize import Symbolizer
from gotrace.watch.probed import ProbedProcess

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

_HEAD = re.compile(r"goroutine (\d+) (?:gp=\S+ m=\S+ (?:mp=\S+ )?)?\[([^,\]]+)")


def go_s_own(text: str) -> dict[int, tuple[str, list[str]]]:
    """goid -> (state, functions leaf first), without the runtime's, which Go hides here and there."""
    found = {}
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        head = _HEAD.match(lines[0])
        functions = [
            line.rsplit("(", 1)[0] for line in lines[1:] if not line.startswith(("\t", "created by", "panic("))
        ]
        found[int(head.group(1))] = (head.group(2), [name for name in functions if not name.startswith("runtime.")])
    return found


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("version", SOME_VERSIONS)
def test_goroutines_equal_runtime_stack(version: str, variant: str) -> None:
    with Workload(build("states", version, variant)) as workload:
        workload.send("stacks")
        own = go_s_own(workload.read_json(20))
        traced = ProbedProcess.prepare(workload.pid)
        try:
            reader, reasons = traced.target.reader, traced.binary.wait_reasons
            symbolizer = Symbolizer(model := StackModel(traced.binary, traced.target.bias), KernelSymbols(), lambda fd, ino: "")
            mine = {}
            for goroutine in reader.read():
                pcs = reader.stack(goroutine)
                if pcs is None or goroutine.ended:
                    continue
                row = IntervalRow(RowKey(0, 0, 0, 0, 0, 0, goroutine.wait_reason, StartKind.BEFORE, 0, 0), RawStack(pcs))
                stack = model.interpret(row)
                names = [f.name for f in symbolizer.frames(stack, row)]
                assert names[-1] == "runtime.goexit", names
                state = "syscall" if goroutine.status == Status.SYSCALL else reasons[goroutine.wait_reason]
                mine[goroutine.goid] = (state, [name for name in names if not name.startswith("runtime.")])
        finally:
            traced.close()
        compared = 0
        for goid, (state, functions) in own.items():
            if state == "running":
                continue  # the one that printed
            assert mine[goid] == (state, functions)
            compared += 1
        assert compared >= 14
        assert any(state == "syscall" for state, _ in own.values())


@pytest.mark.parametrize("version", (GO_VERSIONS[0], GO_VERSIONS[-1]))
def test_many_at_once_are_what_they_are_one_by_one(version: str) -> None:
    # Up to 60 frames deep: with and without the root in what is read first.
    with Workload(build("parked", version, "stripped"), "-goroutines", "3000", "-places", "60", "-active", "0") as workload:
        traced = ProbedProcess.prepare(workload.pid)
        try:
            reader = traced.target.reader
            waiting = [each for each in reader.read() if each.status == Status.WAITING]
            stacks = reader.stacks(waiting)
            assert len(waiting) >= 3000 and stacks == [reader.stack(each) for each in waiting]
            depths = [len(pcs) for pcs in stacks]
            assert min(depths) < 8 and max(depths) > 30
            assert {each.address for each in reader.in_states(frozenset((Status.WAITING,)))} == {each.address for each in waiting}
            torn = [waiting[-1]._replace(sp=waiting[-1].stack_hi), waiting[-1]._replace(sp=0), waiting[-1]._replace(pc=1)]
            assert reader.stacks(torn) == [None, None, None]
        finally:
            traced.close()
