"""Finds what must not occur in a trace or a dump of a healthy server."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

ROOTS = frozenset(("runtime.goexit", "runtime.rt0_go", "runtime.mstart", "runtime.mstart1", "runtime.mcall", "runtime.systemstack", "runtime._rt0_amd64"))
"""Where a complete Go stack ends."""
MOST = {
    "stopped": 0.0, "memory limit": 0.0, "unknown": 0.001, "page fault": 0.01, "lost frames": 0.005, "cut off": 0.03, "no root": 0.0,
    "running": 1.02,
}
"""The largest share that is no finding: of the off-CPU time; of the intervals, "cut off" of those whose stack says that a part of it is lost,
"no root" of those that end elsewhere and do not say so; "running" of the process's CPU time."""
_OF_SAMPLES = {"running": 1.1, "lost frames": 0.015, "cut off": 0.05}
"""The same where some 80 samples are all there is (--mode sample): within two standard errors; who goes on while a sample is taken may be
without its stack."""
NEVER = ("running_unknown", "start_while_stopped", "end_while_running", "goroutines_unread", "fields_unread")
"""Losses that a healthy server never has."""
_SELDOM = {"stack_incomplete": 0.001, "parked_unread": 0.001, "stack_unreadable": 0.001, "interval_lost": 0.001, "unknown_function": 0.0}
"""Losses that only a small share of its intervals may have."""
_OWN_HEADER = re.compile(r"^goroutine (\d+)(?: gp=\S+ m=\S+(?: mp=\S+)?)? \[([^\],]+)(?:, [^\]]*)?\]:$")


@dataclass
class Found:
    """One server in one mode: figures to print, and what is wrong, in words."""

    figures: dict[str, object] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def of_trace(summary: dict) -> Found:
    """Findings in the summary from ``attach --json``."""
    totals, losses, stacks = summary["totals"], summary["losses"], summary["stacks"]
    intervals, off = totals["intervals"], totals["off_cpu_ns"]
    shares = {
        reason: totals["by_reason"].get(reason, {"total_ns": 0})["total_ns"] / max(off, 1)
        for reason in ("stopped", "memory limit", "unknown", "page fault")
    }
    shares["lost frames"] = sum(stack["total_ns"] for stack in stacks if _lost(stack)) / max(off, 1)
    shares["cut off"] = sum(stack["count"] for stack in stacks if _lost(stack)) / max(intervals, 1)
    shares["no root"] = sum(stack["count"] for stack in stacks if not _rooted(stack) and not _lost(stack)) / max(intervals, 1)
    running, cpu = totals.get("running_ns") or 0, totals.get("cpu_ns") or 0
    shares["running"] = running / cpu if cpu else 0.0
    found = Found({
        "go": summary["target"]["go_version"], "goroutines": totals["goroutines"], "intervals": intervals,
        "losses": {name: count for name, count in losses.items() if count},
        "missing": [f"{missing['stage']}: {missing['why']}" for missing in summary.get("missing", [])],
        "notes": summary.get("notes", []),
        "shares": {name: f"{share:.2%}" for name, share in shares.items() if share and name != "running"},
        "on it": f"{running / 1e9:.2f} of {cpu / 1e9:.2f} s CPU" if running else f"unknown of {cpu / 1e9:.2f} s CPU",
        "overhead": f"{summary['overhead']['target_cpu_fraction_estimate']:.0%}" if summary["overhead"]["target_cpu_fraction_estimate"] is not None else "-",
    })
    most = MOST | (_OF_SAMPLES if summary["window"]["mode"] == "sample" else {})
    for name, share in shares.items():
        # One of a few dozen intervals is a large share.
        if share > most[name] and not (name == "cut off" and share * intervals <= 1):
            found.wrong.append(f"{name}: {share:.2%}")
    found.wrong += [f"loss {name}: {losses[name]}" for name in NEVER if losses.get(name)]
    found.wrong += [f"loss {name}: {losses[name]} of {intervals}" for name, most in _SELDOM.items() if losses.get(name, 0) > max(most * intervals, most and 1)]
    found.wrong += [f"missing {text}" for text in found.figures["missing"]]
    if not summary.get("complete", True):
        found.wrong.append("the trace is not complete")
    return found


def of_dump(dump: dict) -> Found:
    """Findings in the output of ``dump --json``."""
    goroutines, losses = dump["goroutines"], dump["losses"]
    rootless = [one for one in goroutines if not _rooted(one) and not _lost(one) and one["state"] != "running"]
    found = Found({
        "go": dump["target"]["go_version"], "goroutines": len(goroutines), "losses": {name: count for name, count in losses.items() if count},
        "notes": dump.get("notes", []),
    })
    found.wrong += [f"loss {name}: {losses[name]}" for name in (*NEVER, "unknown_function") if losses.get(name)]
    found.wrong += [f"goroutine {one['id']}: {one['reason']}" for one in goroutines if one["reason"] in ("stopped", "unknown", "memory limit")]
    found.wrong += [f"goroutine {one['id']} ({one['reason']}) ends at {_names(one)[-1:]}" for one in rootless]
    # Nothing is wrong with these servers: a verdict is a false alarm.
    found.wrong += [f"verdict {one['kind']}: {one['text']}" for one in dump.get("verdicts", [])]
    return found


def own_goroutines(text: str) -> dict[int, tuple[str, tuple[str, ...]]]:
    """Reason and functions (leaf first, but for those of the runtime) by goroutine, of ``/debug/pprof/goroutine?debug=2``."""
    found = {}
    for block in text.split("\n\n"):
        head, _, rest = block.partition("\n")
        if (match := _OWN_HEADER.match(head)) is None or "additional frames elided" in rest:
            continue
        lines = [line for line in rest.split("\n") if line and not line.startswith(("\t", "created by "))]
        # As in "net/http.(*conn).serve(0xc00012e000, {0x...})".
        functions = (re.sub(r"\([^()]*(?:\([^()]*\)[^()]*)*\)$", "", line) for line in lines)
        found[int(match[1])] = match[2], tuple(name for name in functions if not name.startswith("runtime."))
    return found


def compare_dump(dump: dict, before: str, after: str) -> tuple[int, dict[int, str]]:
    """How many of the goroutines that by the server's own words waited at one place before and after are there in the dump, and by goid
    what differs of the others."""
    dumped, same, differing = {one["id"]: one for one in dump["goroutines"]}, 0, {}
    still = own_goroutines(after)
    for goid, (reason, functions) in own_goroutines(before).items():
        if still.get(goid) != (reason, functions) or reason in ("running", "runnable"):
            continue
        one = dumped.get(goid)
        if one is None:
            differing[goid] = f"goroutine {goid} ({reason}) is not in the dump"
            continue
        mine = tuple(name for name in _names(one) if not name.startswith("runtime."))
        # Go's own word for a system call is "syscall"; the dump's is the call's.
        if mine == functions and reason in (one["reason"], one["state"]):
            same += 1
        else:
            differing[goid] = f"goroutine {goid}: {one['state']}, {one['reason']} in {mine[:3]}, by the server {reason} in {functions[:3]}"
    return same, differing


def _names(one: dict) -> list[str]:
    return [frame["name"] for frame in one["frames"] if frame["kind"] in ("go", "runtime", "cgo")]


def _lost(one: dict) -> bool:
    return any(frame["kind"] == "lost" for frame in one["frames"])


def _rooted(one: dict) -> bool:
    return bool(_names(one)) and _names(one)[-1] in ROOTS
