"""The verdicts at the end of a trace: all goroutines are read once, after the probes are gone."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gotrace.common.errors import GotraceError
from gotrace.dump.reading import dump_of
from gotrace.profile.verdict import VerdictOn
from gotrace.verdicts.judge import judge
from gotrace.watch.protocol import Watched

_MOST_GOROUTINES = 5_000
"""A tenth of a second on an idle machine; following the code of those that may be stuck takes at most half a second more
(gotrace/dump/prospects.py)."""
_BUDGET_S = 1.0
"""For all processes: so long may Ctrl-C have to wait."""


def closing_verdicts(processes: Sequence[Watched]) -> tuple[list[VerdictOn], list[str]]:
    """The verdicts on each process that is still there, as `gotrace dump` gives them; and for those that were not judged, a note why."""
    found: list[VerdictOn] = []
    notes: list[str] = []
    begun = time.monotonic()
    for process in processes:
        pid = process.process.pid
        if process.execed:
            continue
        try:
            goroutines = process.target.reader.count()
            if goroutines > _MOST_GOROUTINES:
                notes.append(f"no verdicts on PID {pid}: it has had {goroutines:,} goroutines at once; gotrace dump {pid} gives them")
            elif time.monotonic() - begun > _BUDGET_S:
                notes.append(f"no verdicts on PID {pid}: there was no time; gotrace dump {pid} gives them")
            else:
                found += [VerdictOn(pid, verdict) for verdict in judge(dump_of(process.target, kernel=process.symbols, labels=False))]
        except (GotraceError, OSError) as error:
            if not process.execed:  # else it has just ended
                notes.append(f"no verdicts on PID {pid}: {error}")
        except Exception as error:  # its memory may hold anything, and the capture is still to be closed
            notes.append(f"no verdicts on PID {pid}: its memory makes no sense ({type(error).__name__})")
    return found, notes
