"""Where the fields of runtime.g and related structs are: from DWARF, else the generated table, else the code itself.

Every source is checked against the machine code of the binary (`derive`), and `gotrace.proc.check` checks the result
against the live process. A layout that contradicts the code is refused, never used.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from gotrace.common.errors import BadBinary
from gotrace.gobin.buildinfo import GoVersion
from gotrace.gobin.derive import CodeFacts
from gotrace.gobin.dwarf import RuntimeTypes

TABLE = Path(__file__).with_name("layouts.json")


@dataclass(frozen=True)
class Layout:
    """Byte offsets of fields. None: the version lacks the field, or (source ``code``) it is not known."""

    g_sched_sp: int
    g_sched_pc: int
    g_sched_g: int
    g_sched_bp: int
    g_atomicstatus: int
    g_goid: int
    g_waitreason: int
    g_stack_lo: int = 0
    g_stack_hi: int = 8
    g_m: int | None = None
    g_syscallsp: int | None = None
    g_syscallpc: int | None = None
    g_syscallbp: int | None = None
    g_waitsince: int | None = None
    g_parentGoid: int | None = None
    g_gopc: int | None = None
    g_startpc: int | None = None
    g_lockedm: int | None = None
    g_labels: int | None = None
    g_trackingSeq: int | None = None
    g_coroarg: int | None = None
    g_sleepWhen: int | None = None
    m_g0: int | None = None
    m_procid: int | None = None
    m_curg: int | None = None
    m_p: int | None = None
    m_waitlock: int | None = None
    m_vdsoSP: int | None = None
    m_vdsoPC: int | None = None
    pd_fd: int | None = None
    pd_rg: int | None = None
    pd_wg: int | None = None
    pd_self: int | None = None
    source: str = ""

    def with_field(self, name: str, offset: int | None) -> Layout:
        """The same with the field `name`, which must be one that may be unknown, at `offset`."""
        return Layout(**(vars(self) | {name: offset}))

    def contradictions(self, facts: CodeFacts, everywhere: bool = False) -> list[str]:
        """Where the binary's code disagrees, one text per field: for the fields without which there is no layout, or for all."""
        found = []
        for field in fields(facts):
            if field.name in _BY_CODE and not everywhere:
                continue
            code = getattr(facts, field.name)
            mine = getattr(self, field.name)
            if code is not None and mine is not None and code != mine:
                found.append(f"{field.name.replace('_', '.', 1)} is {mine} by {self.source}, {code} in the code")
        return found


_BY_CODE = ("g_m", "g_trackingSeq", "g_labels", "m_g0", "m_curg", "m_procid", "pd_self")
"""Fields for which the code outweighs the table, and without which there is still a layout."""


def from_dwarf(types: RuntimeTypes) -> Layout | None:
    """The layout from DWARF, or None if that lacks runtime.g."""
    g, gobuf, m, poll = (types.offsets(f"runtime.{name}") for name in ("g", "gobuf", "m", "pollDesc"))
    return from_structs(g, gobuf, m, poll, "DWARF") if g and gobuf else None


def from_structs(
    g: dict[str, int], gobuf: dict[str, int], m: dict[str, int], poll: dict[str, int], source: str
) -> Layout | None:
    """A layout from the members of runtime.g, gobuf, m and pollDesc; None if a required one is missing."""
    try:
        return Layout(
            g_sched_sp=g["sched"] + gobuf["sp"],
            g_sched_pc=g["sched"] + gobuf["pc"],
            g_sched_g=g["sched"] + gobuf["g"],
            g_sched_bp=g["sched"] + gobuf["bp"],
            g_stack_lo=g["stack"],
            g_stack_hi=g["stack"] + 8,
            source=source,
            g_atomicstatus=g["atomicstatus"],
            g_goid=g["goid"],
            g_waitreason=g["waitreason"],
            g_m=g.get("m"),
            g_syscallsp=g.get("syscallsp"),
            g_syscallpc=g.get("syscallpc"),
            g_syscallbp=g.get("syscallbp"),
            g_waitsince=g.get("waitsince"),
            g_parentGoid=g.get("parentGoid"),
            g_gopc=g.get("gopc"),
            g_startpc=g.get("startpc"),
            g_lockedm=g.get("lockedm"),
            g_labels=g.get("labels"),
            g_trackingSeq=g.get("trackingSeq"),
            g_coroarg=g.get("coroarg"),
            g_sleepWhen=g.get("sleepWhen"),
            m_g0=m.get("g0"),
            m_procid=m.get("procid"),
            m_curg=m.get("curg"),
            m_p=m.get("p"),
            m_waitlock=m.get("waitlock"),
            m_vdsoSP=m.get("vdsoSP"),
            m_vdsoPC=m.get("vdsoPC"),
            pd_fd=poll.get("fd"),
            pd_rg=poll.get("rg"),
            pd_wg=poll.get("wg"),
            pd_self=poll.get("self"),
        )
    except KeyError:
        return None


