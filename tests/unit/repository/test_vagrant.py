"""The Vagrantfile is one that Vagrant accepts, and what it calls exists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def validate(tmp_path: Path, *arguments: str, **environment: str) -> None:
    vagrant = shutil.which("vagrant")
    if vagrant is None:
        pytest.skip("there is no vagrant (remedy: apt-get install vagrant)")
    result = subprocess.run(
        [vagrant, "validate", *arguments], cwd=ROOT / "vagrant", capture_output=True, text=True, timeout=120,
        env=os.environ | {
            "VAGRANT_HOME": str(tmp_path / "home"), "VAGRANT_DOTFILE_PATH": str(tmp_path / "state"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
        } | environment,
    )
    if "could not be found, but was requested" in result.stderr:
        pytest.skip("there is no provider libvirt for vagrant (remedy: apt-get install vagrant-libvirt)")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_vagrantfile_is_valid(tmp_path: Path) -> None:
    # Without VirtualBox what is said of machines is checked, what is said of providers is not.
    validate(tmp_path, "--ignore-provider")


@pytest.mark.parametrize("emulated", ["0", "1"])
def test_what_it_says_of_libvirt_is_valid(tmp_path: Path, emulated: str) -> None:
    validate(tmp_path, VAGRANT_DEFAULT_PROVIDER="libvirt", GOTRACE_EMULATED=emulated)


def test_it_provisions_with_a_script_that_exists() -> None:
    (script,) = re.findall(r'inline: "/vagrant/([^"]+)"', (ROOT / "vagrant" / "Vagrantfile").read_text())
    assert os.access(ROOT / script, os.X_OK)
