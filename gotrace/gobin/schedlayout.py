"""Where the scheduler's tables have their fields: runtime.schedt, p, m and timers. From DWARF, else from the generated table.

Unlike the layout of runtime.g nothing is refused if a field is not known: it is None, and what it would tell is left out. The values are
checked against the live process where they are read (`gotrace.sched.tables`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from gotrace.gobin.buildinfo import GoVersion
from gotrace.gobin.dwarf import RuntimeTypes
from gotrace.gobin.layout import TABLE

_Structs = dict[str, dict[str, int]]
_QUEUE_SIZE = 16
"""gQueue is {head, tail, size} from Go 1.25 on (runtime/proc.go); before, sched.runqsize stands beside it."""


@dataclass(frozen=True)
class SchedLayout:
    """Byte offsets; None: the version lacks the field, or it is not known. `source` says where they come from, "" if nothing is known."""

    schedt_lock: int | None = None
    schedt_goidgen: int | None = None
    schedt_mnext: int | None = None
    schedt_nmfreed: int | None = None
    schedt_nmidle: int | None = None
    schedt_npidle: int | None = None
    schedt_nmspinning: int | None = None
    schedt_runqsize: int | None = None
    schedt_ngsys: int | None = None
    schedt_gcwaiting: int | None = None
    p_id: int | None = None
    p_status: int | None = None
    p_m: int | None = None
    p_runqhead: int | None = None
    p_runqtail: int | None = None
    p_runnext: int | None = None
    p_timers_len: int | None = None
    p_timers_heap: int | None = None
    p_timers_when: int | None = None
    p_timers_modified: int | None = None
    m_g0: int | None = None
    m_procid: int | None = None
    m_curg: int | None = None
    m_p: int | None = None
    m_id: int | None = None
    m_spinning: int | None = None
    m_blocked: int | None = None
    m_incgo: int | None = None
    m_alllink: int | None = None
    work_cycles: int | None = None
    stats_numgc: int | None = None
    stats_pause_total_ns: int | None = None
    timers_have_when: bool = False
    """Whether an entry of a P's heap of timers is {timer, when} (from Go 1.23 on) and not a pointer to the timer."""
    source: str = ""

    def size(self, prefix: str) -> int:
        """How many bytes of a struct have to be read for the fields that begin with that."""
        return 8 + max((value for name, value in vars(self).items() if name.startswith(prefix) and isinstance(value, int)), default=0)


def sched_layout(version: GoVersion | None, types: RuntimeTypes) -> SchedLayout:
    """The offsets for a binary of that version with these types."""
    if types.present:
        named = {name: types.offsets(f"runtime.{name}") for name in ("schedt", "p", "m", "timers", "workType", "mstats")}
        if named["schedt"] and named["p"] and named["m"]:
            return _of_structs(named, "DWARF")
    return of_release(version) if version is not None else SchedLayout()


@cache
def of_release(version: GoVersion, path: Path = TABLE) -> SchedLayout:
    """The table's offsets for a release: its own entry, or what the entries of the same minor version have in common."""
    entries = json.loads(path.read_text())["layouts"]
    near = [entry for entry in entries if any(_minor(release) == version.minor for release in entry["releases"])]
    exact = [entry for entry in near if str(version) in entry["releases"]]
    if not near:
        return SchedLayout()
    return SchedLayout(**{field.name: _common(exact or near, field.name) for field in fields(SchedLayout)})


def _common(entries: list[dict[str, Any]], name: str) -> Any:
    values = {getattr(_of_structs(entry["structs"], "table"), name) for entry in entries}
    return values.pop() if len(values) == 1 else None


def _of_structs(structs: _Structs, source: str) -> SchedLayout:
    sched, p, m = structs.get("schedt", {}), structs.get("p", {}), structs.get("m", {})
    timers, work, stats = (structs.get(name, {}) for name in ("timers", "workType", "mstats"))
    queue = sched.get("runq")
    size = sched.get("runqsize", queue + _QUEUE_SIZE if queue is not None else None)
    known = {f"schedt_{name}": sched.get(name) for name in (
        "lock", "goidgen", "mnext", "nmfreed", "nmidle", "npidle", "nmspinning", "ngsys", "gcwaiting")}
    known |= {f"p_{name}": p.get(name) for name in ("id", "status", "m", "runqhead", "runqtail", "runnext")}
    known |= {f"m_{name}": m.get(name) for name in ("g0", "procid", "curg", "p", "id", "spinning", "blocked", "incgo", "alllink")}
    return SchedLayout(
        **known, **_timers(p, timers), schedt_runqsize=size, work_cycles=work.get("cycles"), stats_numgc=stats.get("numgc"),
        stats_pause_total_ns=stats.get("pause_total_ns"), timers_have_when="minWhenHeap" in timers, source=source,
    )


def _timers(p: dict[str, int], timers: dict[str, int]) -> dict[str, int | None]:
    """Where a P has its timers: up to Go 1.22 fields of its own, later in a struct (runtime/time.go: timers)."""
    base = p.get("timers")
    if "numTimers" in p:
        return {
            "p_timers_len": p["numTimers"], "p_timers_heap": base, "p_timers_when": p.get("timer0When"),
            "p_timers_modified": p.get("timerModifiedEarliest"),
        }
    if base is None or not timers:
        return {}
    names = {"len": "len", "heap": "heap", "when": "minWhenHeap", "modified": "minWhenModified"}
    return {f"p_timers_{ours}": base + timers[name] for ours, name in names.items() if name in timers}


def _minor(release: str) -> int:
    return int(release.removeprefix("go").split(".")[1])
