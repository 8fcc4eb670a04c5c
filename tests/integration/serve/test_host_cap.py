"""`gotrace serve --host-overhead` beside several busy processes: what tracing costs all of them together stays below it."""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from gobuild import build
from serving import Serving
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside, pytest.mark.full]


def cost_s(serving: Serving) -> tuple[float, float]:
    """When, and what tracing had cost up to then."""
    text = serving.ask("/metrics")[1].decode()
    return time.monotonic(), sum(float(cost) for cost in re.findall(r"^gotrace_cost_seconds_total\{.*\} (\S+)$", text, re.MULTILINE))


def test_together_they_stay_below_it(tmp_path: Path) -> None:
    """Each has 6,000 waits a second, and may cost 20 % of a CPU; the host's cap is 0.3 % of its CPU time."""
    name = f"waking{os.getpid()}"
    shutil.copy(build("parked", "1.27.3", "stripped"), tmp_path / name)
    busy = ("-goroutines", "300", "-active", "100", "-every", "50ms")
    flags = ["--name", f"^{name}$", "--max-overhead", "20", "--host-overhead", "0.3"]
    with ExitStack() as stack:
        workloads = [stack.enter_context(Workload(tmp_path / name, *busy)) for _ in range(3)]
        serving = stack.enter_context(Serving(tmp_path, *flags))
        for workload in workloads:
            serving.tracing(workload.pid, 2)
        time.sleep(3)
        (begin, before), _ = cost_s(serving), time.sleep(10)
        end, after = cost_s(serving)
        share = (after - before) / (end - begin) / (os.cpu_count() or 1)
        found = serving.json("/targets")
        print(f"tracing cost {share:.3%} of the host; {[target['rung'] for target in found['targets']]}")
        assert share <= 0.0033 and found["host_overhead"]["cap"] == pytest.approx(0.003)
        assert all(target["condition"] == "tracing" and target["rung"] != "everything" for target in found["targets"])
        serving.end()
