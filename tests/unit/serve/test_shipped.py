"""The rules and the dashboard in docs ask for metrics and labels that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prerequisites import unavailable
from profiles import durations

from gotrace.common.vocabulary import State
from gotrace.host.choice import Wanted
from gotrace.profile.types import Distribution, Frame, Pause, StackStat
from gotrace.serve.evidence import Evidence
from gotrace.serve.metrics import Metrics
from gotrace.serve.options import ServeOptions
from gotrace.serve.steps import Calls, Step, Wait
from gotrace.serve.supervisor import Supervisor
from gotrace.serve.suspects import Suspects
from gotrace.serve.totals import Labels, Totals

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())
NAME = re.compile(r"\bgotrace_[a-z_]+")


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all series."""
    totals, options = Totals(), ServeOptions(Wanted(name="x"), folder=tmp_path_factory.mktemp("x"))
    waits = [
        Wait(StackStat((Frame("main.f"),), state, "x", Distribution()), durations([1000]), (0, 0, 0, 0), 0, None) for state in State
    ]
    totals.add(Labels("api", ""), Step(0, 1, 0, waits, [Calls("main.serve", durations([1]), {})], [Pause("GC", 0, 1)]))
    evidence = Evidence(options, lambda _: None)
    supervisor = Supervisor(options, totals, lambda _t, _f: None, lambda _: None)
    text = Metrics(totals, supervisor, evidence, suspects=Suspects(supervisor.targets)).text("")[0].decode()
    found = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            found |= {f"{name}_bucket", f"{name}_count", f"{name}_sum", name} if kind == "histogram" else {name}
    return found


@pytest.mark.parametrize("file", ["prometheus/rules.yml", "grafana/gotrace.json"])
def test_metrics_that_are_asked_for_exist(file: str, families: set[str]) -> None:
    text = re.sub(r"gotrace:[a-z_]+", "", (ROOT / "docs" / file).read_text())
    asked = set(NAME.findall(text))
    assert len(asked) > 8 and asked - families == set()


def test_the_documentation_lists_all_metrics(families: set[str]) -> None:
    text = (ROOT / "docs/serve.md").read_text()
    assert {name for name in families if not re.search(r"_(bucket|count|sum)$", name)} == set(NAME.findall(text))


def test_panels_of_the_dashboard() -> None:
    board = json.loads((ROOT / "docs/grafana/gotrace.json").read_text())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) > 10
    assert all(target["expr"].count("(") == target["expr"].count(")") for panel in board["panels"] for target in panel["targets"])


@pytest.mark.parametrize(("what", "file"), [("rules", "rules.yml"), ("config", "scrape.yml")])
def test_promtool_takes_them(what: str, file: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        unavailable("needs promtool (remedy: apt-get install prometheus)")
    done = subprocess.run([promtool, "check", what, file], cwd=ROOT / "docs/prometheus", capture_output=True, text=True, timeout=180)
    assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stdout + done.stderr
