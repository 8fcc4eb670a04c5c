"""Code, documentation and help texts keep to docs/glossary.md: some words have a better one there."""

from __future__ import annotations

import re

import click
import pytest
from documents import ROOT

from gotrace.cli.verbs import commands, gotrace

BANNED = {
    # Also within identifiers. "look up", "look for" and "look like" have nothing to do with samples.
    r"(un)?look(s|ed|ing)?(?![a-z])(?![ _-]?(up|for|like|wrong))": "sample, or read, check, search",
    r"unended|unfinished": "in progress",
    r"promptness": "scheduling priority",
    r"polite(ness)?": "scheduling priority, or niceness",
    r"books?(?![a-z])|bookkeeping": "accounting",
    r"from without(?![a-z])": "from outside",
    r"anew(?![a-z])": "again",
    r"for ever(?![a-z])": "forever",
    r"reckon": "count, or compute",
    r"(thereof|therein|whereof|whereby|lest|whilst|be it|whatever it be)(?![a-z])": "plain words",
}
"""Patterns of words (in any case, at the beginning of a word), and what to write in their place."""
KEYS = frozenset(("look_late", "LOOK_LATE", "looked_ns", "unlooked_windows"))
"""JSON keys, and identifiers that only mirror one: they stay as they are."""

WORD = re.compile(rf"(?<![a-z])({'|'.join(f'(?:{pattern})' for pattern in BANNED)})", re.IGNORECASE)
PATTERNS = ("gotrace/**/*.py", "bpf/*.c", "bpf/*.h", "docs/*.md", "README.md")
FILES = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))


def banned_in(text: str) -> list[str]:
    """The banned words in `text`, each with its line and what to write in its place."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        without_keys = re.sub(r"\b\w+\b", lambda match: "" if match[0].lstrip("_") in KEYS else match[0], line)
        for match in WORD.finditer(without_keys):
            use = next(use for pattern, use in BANNED.items() if re.match(pattern, without_keys[match.start() :], re.IGNORECASE))
            found.append(f"line {number}: {match[0]!r}: write {use}")
    return found


def help_of(command: click.Command) -> str:
    """All texts that ``--help`` of a command prints."""
    options = [option.help for option in command.params if isinstance(option, click.Option)]
    return "\n".join(filter(None, [command.help, command.epilog, *options]))


def test_files_keep_to_the_glossary() -> None:
    assert len(FILES) > 200
    found = {str(path.relative_to(ROOT)): banned_in(path.read_text(encoding="utf-8")) for path in FILES}
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize("command", [gotrace, *commands().values()], ids=lambda command: str(command.name))
def test_help_texts_keep_to_the_glossary(command: click.Command) -> None:
    text = help_of(command)
    assert len(text) > 50 and banned_in(text) == []


@pytest.mark.parametrize("text", [
    "the next look", "goroutines are looked at", "def take_looks(self)", "unlooked", "Promptness", "waits that are unfinished", "Unended",
    "seen from without", "made anew", "be it a lock",
])
def test_a_banned_word_is_found(text: str) -> None:
    assert len(banned_in(text)) == 1


@pytest.mark.parametrize("text", ["a look-up", "looked up", "it looks like one", "look for it", "self._looked_ns", "Loss.LOOK_LATE", "renewed"])
def test_other_words_are_not(text: str) -> None:
    assert banned_in(text) == []


def test_the_keys_are_in_use() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in FILES)
    assert [key for key in sorted(KEYS) if not re.search(rf"\b_?{key}\b", text)] == []
