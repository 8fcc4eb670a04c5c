"""The group of verbs; each verb has a module of its own."""

from __future__ import annotations

import click

from gotrace import __version__
from gotrace.cli.attach import attach
from gotrace.cli.diff import diff
from gotrace.cli.doctor import doctor
from gotrace.cli.dump import dump
from gotrace.cli.probes import probes
from gotrace.cli.ps import ps
from gotrace.cli.report import report
from gotrace.cli.sched import sched
from gotrace.cli.top import top


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
      gotrace probes PID-or-BINARY      what would be probed, and what was learnt of the binary
      gotrace doctor                    what this host can do, and how to fix what it can't

    In place of a PID, --name REGEX, --container ID and --cgroup PATH select processes.
    """


for verb in (attach, report, diff, dump, ps, top, sched, probes, doctor):
    gotrace.add_command(verb)
