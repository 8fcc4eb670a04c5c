"""Files, classes and functions of the package are short enough to be read in one go."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MOST_LINES = {"file": 400, "class": 200, "function": 60}
"""There are no exceptions."""


def sizes(source: str) -> Iterator[tuple[str, str, int]]:
    """What a file has: the kind, its name, and its lines. Decorators are not counted: those of a command are its options."""
    yield "file", "", len(source.splitlines())
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            yield kind, node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def too_long(source: str) -> list[str]:
    return [f"{kind} {name}: {lines} lines" for kind, name, lines in sizes(source) if lines > MOST_LINES[kind]]


def test_nothing_is_too_long() -> None:
    paths = sorted((ROOT / "gotrace").rglob("*.py"))
    assert len(paths) > 200
    found = {str(path.relative_to(ROOT)): too_long(path.read_text(encoding="utf-8")) for path in paths}
    assert {path: what for path, what in found.items() if what} == {}


def test_one_line_more_is_too_long() -> None:
    """Also in a method, in a function within another, and in one that waits."""
    method = "class A:\n    @staticmethod\n    def long() -> None:\n" + "        pass\n" * 59
    assert too_long(method) == [] and too_long(method + "        pass\n") == ["function long: 61 lines"]
    inner = "def outer() -> None:\n    async def inner() -> None:\n" + "        pass\n" * 60
    assert too_long(inner) == ["function outer: 62 lines", "function inner: 61 lines"]
    fields = "class B:\n" + "    x = 1\n" * 199
    assert too_long(fields) == [] and too_long(fields + "    x = 1\n") == ["class B: 201 lines"]
    assert too_long("x = 1\n" * 400) == [] and too_long("x = 1\n" * 401) == ["file : 401 lines"]
