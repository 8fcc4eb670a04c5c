"""Labels of a process that ends while it is traced: the trace ends normally."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import Any

from gotrace.gobin.buildinfo import GoVersion
from gotrace.proc.memory import Memory
from gotrace.watch.inprogress.parked import ParkedReader
from gotrace.watch.labels import WantedLabels


def test_goroutines_of_a_process_that_is_gone_have_no_labels() -> None:
    child = subprocess.Popen(["sleep", "60"])
    memory = Memory(child.pid)
    child.kill()
    child.wait()
    nothing: Any = None
    tables: Any = SimpleNamespace(writer=None)
    labels = WantedLabels(memory, 0, GoVersion(24), (b"tenant",))
    reader = ParkedReader(child.pid, nothing, memory, nothing, tables, labels)
    assert reader.labels_of([0xC000010000]) == {}
