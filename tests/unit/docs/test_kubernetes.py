"""The manifests: valid by the schemas of the API, with no more rights than gotrace needs, and arguments that it takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml
from documents import ROOT

from gotrace.cli.verbs import commands
from gotrace.kernel.host.privileges import NEEDED
from gotrace.serve.expressions import parse

FOLDER = ROOT / "docs/kubernetes"
VERSIONS = ("1.30", "1.36")
"""The oldest that has all fields, and a late one."""
DOCUMENTS = [
    pytest.param(document, id=f"{path.name}-{document['kind']}")
    for path in sorted(FOLDER.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())
]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(FOLDER.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if "template" in document.get("spec", {}):
                yield path.name, document["spec"]["template"]["spec"]


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods():
        for one in (*pod.get("initContainers", ()), *pod["containers"]):
            yield f"{name}: {one['name']}", one


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", DOCUMENTS)
def test_they_are_valid(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_what_is_wrong_is_found() -> None:
    """That the schemas would tell."""
    wrong = yaml.safe_load((FOLDER / "job.yaml").read_text())
    wrong["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def unit_capabilities() -> set[str]:
    text = (ROOT / "docs/systemd/gotrace.service").read_text()
    return {name.removeprefix("CAP_") for name in re.search(r"^CapabilityBoundingSet=(.*)$", text, re.MULTILINE)[1].split()}


@pytest.mark.parametrize(("where", "one"), [pytest.param(*pair, id=pair[0]) for pair in containers()])
def test_no_more_rights_than_are_needed(where: str, one: dict[str, Any]) -> None:
    """Those of the service of systemd, with which a test runs gotrace serve."""
    rights = one["securityContext"]
    assert rights["privileged"] is False and rights["allowPrivilegeEscalation"] is False and rights["readOnlyRootFilesystem"] is True
    assert rights["capabilities"]["drop"] == ["ALL"] and one["resources"]["limits"]["memory"]
    if one.get("command") is not None:
        assert "add" not in rights["capabilities"]
    else:
        added = rights["capabilities"]["add"]
        assert [f"CAP_{name}" for name in added[: len(NEEDED)]] == list(NEEDED) and set(added) == unit_capabilities(), where


def test_pods_see_all_processes_and_no_secrets() -> None:
    found = list(pods())
    assert len(found) == 2
    for name, pod in found:
        assert pod["hostPID"] is True and pod["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostIPC"} & pod.keys()
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        mounts = {mount["name"]: mount for one in pod["containers"] for mount in one["volumeMounts"]}
        for volume in pod["volumes"]:
            if "hostPath" in volume or "secret" in volume:
                assert mounts[volume["name"]]["readOnly"] is True
            if "hostPath" in volume:
                assert volume["hostPath"]["path"] in ("/run/gotrace", "/var/log/pods", "/var/log/containers")
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o400


def test_debug_has_the_same_rights() -> None:
    given = json.loads((FOLDER / "debug.json").read_text())["securityContext"]
    assert set(given["capabilities"]["add"]) == unit_capabilities() and given["privileged"] is False


@pytest.mark.parametrize(("where", "one"), [pytest.param(*pair, id=pair[0]) for pair in containers() if "args" in pair[1]])
def test_gotrace_takes_the_arguments(where: str, one: dict[str, Any]) -> None:
    verb, *arguments = one["args"]
    command = commands()[verb]
    context = command.make_context(verb, list(arguments), resilient_parsing=False)
    assert isinstance(context, click.Context)
    for text in context.params.get("triggers", ()):
        parse(text)
    written = {str(value) for value in map(str, context.params.values())}
    mounts = {mount["mountPath"] for mount in one.get("volumeMounts", ())}
    for path in ("/etc/gotrace/token", "/var/lib/gotrace", "/run/gotrace/off"):
        if path in written:
            assert path in mounts or path.rpartition("/")[0] in mounts, (where, path)
    if verb == "serve":
        port, = (port["containerPort"] for port in one["ports"])
        assert context.params["listen"] == f"0.0.0.0:{port}" and context.params["token_file"] is not None
        assert one["livenessProbe"]["httpGet"]["path"] == "/healthz"
