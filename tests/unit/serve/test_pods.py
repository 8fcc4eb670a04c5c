"""What pods are called, in what gotrace serve says and in whom alerts mean."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gotrace.host.choice import Wanted
from gotrace.proc.pods import Whereabouts, _listed
from gotrace.serve.alerts import Alert
from gotrace.serve.evidence import Evidence
from gotrace.serve.jobs import Job
from gotrace.serve.metrics import Metrics
from gotrace.serve.options import ServeOptions
from gotrace.serve.supervisor import Supervisor
from gotrace.serve.totals import Totals
from gotrace.serve.tracing import Traced, identity_of

ID = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
UID = "3cbc7b6b-2f0c-4b4a-9d7e-0a1b2c3d4e5f"


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    (tmp_path / "containers").mkdir()
    (tmp_path / f"containers/api-0_shop_server-{ID}.log").touch()
    _listed.cache_clear()
    identity = identity_of(os.getpid())
    assert identity is not None
    one = Traced(identity, ServeOptions(Wanted(name="x"), folder=tmp_path / "captures"), Totals(), lambda _traced, _fired: None)
    one.container, one.pod, one.where = ID, UID, Whereabouts(ID, UID, str(tmp_path))
    return one


@pytest.mark.parametrize(("labels", "means"), [
    ({"pod": "api-0"}, True),
    ({"pod": "api-0", "namespace": "shop"}, True),
    ({"pod": "api-0", "namespace": "shop", "container": "server"}, True),
    ({"pod": "api-0", "namespace": "other"}, False),
    ({"pod": "api-0", "container": "sidecar"}, False),
    ({"pod": "api-0", "container": f"containerd://{ID}"}, True),
    ({"pod": "api-1", "namespace": "shop"}, False),
    ({"pod": UID}, True),
    ({"namespace": "shop"}, False),
    ({"container": "server"}, False),
])
def test_whom_an_alert_means(traced: Traced, labels: dict[str, str], means: bool) -> None:
    assert Alert("Slow", labels).means(traced) is means


def test_names_are_told(traced: Traced) -> None:
    line = Job(traced, "trigger", 0, 0, ["x"]).line()
    assert {key: line["target"][key] for key in ("namespace", "pod_name", "container_name", "pod")} == {
        "namespace": "shop", "pod_name": "api-0", "container_name": "server", "pod": UID,
    }
    supervisor = Supervisor(traced._options, traced._totals, lambda _traced, _fired: None, lambda _: None)
    supervisor.put(traced)
    text = Metrics(traced._totals, supervisor, Evidence(traced._options, lambda _: None)).text("")[0].decode()
    shown, = [text for text in text.splitlines() if text.startswith("gotrace_target_info{")]
    assert all(pair in shown for pair in (
        f'pod_uid="{UID}"', 'namespace="shop"', 'pod_name="api-0"', 'container_name="server"', f'target="{traced.labels.target}"',
    )) and shown.endswith(" 1.0")
