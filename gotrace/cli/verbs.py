"""The group of verbs; each verb has a module of its own."""

from __future__ import annotations

from importlib import import_module

import click

from gotrace import __version__

VERBS = ("attach", "report", "diff", "dump", "ps", "top", "sched", "serve", "probes", "doctor")
"""Each is the command of that name in the module of that name."""


class Verbs(click.Group):
    """Imports the module of a verb when it is asked for: a command line starts with what its own verb needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in the order of the help text."""
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb, None if there is none of that name."""
        return _verb(cmd_name) if cmd_name in VERBS else None


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", message="gotrace %(version)s")
def gotrace() -> None:
    """Shows where the goroutines of a running, unmodified Go process spend their time off the CPU.

    \b
      sudo gotrace attach PID           trace for 30 s, write a capture and a flame graph
      gotrace report X.gotrace          the summary again, without root
      gotrace diff BEFORE AFTER         two captures compared
      sudo gotrace dump PID             every goroutine's state and stack, without stopping the process
      sudo gotrace ps                   every Go process of this host
      sudo gotrace top PID              where goroutines wait, live
      sudo gotrace sched PID            the scheduler from outside, as GODEBUG=schedtrace shows it from inside
      sudo gotrace serve --name REGEX   trace all the time: metrics, pprof endpoints, captures by triggers
      gotrace probes PID-or-BINARY      what would be probed, and what was learnt of the binary
      gotrace doctor                    what this host can do, and how to fix what it can't

    In place of a PID, --name REGEX, --container ID and --cgroup PATH select processes.
    """


def commands() -> dict[str, click.Command]:
    """All verbs by name, imported."""
    return {name: _verb(name) for name in VERBS}


def _verb(name: str) -> click.Command:
    found: click.Command = getattr(import_module(f"gotrace.cli.{name}"), name)
    return found
