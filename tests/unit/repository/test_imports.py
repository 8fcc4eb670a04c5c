"""The folders show the data flow: imports go one way, and only the kernel side knows bcc."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[3] / "gotrace"
# From left to right as in the design; a module may import what stands before it. Modules of one rank may import
# each other.
ORDER = (
    ("common", "__init__"),
    ("proc",),
    ("gobin",),
    ("live",),
    ("plan",),
    ("kernel",),
    ("model",),
    ("profile",),
    ("watch",),
    ("governor",),
    ("capture",),
    ("diff",),
    ("render", "export"),
    ("host",),
    ("dump", "sched"),
    ("verdicts",),
    ("run",),
    ("top",),
    ("serve",),
    ("cli", "__main__"),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def place(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_imports_go_one_way() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        for name in imported(path):
            parts = name.split(".")
            if parts[0] != "gotrace" or len(parts) < 2 or parts[1] not in RANK:
                continue
            if RANK[parts[1]] > RANK[place(path)]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_every_module_has_its_place() -> None:
    assert {place(path) for path in PACKAGE.rglob("*.py")} <= set(RANK)


def test_only_the_kernel_side_imports_bcc() -> None:
    users = {place(path) for path in PACKAGE.rglob("*.py") if any(n.split(".")[0] == "bcc" for n in imported(path))}
    assert users == {"kernel"}


def test_rendering_needs_neither_bcc_nor_elf_tools() -> None:
    code = (
        "import sys, gotrace.capture.reader, gotrace.export, gotrace.render.summary;"
        "print([m for m in ('bcc', 'elftools', 'capstone') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
