"""gotrace's commands as plain data, read from click's own objects. What click prints is not used: it differs between versions."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import click

from gotrace import __version__
from gotrace.cli.verbs import commands, gotrace


@dataclass(frozen=True)
class Flag:
    """One option. `value` is what stands for its value (``DURATION``), "" for a flag without one."""

    names: tuple[str, ...]
    value: str
    help: str
    default: str
    choices: tuple[str, ...]
    is_file: bool

    @property
    def long(self) -> str:
        """Its long name."""
        return next(name for name in self.names if name.startswith("--"))


@dataclass(frozen=True)
class Verb:
    """One command. `paragraphs` are its description, `epilog` what stands below its options; one that begins with a backspace keeps
    its line breaks."""

    name: str
    arguments: tuple[str, ...]
    paragraphs: tuple[str, ...]
    epilog: tuple[str, ...]
    flags: tuple[Flag, ...]

    @property
    def summary(self) -> str:
        """The first sentence of the description, without a full stop."""
        return self.paragraphs[0].split(". ")[0].rstrip(".")

    @property
    def takes_pid(self) -> bool:
        """Whether a process is an argument."""
        return any("PID" in argument for argument in self.arguments)

    @property
    def takes_file(self) -> bool:
        """Whether a file is an argument."""
        return any(word in argument for argument in self.arguments for word in ("CAPTURE", "BEFORE", "AFTER", "BINARY"))


HELP = Flag(("-h", "--help"), "", "Show the help text and exit.", "", (), False)


def all_verbs() -> list[Verb]:
    """The verbs in the order of the help text."""
    return [_verb(name, command) for name, command in commands().items()]


def main_paragraphs() -> tuple[str, ...]:
    """The description of ``gotrace`` itself."""
    return _paragraphs(gotrace.help)


def version() -> str:
    """As ``gotrace --version`` has it."""
    return __version__


def _verb(name: str, command: click.Command) -> Verb:
    arguments = tuple(each.metavar or str(each.name).upper() for each in command.params if isinstance(each, click.Argument))
    flags = tuple(_flag(parameter) for parameter in command.params if isinstance(parameter, click.Option) and not parameter.hidden)
    return Verb(name, arguments, _paragraphs(command.help), _paragraphs(command.epilog), (*flags, HELP))


def _flag(option: click.Option) -> Flag:
    choices = tuple(map(str, option.type.choices)) if isinstance(option.type, click.Choice) else ()
    plain = option.is_flag or option.count
    value = "" if plain else option.metavar or ("" if choices else option.type.name.split()[0].upper())
    default = f"{option.default:g}" if isinstance(option.default, float) else str(option.default)
    return Flag(
        (*option.opts, *option.secondary_opts), value, " ".join((option.help or "").split()),
        default if option.show_default and not plain else "", choices, value == "FILE",
    )


def _paragraphs(text: str | None) -> tuple[str, ...]:
    return tuple(paragraph for paragraph in inspect.cleandoc(text or "").split("\n\n") if paragraph.strip("\b\n "))
