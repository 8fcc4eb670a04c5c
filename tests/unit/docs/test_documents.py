"""The documentation says what is there: marks, links, flags, tables, counters; and it is plain ASCII."""

from __future__ import annotations

import os
import re
import sqlite3

import click
import pytest
from documents import COMMANDS, DOCUMENTS, ROOT, all_blocks, blocks_of, prose_of

from gotrace import __version__
from gotrace.capture.schema import APPLICATION_ID, SCHEMA_VERSION, TABLES
from gotrace.cli.verbs import commands
from gotrace.common.vocabulary import Loss, State

INLINE = re.compile(r"`([^`\n]+)`")
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def headings(name: str) -> set[str]:
    """The anchors of a document, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", prose_of(ROOT / name), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("name", NAMES)
def test_every_block_is_marked(name: str) -> None:
    assert [(block.where, block.problem) for block in blocks_of(ROOT / name) if block.problem] == []


def test_no_command_hides_in_another_block() -> None:
    hidden = re.compile(r"^\$? *(sudo|gotrace|\./scripts|scripts)[ /]", re.MULTILINE)
    assert [block.where for block in all_blocks() if block.language != COMMANDS and hidden.search(block.text)] == []


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_fenced(name: str) -> None:
    """An indented block would escape the test that runs commands."""
    lines = prose_of(ROOT / name).splitlines()
    assert [line for before, line in zip(["", *lines], lines, strict=False) if re.match(r" {4}|\t", line) and not before.strip()] == []


def test_all_text_is_ascii() -> None:
    texts = [*DOCUMENTS, *(path for folder in ("man", "completions", "schema") for path in (ROOT / "docs" / folder).iterdir())]
    assert [str(path) for path in texts if not path.read_bytes().isascii()] == []


def test_the_changelog_has_this_release() -> None:
    releases = re.findall(r"^## \[(.+)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert releases[:1] == ["Unreleased"] and __version__ in releases


def test_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) <= 150


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(ROOT / name)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        if not file.exists() or anchor and anchor not in headings(str(file.resolve().relative_to(ROOT))):
            wrong.append(target)
    assert wrong == []


def flags_of(command: click.Command) -> set[str]:
    names = {name for parameter in command.params if isinstance(parameter, click.Option) for name in (*parameter.opts, *parameter.secondary_opts)}
    return names | {"--help", "-h", "--version", "-V"}


ALL_FLAGS = set().union(*(flags_of(command) for command in commands().values()))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_what_the_text_says_of_commands_exists(name: str) -> None:
    wrong = []
    for code in INLINE.findall(prose_of(ROOT / name)):
        words = code.removeprefix("sudo ").split()
        flags = {word.split("=")[0] for word in words if word.startswith("--")}
        if words[0] == "gotrace" and len(words) > 1 and not words[1].startswith("-") and words[1].islower():
            command = commands().get(words[1])
            wrong += [code] if command is None or flags - flags_of(command) else []
        elif words[0].startswith("--"):
            wrong += [code] if flags - ALL_FLAGS and not known_elsewhere(flags - ALL_FLAGS) else []
    assert wrong == []


def known_elsewhere(flags: set[str]) -> bool:
    """Whether some script of ours has each of these flags."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "scripts").iterdir() if path.is_file() and os.access(path, os.X_OK)]
    texts.append(read("tests/conftest.py"))
    return all(any(flag in text for text in texts) for flag in flags)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_paths_exist(name: str) -> None:
    paths = re.compile(r"(?:gotrace|bpf|scripts|tests|docs|findings|vagrant|\.ci|\.github)/[\w./*-]*")
    named = [code.split(":")[0].rstrip("/.") for code in INLINE.findall(prose_of(ROOT / name)) if paths.fullmatch(code.split(":")[0])]
    assert [path for path in named if not list(ROOT.glob(path))] == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_tests_that_are_named_exist(name: str) -> None:
    named = set(re.findall(r"\btest_\w+\.py\b", read(name)))
    assert named <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}


# -- capture.md --------------------------------------------------------------------------------------------------------


def empty_capture() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.executescript(TABLES)
    return db


def test_the_capture_s_tables_are_described() -> None:
    text = read("docs/capture.md")
    assert f"schema version {SCHEMA_VERSION}" in text and f"0x{APPLICATION_ID:X}" in text.replace("0x676f7472", "0x676F7472")
    described = {
        name: re.findall(r"^\| `(\w+)` \| ([A-Z]+) \|", body, re.MULTILINE)
        for name, body in re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", text, re.DOTALL | re.MULTILINE)
    }
    db = empty_capture()
    names = [name for name, in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    actual = {name: [(row[1], row[2]) for row in db.execute(f"PRAGMA table_info({name})")] for name in names}
    assert described == actual


@pytest.mark.parametrize("block", [block for block in all_blocks() if block.language == "sql"], ids=lambda block: block.where)
def test_queries_fit_the_schema(block) -> None:
    assert empty_capture().execute(f"EXPLAIN {block.text}").fetchall()


def test_there_are_ten_queries_at_least() -> None:
    assert len([block for block in blocks_of(ROOT / "docs/capture.md") if block.language == "sql"]) >= 10


# -- output.md ---------------------------------------------------------------------------------------------------------


def test_every_loss_and_every_state_is_described() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", read("docs/output.md"), re.MULTILINE))
    assert {loss.value for loss in Loss} <= rows
    assert {state.value for state in State} <= rows


def test_the_glossary_is_in_order() -> None:
    words = re.findall(r"^\*\*(.+?)\*\*", read("docs/glossary.md"), re.MULTILINE)
    assert len(words) > 30 and words == sorted(words, key=str.casefold)


# -- troubleshooting.md ------------------------------------------------------------------------------------------------


def test_the_symptoms_are_messages_that_gotrace_prints() -> None:
    sources = [path.read_text(encoding="utf-8") for path in [*ROOT.glob("gotrace/**/*.py"), ROOT / "scripts/install"]]
    symptoms = INLINE.findall("\n".join(re.findall(r"^### (.*)$", read("docs/troubleshooting.md"), re.MULTILINE)))
    assert len(symptoms) > 10
    # `[lost: ...]` goes on in many ways.
    assert [symptom for symptom in symptoms if not any(symptom.split("...")[0].strip() in source for source in sources)] == []


# -- CONTRIBUTING.md ---------------------------------------------------------------------------------------------------


def test_the_walk_throughs_name_what_is_in_the_sources() -> None:
    """What looks like a name of the code occurs in it."""
    sources = "\n".join(path.read_text(encoding="utf-8") for pattern in ("gotrace/**/*.py", "bpf/*.c") for path in ROOT.glob(pattern))
    name = re.compile(r"_?[A-Za-z]\w*_\w+|[A-Z]\w+(\.[A-Z]+)?")
    names = {code for code in INLINE.findall(prose_of(ROOT / "CONTRIBUTING.md")) if name.fullmatch(code)}
    assert len(names) > 15
    assert [name for name in sorted(names) if not re.search(rf"\b{re.escape(name)}\b", sources)] == []
