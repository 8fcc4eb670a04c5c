"""The documentation's code blocks, and what their marks say.

A block of commands is ```` ```sh test ````: a test runs it; or ```` ```sh norun="why" ````. A query is ```` ```sql test ````, or
```` ```sql test empty="why it may find nothing" ````. Output, drawings and file contents have their language alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = "sh"
OTHERS = ("text", "sql", "json", "go", "c", "python")
_MARK = re.compile(r'(test|norun="[^"]{10,}")(?: empty="[^"]{10,}")?')


@dataclass(frozen=True)
class Block:
    """One fenced block. `language` and `mark` are what stands behind its fence; `line` is that of the fence."""

    path: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def where(self) -> str:
        """``docs/capture.md:12``."""
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    @property
    def tested(self) -> bool:
        """Whether a test runs it."""
        return self.mark.startswith("test")

    @property
    def problem(self) -> str:
        """What is wrong with its mark; "" where nothing is."""
        if self.language == COMMANDS:
            return "" if _MARK.fullmatch(self.mark) else "commands need a mark: test, or norun=\"the reason\""
        if self.language == "sql":
            return "" if self.tested and _MARK.fullmatch(self.mark) else "a query needs the mark test"
        if self.language not in OTHERS:
            return f"the language is one of {COMMANDS} {' '.join(OTHERS)}"
        return f"only commands and queries have marks, not {self.mark}" if self.mark else ""


def blocks_of(path: Path) -> list[Block]:
    """The blocks of a document in their order."""
    found, fence, lines = [], None, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if fence is None and line.lstrip().startswith("```"):
            language, _, mark = line.strip().strip("`").partition(" ")
            fence, lines = (number, language, mark), []
        elif fence is not None and line.strip() == "```":
            found.append(Block(path, *fence, "\n".join(lines) + "\n"))
            fence = None
        elif fence is not None:
            lines.append(line)
    assert fence is None, f"{path}: the block of line {fence} does not end"
    return found


def all_blocks() -> list[Block]:
    """The blocks of all documents."""
    return [block for path in DOCUMENTS if path.exists() for block in blocks_of(path)]


def prose_of(path: Path) -> str:
    """A document without its blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
