"""The trigger `deadlock` beside a program that gets into one, and beside the same one without the mistake."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from gobuild import build
from serving import Serving
from workload import Workload
from zoo import CYCLES

pytestmark = [pytest.mark.bpf, pytest.mark.beside]


@pytest.mark.full
def test_a_deadlock_is_caught_and_its_repaired_twin_is_left_alone(tmp_path: Path) -> None:
    name = f"stuck{os.getpid()}"
    shutil.copy(build("deadlocks", "1.27.3", "stripped"), tmp_path / name)
    flags = ["--name", f"^{name}$", "--trigger", "deadlock", "--after", "1s"]
    with Workload(tmp_path / name, "opposite", "repaired") as repaired, Workload(tmp_path / name, "opposite") as stuck:
        with Serving(tmp_path, *flags) as serving:
            serving.tracing(repaired.pid)
            line = serving.until(lambda: next(iter(serving.lines), None))
            assert line["target"]["pid"] == stuck.pid and line["triggers"] == ["deadlock"]
            _, count, _, words = CYCLES["opposite"]
            assert line["reason"].startswith(f"deadlock (it is {count}: ") and words in line["reason"]
            dump = json.loads(Path(line["files"][2]).read_text())
            assert [one["kind"] for one in dump["verdicts"] if one["certain"]] == ["deadlock"]
            text = serving.ask("/metrics")[1].decode()
            read = float(re.search(r'^gotrace_deadlock_searches_total\{outcome="read"\} (\S+)$', text, re.MULTILINE)[1])
            cpu_s = float(re.search(r"^gotrace_deadlock_search_cpu_seconds_total (\S+)$", text, re.MULTILINE)[1])
            print(f"read {read:g} times, in {cpu_s:.2f} s of CPU time")
            assert read >= 1 and cpu_s > 0
            serving.end()
            assert {line["target"]["pid"] for line in serving.lines} == {stuck.pid}
