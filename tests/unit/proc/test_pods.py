"""Names of pods and containers from the names of the kubelet's log files."""

from __future__ import annotations

from pathlib import Path

import pytest

from gotrace.proc import pods
from gotrace.proc.cgroups import Group, container_of
from gotrace.proc.pods import PodNames, Whereabouts, pod_names

ID = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
UID = "3cbc7b6b-2f0c-4b4a-9d7e-0a1b2c3d4e5f"
STATIC = "8dbc7b6b2f0c4b4a9d7e0a1b2c3d4e5f"


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    for folder in ("containers", "pods"):
        (tmp_path / folder).mkdir()
    (tmp_path / f"containers/api-7d9f8b6c5-x2x4z_shop_server-{ID}.log").symlink_to("/nowhere")
    (tmp_path / f"pods/shop_api-7d9f8b6c5-x2x4z_{UID}").mkdir()
    (tmp_path / f"pods/kube-system_etcd-node1_{STATIC}").mkdir()
    for name in ("x.log", "a_b_c.log", f"A_b_c-{ID[:-1]}g.log", f"a_b_{'c' * 64}-{ID[::-1]}.log", f"..\n_b_c-{ID[::-1]}.log"):
        (tmp_path / "containers" / name).touch()
    pods._listed.cache_clear()
    return tmp_path


def test_names(logs: Path) -> None:
    known = PodNames("shop", "api-7d9f8b6c5-x2x4z", "server")
    assert pod_names(ID, UID, str(logs)) == pod_names(ID, "", str(logs)) == known
    assert pod_names("", UID, str(logs)) == pod_names("f" * 64, UID, str(logs)) == known._replace(container="")
    assert pod_names("", STATIC, str(logs)) == PodNames("kube-system", "etcd-node1")
    assert pod_names(ID[::-1], "", str(logs)) == pod_names("", "", str(logs)) == PodNames()


def test_without_the_files(tmp_path: Path) -> None:
    assert pod_names(ID, UID, str(tmp_path)) == PodNames()


def test_what_the_kubelet_makes_later_is_found(tmp_path: Path) -> None:
    where = Whereabouts(ID, UID, str(tmp_path))
    assert where.names == PodNames()
    (tmp_path / "pods").mkdir()
    (tmp_path / f"pods/shop_api_{UID}").mkdir()
    pods._listed.cache_clear()
    assert where.names == PodNames("shop", "api")
    (tmp_path / "containers").mkdir()
    (tmp_path / f"containers/api_shop_server-{ID}.log").touch()
    pods._listed.cache_clear()
    assert where.names == PodNames("shop", "api", "server")


@pytest.mark.parametrize("path", [
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice/cri-containerd-{ID}.scope",
    f"/kubepods/besteffort/pod{UID}/{ID}",
    f"/../../kubepods-burstable-pod{UID.replace('-', '_')}.slice/cri-containerd-{ID}.scope",  # from a control group namespace beside it
    f"/../../../kubepods-pod{UID.replace('-', '_')}.slice/crio-{ID}.scope",
])
def test_control_groups_lead_to_them(logs: Path, path: str) -> None:
    found = container_of([Group(2, frozenset(), path)])
    assert (found.id, found.pod) == (ID, UID)
    assert pod_names(found.id, found.pod, str(logs)).pod == "api-7d9f8b6c5-x2x4z"
