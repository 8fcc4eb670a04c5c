"""What `ruff` and `mypy --strict` say of the package, as pyproject.toml sets them up: nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prerequisites import unavailable

ROOT = Path(__file__).resolve().parents[3]


def findings(tool: str, *arguments: str) -> str:
    # The one beside this Python, else the one in PATH.
    program = shutil.which(tool, path=os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", ""))))
    if program is None:
        unavailable(f"there is no {tool} (remedy: pip install --editable '.[test]')")
    result = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    return "" if result.returncode == 0 else result.stdout + result.stderr


def test_ruff_finds_nothing() -> None:
    assert findings("ruff", "check", "--output-format", "concise", "gotrace") == ""


def test_mypy_finds_nothing() -> None:
    assert findings("mypy", "--strict", "--python-executable", sys.executable, "gotrace") == ""


@pytest.mark.parametrize(
    ("tool", "arguments", "source", "rule"),
    [
        ("ruff", ["check", "--config", "pyproject.toml", "--output-format", "concise"], "import sys\n", "F401"),
        ("mypy", ["--config-file", "pyproject.toml"], "def f(x):\n    return x\n", "no-untyped-def"),
    ],
)
def test_they_find_what_is_wrong(tmp_path: Path, tool: str, arguments: list[str], source: str, rule: str) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(source)
    assert rule in findings(tool, *arguments, str(path))
