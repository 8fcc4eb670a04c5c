"""Containers by the paths of control groups, as container engines write them."""

from __future__ import annotations

import pytest

from gotrace.proc.cgroups import Container, Group, container_of, is_in, main_path

ID = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
POD = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
SLICE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD.replace('-', '_')}.slice"


@pytest.mark.parametrize(
    ("path", "container", "pod"),
    [
        ("/", "", ""),
        ("/system.slice/ssh.service", "", ""),
        (f"/docker/{ID}", ID, ""),
        (f"/docker/{ID}/init.scope", ID, ""),
        (f"/system.slice/docker-{ID}.scope", ID, ""),
        (f"/machine.slice/libpod-{ID}.scope/container", ID, ""),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope", ID, ""),
        (f"{SLICE}/cri-containerd-{ID}.scope", ID, POD),
        (f"{SLICE}/crio-{ID}.scope", ID, POD),
        (f"/kubepods/besteffort/pod{POD}/{ID}", ID, POD),
        (f"/system.slice/containerd.service/kubepods-pod{POD.replace('-', '_')}.slice:cri-containerd:{ID}", ID, POD),
        (f"/docker/{'0' * 64}/kubepods/pod{POD}/{ID}", ID, POD),
        (f"/ecs/{ID[:32]}/{ID[:32]}-1234567890", f"{ID[:32]}-1234567890", ""),
        ("/machine.slice/machine-web\\x2d1.scope", "web-1", ""),
        ("/lxc/web", "web", ""),
        ("/lxc.payload.web/system.slice", "web", ""),
        (f"/x/{ID}0", "", ""),
        (f"/x/{ID[:63]}", "", ""),
        (f"/x/{ID.upper()}", "", ""),
    ],
)
def test_containers(path: str, container: str, pod: str) -> None:
    assert container_of([Group(2, frozenset(), path)]) == Container(container, pod)


def test_the_hierarchy_that_says_most() -> None:
    groups = [Group(2, frozenset(), "/"), Group(1, frozenset({"cpu"}), f"/docker/{ID}"), Group(1, frozenset({"name=systemd"}), "/a/b/c")]
    assert container_of(groups).id == ID and main_path(groups) == "/a/b/c"
    assert main_path(groups[:2]) == f"/docker/{ID}" and main_path([]) == ""


@pytest.mark.parametrize(
    ("path", "inside"),
    [("/a/b", True), ("a/b/", True), ("/a", True), ("/", True), ("/a/b/c", False), ("/a/bc", False), ("/b", False)],
)
def test_what_is_in_a_group(path: str, inside: bool) -> None:
    assert is_in([Group(1, frozenset({"cpu"}), "/a/b")], path) == inside
