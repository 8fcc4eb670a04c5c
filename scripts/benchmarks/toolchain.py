"""Gets the tools to compare: packages, and the workloads' program with fgprof in it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from gobuild import CACHE, FIXTURES, go_command, go_environment

from benchmarks.bootstrap import ROOT
from benchmarks.generator import GO_VERSION, fixture

GOPATH = Path("/usr/share/gocode")
"""Where Debian's golang-*-dev packages put their sources."""
_FGPROF = "github.com/felixge/fgprof"
PACKAGES = ("bpftrace", "bpfcc-tools", "libbpf-tools", "golang-github-felixge-fgprof-dev")


def install() -> None:
    """Installs the packages that this release offers."""
    subprocess.run(["bash", "-c", '. scripts/lib.sh; ensure_packages_if_offered "$@"', "bench", *PACKAGES], cwd=ROOT, check=True)


def program() -> tuple[Path, str]:
    """The workloads' program, and "" or why it is without fgprof. Fgprof that is not started costs nothing, so all tracers
    share the program."""
    sources = GOPATH / "src" / _FGPROF
    if not sources.is_dir():
        return fixture(), "its package (golang-github-felixge-fgprof-dev) is not offered here, and there is no module proxy"
    source = FIXTURES / "load"
    digest = hashlib.sha256()
    for path in sorted([*source.iterdir(), *sources.rglob("*.go")]):
        digest.update(path.name.encode() + path.read_bytes())
    binary = CACHE / "fixtures/load" / f"{GO_VERSION}-fgprof-{digest.hexdigest()[:12]}" / "load"
    if not binary.exists():
        binary.parent.mkdir(parents=True, exist_ok=True)
        temporary = binary.with_name(f"load.{os.getpid()}")
        # Sources without a module proxy: as before modules existed.
        environment = go_environment() | {"GO111MODULE": "off", "GOPATH": str(GOPATH), "GOFLAGS": "", "CGO_ENABLED": "0"}
        result = subprocess.run(
            [go_command(GO_VERSION), "build", "-tags", "fgprof", "-o", temporary, "."], cwd=source, env=environment, capture_output=True, text=True,
        )
        if result.returncode:
            return fixture(), f"it could not be built: {result.stderr.strip().splitlines()[-1] if result.stderr.strip() else 'no reason given'}"
        temporary.rename(binary)
    return binary, ""
