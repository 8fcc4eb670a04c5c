"""The Vagrantfile is one that Vagrant accepts, and what it calls exists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_vagrantfile_is_valid(tmp_path: Path) -> None:
    vagrant = shutil.which("vagrant")
    if vagrant is None:
        pytest.skip("there is no vagrant (remedy: apt-get install vagrant)")
    result = subprocess.run(
        # No VirtualBox here: what is said of machines is checked, what is said of providers is not.
        [vagrant, "validate", "--ignore-provider"], cwd=ROOT / "vagrant", capture_output=True, text=True, timeout=120,
        env=os.environ | {
            "VAGRANT_HOME": str(tmp_path / "home"), "VAGRANT_DOTFILE_PATH": str(tmp_path / "state"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
        },
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_it_provisions_with_a_script_that_exists() -> None:
    (script,) = re.findall(r'inline: "/vagrant/([^"]+)"', (ROOT / "vagrant" / "Vagrantfile").read_text())
    assert os.access(ROOT / script, os.X_OK)
