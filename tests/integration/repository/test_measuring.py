"""The scripts behind the figures of docs/overhead.md run: one short round of each, whose figures are real if not worth citing."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
from gobuild import GO_VERSIONS, build
from workload import Workload

from gotrace.common.vocabulary import Stat
from gotrace.plan.probes import ProbeSet

pytestmark = pytest.mark.bpf
SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


def script(name: str) -> ModuleType:
    loader = SourceFileLoader(name.replace("-", "_"), str(SCRIPTS / name))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def test_compare_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = script("compare-probes")
    monkeypatch.setattr(compare, "PAIRS", 1)
    monkeypatch.setattr(compare, "SECONDS", 0.2)
    costs = compare.Costs()
    with Workload(build("churn", GO_VERSIONS[-1], "stripped")) as workload:
        ratios, counters = compare.measure(workload, ProbeSet.COMPLETE, "all (default)", compare.churned, costs)
    assert len(ratios) == 1 and ratios[0] > 0
    assert counters[Stat.HITS_START] > 1000 and counters[Stat.HITS_END] > 1000
    spent = {name: int(ns.replace(",", "")) for name, _, ns in costs.rows()}
    assert spent["start_park"] > 0 and spent["end_execute"] > 0


@pytest.mark.full
def test_bench_untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from benchmarks.untimed import WORKLOADS, measure_untimed

    said: list[str] = []
    table = measure_untimed(1, 0.3, said.append)
    assert table.row_count == len(WORKLOADS) and said
    factors = [float(cell) for cell in table.columns[4].cells]
    assert all(factor > 0 for factor in factors)


def test_bench_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from benchmarks.helpers import measure_helpers

    said: list[str] = []
    rows = {cells[0]: cells[1:] for cells in zip(*(column.cells for column in measure_helpers(1, said.append).columns), strict=True)}
    assert said
    # Whatever the machine: two reads of the target's memory are part of the sum, and nothing is free.
    least = float(rows["all that an exact interval needs"][3])
    read = next(float(cells[0]) for title, cells in rows.items() if "256 bytes (g and stack)" in title)
    assert least > 2 * read > 0


def test_what_a_hit_costs_is_measured_without_a_file_that_could_be_left(tmp_path: Path) -> None:
    code = (
        "import os; from gotrace.kernel.calibrate import measure_trap_ns; from gotrace.kernel.uprobes import probed_code\n"
        "with probed_code() as (path, _): print(os.readlink(path), os.listdir('.'))\n"
        "print(measure_trap_ns())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(tmp_path)})
    mapped, cost = done.stdout.splitlines()
    assert mapped.endswith("(deleted) []") and 0 < int(cost) < 1_000_000, done.stderr
