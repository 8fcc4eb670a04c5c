"""Go programs of a test's own: built with any flags, traced, and what the trace counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from attach import Attached
from gobuild import go_command, go_environment
from workload import Workload


def go_build(folder: Path, version: str, *arguments: str, cgo: bool = False) -> None:
    done = subprocess.run(
        [go_command(version), "build", *arguments], cwd=folder, capture_output=True, text=True,
        env=go_environment() | {"CGO_ENABLED": str(int(cgo))},
    )
    assert done.returncode == 0, done.stderr


def module(folder: Path, text: str, name: str = "example.com/built") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "main.go").write_text(text)
    (folder / "go.mod").write_text(f"module {name}\n\ngo 1.21\n")
    return folder


def trace(workload: Workload, folder: Path, *arguments: str, seconds: float = 2) -> dict:
    with Attached(workload.pid, "-d", seconds, "--json", "-o", folder / "built.gotrace", "-f", *arguments) as attached:
        out, err = attached.process.communicate(timeout=180)
        assert attached.process.returncode == 0, err
        return json.loads(out)


def gotrace(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "gotrace", *map(str, arguments)], capture_output=True, text=True, timeout=180)


def by_reason(summary: dict) -> dict[str, int]:
    return {reason: found["count"] for reason, found in summary["totals"]["by_reason"].items()}
