"""What a run of scripts/bench found, and its JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.paired import Pair, Window
from gotrace.common.errors import GotraceError

SCHEMA = 1


@dataclass
class AgentFigures:
    """What a tracer's own process took in one pair. `cpu` is its share of one core while the workload ran; `live_s` from the
    command until its probes were live, `gone_s` from the signal until they were gone, `files_s` until it had ended and its files were
    written; `peak_bytes` the largest resident size of it and its children. None where it has no process or it is not known."""

    cpu: float | None = None
    live_s: float | None = None
    gone_s: float | None = None
    files_s: float | None = None
    peak_bytes: int | None = None
    note: str = ""


@dataclass(frozen=True)
class ProgramFigures:
    """The kernel's accounting of one BPF program over one window: runs per second and ns per run."""

    name: str
    runs_per_s: float
    ns_per_run: float


@dataclass
class Measured:
    """One tracer on one workload. `note` says why there are fewer pairs, or none. `under_load` is one attach and detach while the
    workload ran, with the accounting of its programs in `programs`; in the pairs the target was at rest when it was attached to."""

    title: str
    pairs: list[Pair] = field(default_factory=list)
    agents: list[AgentFigures] = field(default_factory=list)
    under_load: AgentFigures | None = None
    programs: list[ProgramFigures] = field(default_factory=list)
    note: str = ""


@dataclass
class Table:
    """One workload: tracers by key, in the order of the table."""

    name: str
    title: str
    unit: str
    tracers: dict[str, Measured] = field(default_factory=dict)


@dataclass
class Results:
    """A run: where and how, and a table for each workload by name. `absent` are tracers that could not take part, with the reason."""

    host: dict[str, str]
    settings: dict[str, float]
    absent: dict[str, str] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)


def dump(results: Results, path: Path) -> None:
    """Writes `results` as JSON."""
    path.write_text(json.dumps({"schema": SCHEMA, **asdict(results)}, indent=1) + "\n")


def load(path: Path) -> Results:
    """Reads what `dump` wrote; raises GotraceError if it is not that."""
    try:
        data = json.loads(path.read_text())
        if data.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        tables = {name: _table(each) for name, each in data.pop("tables").items()}
        return Results(**data, tables=tables)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GotraceError(f"{path} holds no results: {error}", "sudo scripts/bench") from None


def _table(data: dict) -> Table:
    return Table(**data | {"tracers": {key: _measured(each) for key, each in data["tracers"].items()}})


def _measured(data: dict) -> Measured:
    return Measured(**data | {
        "pairs": [
            Pair(each["round"], *(Window(**each[name]) for name in ("traced", "before", "after"))) for each in data["pairs"]
        ],
        "agents": [AgentFigures(**each) for each in data["agents"]],
        "under_load": AgentFigures(**data["under_load"]) if data["under_load"] else None,
        "programs": [ProgramFigures(**each) for each in data["programs"]],
    })
