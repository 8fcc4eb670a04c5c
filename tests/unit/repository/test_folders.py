"""The folders of the tests mirror those of the package, so that a room's tests are found where its code is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ROOMS = {path.parent.name for path in (ROOT / "gotrace").glob("*/__init__.py")}
OTHERS = {"docs", "repository"}
"""What is tested and is no part of the package."""


def folders(kind: str) -> dict[str, list[Path]]:
    """The modules in each folder of tests/`kind`; those that lie loose are under its own name."""
    found: dict[str, list[Path]] = {}
    for path in (ROOT / "tests" / kind).rglob("*.py"):
        found.setdefault(str(path.parent.relative_to(ROOT / "tests")).removeprefix(f"{kind}/"), []).append(path)
    return found


@pytest.mark.parametrize("kind", ["unit", "integration"])
def test_each_folder_has_the_name_of_a_room(kind: str) -> None:
    assert ROOMS and set(folders(kind)) - ROOMS - OTHERS == set()


@pytest.mark.parametrize("kind", ["unit", "integration"])
def test_all_modules_hold_tests(kind: str) -> None:
    """What tests share is in tests/support."""
    assert [path for paths in folders(kind).values() for path in paths if not path.name.startswith("test_")] == []


def test_each_room_has_tests() -> None:
    assert ROOMS - set(folders("unit")) - set(folders("integration")) == set()


def test_no_helper_hides_a_module_of_python_s_library() -> None:
    """Tests import helpers by their own names, and their folder comes first in the path."""
    helpers = {path.stem for path in (ROOT / "tests" / "support").glob("*.py")}
    assert helpers and helpers & sys.stdlib_module_names == set()
