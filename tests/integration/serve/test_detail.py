"""`gotrace serve --label`, `--objects`, `--slower-than`, `--band`: captures and endpoints tell waits apart, and choose among requests."""

from __future__ import annotations

import base64
import gzip
import os
import re
import shutil
import zlib
from pathlib import Path

import pytest
from gobuild import build
from serving import Serving
from wire import each, fields, packed
from workload import Workload

from gotrace.capture.reader import read_capture

pytestmark = [pytest.mark.bpf, pytest.mark.full]


def test_labels_and_objects(tmp_path: Path) -> None:
    """Totals by label are those that the program counts itself."""
    name = f"labelled{os.getpid()}"
    shutil.copy(build("labelled", "1.27.3", "stripped"), tmp_path / name)
    flags = ["--name", f"^{name}$", "--label", "tenant", "--objects", "--max-overhead", "50"]
    with Workload(tmp_path / name) as workload, Serving(tmp_path, *flags) as serving:
        serving.tracing(workload.pid, 2)
        workload.send("go")
        own = workload.read_json(30)["own"]
        kept_to = serving.tracing(workload.pid)["ring"]["to"]
        serving.until(lambda: serving.tracing(workload.pid)["ring"]["to"] > kept_to + 1)
        line = serving.json(f"/capture?target={workload.pid}", "POST")
        body = gzip.decompress(serving.ask(f"/debug/pprof/offcpu?target={workload.pid}")[1])
        serving.end()
    profile = read_capture(Path(line["files"][0]))
    found: dict[str, int] = {}
    for stack in profile.stacks:
        tenant = dict(stack.labels).get("tenant")
        if tenant is not None:
            found[tenant] = found.get(tenant, 0) + stack.distribution.total_ns
    for tenant in ("a", "b"):
        assert found[tenant] == pytest.approx(own[tenant], rel=0.05), (found, own)
    things = {stack.waited.kind for stack in profile.stacks if stack.waited is not None}
    assert {"mutex", "chan"} & things, things
    assert b"tenant" in body and by_tenant(body)["a"] == pytest.approx(own["a"], rel=0.05)


def by_tenant(raw: bytes) -> dict[str, int]:
    texts = [text.decode() for text in each(raw, 6)]
    found: dict[str, int] = {}
    for sample in each(raw, 2):
        for label in each(sample, 3):
            parts = dict(fields(label))
            if texts[parts[1]] == "tenant" and 2 in parts:
                found[texts[parts[2]]] = found.get(texts[parts[2]], 0) + sum(packed(value)[1] for value in each(sample, 2))
    return found


def test_only_slow_requests(tmp_path: Path) -> None:
    """The fault holds the lock of all requests for 800 ms: only then are there any of half a second."""
    name = f"slow{os.getpid()}"
    shutil.copy(build("faulty", "1.27.3", "stripped"), tmp_path / name)
    flags = ["--name", f"^{name}$", "--slower-than", "500ms", "--max-overhead", "50"]
    with Workload(tmp_path / name) as workload, Serving(tmp_path, *flags) as serving:
        serving.tracing(workload.pid, 2)
        workload.send("fault")
        assert workload.read_line(10) == "done"
        kept_to = serving.tracing(workload.pid)["ring"]["to"]
        serving.until(lambda: serving.tracing(workload.pid)["ring"]["to"] > kept_to + 1)
        asked = f"/debug/pprof/offcpu?target={workload.pid}"
        slow, everything, slowest = (samples(serving.ask(path)[1]) for path in (asked, f"{asked}&slower-than=1ns", f"{asked}&band=p99"))
        assert serving.ask(f"/flamegraph?target={workload.pid}&band=p50..p90")[0] == 200
        line = serving.json(f"/capture?target={workload.pid}", "POST")
        serving.end()
    # At the fault four wait for the lock, 800 ms each; all others take some milliseconds.
    assert 1 <= slow[0] <= 12 and 0.5e9 < slow[1] < 4.5e9, slow
    assert everything[0] >= slow[0] and everything[1] >= slow[1] and slowest[0] <= everything[0]
    profile = read_capture(Path(line["files"][0]))
    assert not profile.filters and profile.requests[0].latency.count > 20
    packed_data = max(re.findall(rb"[A-Za-z0-9+/=]{200,}", Path(line["files"][1]).read_bytes()), key=len)
    assert b"inside requests of at least 500" in zlib.decompress(base64.b64decode(packed_data))


def samples(body: bytes) -> tuple[int, int]:
    """The count and the time of all."""
    both = [packed(value) for sample in each(gzip.decompress(body), 2) for value in each(sample, 2)]
    return sum(one[0] for one in both), sum(one[1] for one in both)
