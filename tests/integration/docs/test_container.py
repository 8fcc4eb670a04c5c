"""The Containerfile's steps, run in a fresh Debian: what they make traces a process, on a read-only root, with the manifest's capabilities."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from gobuild import ROOT, build
from prerequisites import unavailable
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.complete, pytest.mark.slow]

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def steps() -> list[tuple[str, str]]:
    """Instructions and their arguments, without comments; those that go on over several lines are one."""
    text = re.sub(r"^#.*\n", "", (ROOT / "docs/kubernetes/Containerfile").read_text(), flags=re.MULTILINE)
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


class Root:
    """A folder that is the root of a system."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {"HOME": "/root", "LANG": "C.UTF-8", "PATH": SYSTEM_PATH, "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt"}

    def run(self, *command: str, code: int | None = 0) -> str:
        """What the command says there."""
        done = subprocess.run(
            ["chroot", self.path, *command], capture_output=True, text=True, timeout=900, env=self.environment, stdin=subprocess.DEVNULL
        )
        assert code is None or done.returncode == code, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    """The image: a Debian of the release that FROM names, as scripts/fresh makes it, and above it what the steps change."""
    if os.geteuid():
        unavailable("needs root (remedy: sudo)")
    release = re.search(r"/debian:(\w+)-slim$", dict(steps())["FROM"])[1]
    made = subprocess.run([ROOT / "scripts/fresh", release, "true"], capture_output=True, text=True, timeout=1800)
    if made.returncode:
        unavailable(f"no fresh Debian can be made: {made.stderr[-300:]} (remedy: sudo ./scripts/fresh {release} true)")
    folder = tmp_path_factory.mktemp("image")
    for name in ("upper", "work", "root"):
        (folder / name).mkdir()
    layers = f"lowerdir={ROOT}/.cache/fresh/{release},upperdir={folder}/upper,workdir={folder}/work"
    mounted: list[Path] = []
    try:
        subprocess.run(["mount", "-t", "overlay", "-o", layers, "image", folder / "root"], check=True)
        mounted.append(folder / "root")
        for name in ("proc", "sys", "dev"):
            subprocess.run(["mount", "--rbind", "--make-rslave", f"/{name}", folder / "root" / name], check=True)
            mounted.append(folder / "root" / name)
        shutil.rmtree(folder / "root/src", ignore_errors=True)
        bundle = Path("/etc/ssl/certs/ca-certificates.crt")  # whom this machine trusts: a proxy may have an authority of its own
        if bundle.exists():
            shutil.copy(bundle, folder / "root/etc/ssl/certs/ca-certificates.crt")
        yield Root(folder / "root")
    finally:
        for path in reversed(mounted):
            subprocess.run(["umount", "--recursive", "--lazy", path], check=True)


def copied(root: Root, arguments: str) -> None:
    *sources, target = arguments.split()
    to = root.path / target.lstrip("/")
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__", "compiled"))
        else:
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, to)


def test_the_steps_make_what_traces(root: Root) -> None:
    entry: list[str] = []
    for instruction, arguments in steps():
        if instruction == "COPY":
            copied(root, arguments)
        elif instruction == "RUN":
            root.run("/bin/sh", "-c", arguments)
        elif instruction == "ENV":
            name, _, value = arguments.partition("=")
            root.environment[name] = value
        elif instruction == "ENTRYPOINT":
            entry = json.loads(arguments)
        else:
            assert instruction == "FROM"
    assert entry and not (root.path / "src/gotrace").exists()
    assert root.run(*entry, "--version").startswith("gotrace")
    out = root.path / "tmp"
    subprocess.run(["mount", "-t", "tmpfs", "out", out], check=True)
    subprocess.run(["mount", "-o", "remount,ro", root.path], check=True)
    manifest = next(one for one in yaml.safe_load_all((ROOT / "docs/kubernetes/daemonset.yaml").read_text()) if one["kind"] == "DaemonSet")
    rights = manifest["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"]
    plus = ",".join(f"+{name.lower()}" for name in rights["add"])
    confined = ["setpriv", f"--bounding-set=-all,{plus}", "--no-new-privs", "--inh-caps=-all"]
    with pytest.raises(OSError, match="Read-only"):
        (root.path / "x").touch()
    found = json.loads(root.run(*confined, *entry, "doctor", "--json", code=None))
    assert [check for check in found["checks"] if check["needed"] and not check["ok"]] == []
    with Workload(build("parked", "1.27.3", "stripped"), "-goroutines", "50", "-active", "50") as workload:
        outputs = ["-o", "/tmp/x.gotrace", "-o", "/tmp/x.html"]
        told = json.loads(root.run(*confined, *entry, "attach", str(workload.pid), "-d", "2s", "--json", *outputs))
        assert told["totals"]["intervals"] > 100 and told["target"]["pid"] == workload.pid
        text = root.run(*confined, *entry, "serve", "--rules")
    assert "deadlock" in text and (out / "x.gotrace").stat().st_size > 10_000 and (out / "x.html").exists()