def from_table(version: GoVersion, facts: CodeFacts | None = None, path: Path = TABLE) -> Layout | None:
    """The layout of the generated table for `version`.

    The exact release if it is there. Otherwise what the releases with the same minor version share and `facts`, the code, do not
    contradict: a field with different offsets is None. None if there is no such release, or if they differ in a field without which
    there is no layout.
    """
    entries = json.loads(path.read_text())["layouts"]
    if exact := [entry for entry in entries if str(version) in entry["releases"]]:
        return _of_entry(exact[0], str(version))
    candidates = [
        (entry, layout) for entry in entries if any(_minor(release) == version.minor for release in entry["releases"])
        if (layout := _of_entry(entry, "")) is not None
    ]
    if facts is not None:
        candidates = [candidate for candidate in candidates if not candidate[1].contradictions(facts, everywhere=True)] or candidates
    if not candidates:
        return None
    shared: dict[str, Any] = {
        field.name: values.pop() if len(values := {getattr(layout, field.name) for _, layout in candidates}) == 1 else None
        for field in fields(Layout)
    }
    if any(shared[field.name] is None for field in fields(Layout) if field.default is not None and field.name != "source"):
        return None
    names = " and ".join(entry["releases"][-1] for entry, _ in candidates)
    return Layout(**{**shared, "source": f"table ({names} for {version})"})


def _of_entry(entry: dict[str, Any], release: str) -> Layout | None:
    structs = entry["structs"]
    return from_structs(structs["g"], structs["gobuf"], structs["m"], structs.get("pollDesc", {}), f"table ({release})")


def of_table(version: GoVersion | None) -> Layout | None:
    """Like `from_table`, also None if the version is not known."""
    return from_table(version) if version is not None else None


def newest(path: Path = TABLE) -> Layout:
    """The table's layout of the newest release: fields of an unknown one are searched for there first."""
    entry = max(json.loads(path.read_text())["layouts"], key=lambda entry: max(_minor(release) for release in entry["releases"]))
    structs = entry["structs"]
    layout = from_structs(structs["g"], structs["gobuf"], structs["m"], structs.get("pollDesc", {}), "table")
    assert layout is not None, "the newest release of the table lacks a field"
    return layout


def _minor(release: str) -> int:
    return int(release.removeprefix("go").split(".")[1])


def from_code(facts: CodeFacts) -> Layout | None:
    """The layout from the machine code alone: the fields that exact tracing needs; None if one was not found."""
    needed = {field.name: getattr(facts, field.name) for field in fields(facts)}
    if any(value is None for name, value in needed.items() if name not in ("g_coroarg", "m_waitlock", *_BY_CODE)):
        return None
    return Layout(**needed, source="machine code")


def choose(version: GoVersion | None, types: RuntimeTypes, facts: CodeFacts, name: str) -> Layout:
    """The first of DWARF, table and code that knows the layout and that the code does not contradict.

    Raises:
        BadBinary: none is left; the message says what each source gave.
    """
    said = []
    for source, layout in (
        ("DWARF", from_dwarf(types) if types.present else None),
        ("table", from_table(version, facts) if version else None),
        ("machine code", from_code(facts)),
    ):
        if layout is None:
            said.append(f"{source}: none")
            continue
        if layout.source != "DWARF":
            # The lower part of runtime.m moved even within minor releases (1.23.x, 1.24.x): only the code can be trusted.
            known = {name: value for name in _BY_CODE if (value := getattr(facts, name)) is not None}
            layout = replace(layout, m_waitlock=facts.m_waitlock, **known)
        contradictions = layout.contradictions(facts)
        if not contradictions:
            return layout
        said += contradictions
    raise BadBinary(
        f"{name}: the layout of runtime.g is not known for {version or 'this Go version'} ({'; '.join(said)})",
        "gotrace supports Go 1.19 to 1.27; see 'gotrace probes'",
    )
