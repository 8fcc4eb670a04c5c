"""Runs the program `spanned` under gdb, stops at every place of a plan of spans, and makes of that what a trace would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from conftest import unavailable

from gotrace.gobin.binary import GoBinary
from gotrace.gobin.pclntab import Pclntab
from gotrace.plan.probes import SpanKind
from gotrace.plan.spans import Spans


@dataclass
class Calls:
    """Of one function: `begun` with those within another call of it; `outermost` ones, of which so many returned (`ended`) or were left by
    Goexit (`gone`). `wrong`: ends at which the stack had another function's return address than at the beginning."""

    begun: int = 0
    outermost: int = 0
    ended: int = 0
    gone: int = 0
    wrong: list[str] = field(default_factory=list)


def follow(binary: GoBinary, path: Path, spans: Spans, folder: Path) -> tuple[dict[str, Calls], Counter[str], dict[str, int]]:
    """Calls by function, hits of all other places by symbol, and how often the program says that its functions were called. `path` is no
    PIE: the addresses are those of the file."""
    gdb = shutil.which("gdb")
    if gdb is None:
        unavailable("needs gdb (remedy: apt-get install gdb)")
    sites = {}
    script = ["set pagination off", "set confirm off", "set debuginfod enabled off", "set language c"]
    script += ["handle SIGURG nostop noprint pass", "handle SIGPIPE nostop noprint pass"]
    for span in spans.functions:
        for site in (span.begin, *span.ends):
            sites[site.probe.site.address] = (site, span.name)
    for site in spans.unwinds:
        sites[site.probe.site.address] = (site, site.probe.symbol)
    for address, (site, _) in sites.items():
        # g.stack is {lo, hi} (runtime/runtime2.go). It is copied when it grows: what stays is the distance from its end.
        slot = f"((long)$rsp + ({site.sp_above}))"
        script += [
            f"break *{address:#x}", "commands", "silent",
            f'printf "HIT %lx %lx %lx %lx\\n", (long)$pc, (long)$r14, *(long*)((long)$r14 + 8) - {slot}, *(long*){slot}', "continue", "end",
        ]
    (folder / "script").write_text("\n".join([*script, f"run < /dev/null > {folder / 'out'}"]) + "\n")
    done = subprocess.run(
        [gdb, "-q", "-batch", "-nx", "-x", folder / "script", path], capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL,
        env=os.environ | {"GODEBUG": "asyncpreemptoff=1"},  # a signal while gdb steps over a breakpoint confuses it
    )
    assert "exited normally" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    calls, other = {span.name: Calls() for span in spans.functions}, Counter()
    going: dict[tuple[int, str], tuple[int, int]] = {}
    for line in re.findall(r"^HIT (.*)$", done.stdout, re.M):
        at, g, place, word = (int(number, 16) for number in line.split())
        site, name = sites[at]
        _take(calls, other, going, binary.table, site.kind, name, g, place, word)
    counts = [line.split(" ", 1) for line in (folder / "out").read_text().splitlines()]
    return calls, other, {name: int(count) for count, name in counts}


def _take(
    calls: dict[str, Calls], other: Counter[str], going: dict[tuple[int, str], tuple[int, int]], functions: Pclntab,
    kind: SpanKind, name: str, g: int, place: int, word: int,
) -> None:
    if kind is SpanKind.BEGIN:
        calls[name].begun += 1
        if (g, name) not in going or place <= going[g, name][0]:  # what was there was left by a panic
            going[g, name] = place, word
            calls[name].outermost += 1
    elif kind is SpanKind.END:
        if going.get((g, name), (0, 0))[0] == place:
            began, returns_to = going.pop((g, name))
            calls[name].ended += 1
            # The caller may have called another function since, from there.
            if functions.function_at(returns_to) != functions.function_at(word):
                calls[name].wrong.append(f"{returns_to:#x} at the beginning, {word:#x} at the end")
    else:
        other[name] += 1
        if kind is SpanKind.GOEXIT:
            for key in [key for key in going if key[0] == g]:
                del going[key]
                calls[key[1]].gone += 1
