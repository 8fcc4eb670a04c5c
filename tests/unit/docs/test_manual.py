"""Man pages and shell completions are what the commands are now, and what reads them takes them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from prerequisites import unavailable

from gotrace.cli.verbs import commands

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())
COMPLETIONS = ROOT / "docs/completions"
VERBS = set(commands())


def needed(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        unavailable(f"needs {program} (remedy: apt-get install {package})")
    return str(found)


def run(*command: str | Path, code: int = 0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=ROOT)
    assert done.returncode == code, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def test_they_are_current() -> None:
    assert run(ROOT / "scripts/docs", "--check") == "", "make them anew with scripts/docs"


def test_groff_reads_the_man_pages() -> None:
    groff = needed("groff", "groff-base")
    pages = sorted((ROOT / "docs/man").iterdir())
    assert {page.name for page in pages} == {"gotrace.1", *(f"gotrace-{verb}.1" for verb in VERBS)}
    for page in pages:
        text = run(groff, "-man", "-Tascii", "-ww", "-P-cbou", page)
        assert "SYNOPSIS" in text and "EXIT STATUS" in text


def test_a_man_page_shows_text_as_it_is() -> None:
    text = run(needed("groff", "groff-base"), "-man", "-Tascii", "-P-cbou", ROOT / "docs/man/gotrace-attach.1")
    assert "--match 'main\\.' --json | jq .totals" in text


def bash_words(line: str) -> set[str]:
    words = line.split(" ")
    script = f"""
        source {COMPLETIONS}/gotrace.bash
        COMP_WORDS=({' '.join(repr(word) for word in words)}) COMP_CWORD={len(words) - 1}
        compopt() {{ :; }}
        _gotrace
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return set(run("bash", "--norc", "-c", script).split())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gotrace ", VERBS | {"-h", "--help", "-V", "--version"}), ("gotrace di", {verb for verb in VERBS if verb.startswith("di")}),
        ("gotrace attach --mode ", {"exact", "lean", "sample"}),
        ("gotrace attach --mode = le", {"lean"}), ("gotrace attach --max", {"--max-overhead"}), ("gotrace attach --match ", set()),
        ("gotrace report --tr", {"--tree"}),
    ],
)
def test_bash_completes(line: str, words: set[str]) -> None:
    assert bash_words(line) == words


def test_bash_completes_processes_and_files() -> None:
    assert "1" in bash_words("gotrace dump ") and "README.md" not in bash_words("gotrace dump ")
    assert "README.md" in bash_words("gotrace report READ")
    assert {"1", "README.md"} <= bash_words("gotrace probes ")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gotrace d", {verb for verb in VERBS if verb.startswith("d")}), ("gotrace attach --mode ", {"exact", "lean", "sample"}),
        ("gotrace attach --max", {"--max-overhead"}),
    ],
)
def test_fish_completes(line: str, words: set[str]) -> None:
    said = run(needed("fish", "fish"), "--no-config", "-c", f"source {COMPLETIONS}/gotrace.fish; complete -C '{line}'")
    assert {answer.split("\t")[0] for answer in said.splitlines()} == words


def test_zsh_loads_its_completion() -> None:
    said = run(needed("zsh", "zsh"), "-fc", f"autoload -Uz compinit; compinit -u -D; source {COMPLETIONS}/_gotrace; print $_comps[gotrace]")
    assert said.strip() == "_gotrace"
