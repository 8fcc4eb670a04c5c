"""Where the runtime keeps what a goroutine waits for: fields of runtime.sudog, hchan, pollDesc and g.

They come from DWARF, else from the generated table. No machine code confirms them: readers believe what they find only if it refers back to
the goroutine or the channel that they came from (`gotrace.live`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

from gotrace.gobin.buildinfo import GoVersion
from gotrace.gobin.dwarf import RuntimeTypes
from gotrace.gobin.layout import TABLE

_STRUCTS = ("g", "sudog", "hchan", "pollDesc")


@dataclass(frozen=True)
class WaitLayout:
    """Byte offsets; None if the version lacks the field or it is not known. `sudog_elem` and `sudog_c` are of the words that hold the
    addresses (from Go 1.26 on the second ones of their structs: runtime2.go, maybeTraceablePtr)."""

    g_waiting: int | None = None
    g_timer: int | None = None
    sudog_elem: int | None = None
    sudog_waitlink: int | None = None
    sudog_c: int | None = None
    hchan_timer: int | None = None
    hchan_elemtype: int | None = None
    hchan_recvq: int | None = None
    hchan_sendq: int | None = None
    pd_closing: int | None = None
    pd_rd: int | None = None
    pd_wd: int | None = None

    @property
    def knows_channels(self) -> bool:
        """Whether channels can be read."""
        return None not in (self.g_waiting, self.sudog_waitlink, self.sudog_c, self.hchan_elemtype, self.hchan_recvq, self.hchan_sendq)


def wait_layout(version: GoVersion | None, types: RuntimeTypes, path: Path = TABLE) -> WaitLayout:
    """The fields that are known for the binary: those of its DWARF, else those in which all releases of its minor version agree."""
    if types.present:
        found = {name: types.offsets(f"runtime.{name}") for name in _STRUCTS}
        if found["sudog"] and found["hchan"]:
            return _of_structs(found)
    if version is None:
        return WaitLayout()
    entries = json.loads(path.read_text())["layouts"]
    exact = [entry for entry in entries if str(version) in entry["releases"]]
    same = exact or [entry for entry in entries if any(int(name.split(".")[1]) == version.minor for name in entry["releases"])]
    layouts = [_of_structs(entry["structs"]) for entry in same]
    shared = {field.name: {getattr(layout, field.name) for layout in layouts} for field in fields(WaitLayout)}
    return WaitLayout(**{name: next(iter(values)) for name, values in shared.items() if len(values) == 1})


def _of_structs(structs: dict[str, dict[str, int]]) -> WaitLayout:
    g, sudog, hchan, poll = (structs.get(name, {}) for name in _STRUCTS)
    elem, after, c = sudog.get("elem"), sudog.get("acquiretime"), sudog.get("c")
    second = 8 if elem is not None and after == elem + 16 else 0
    return WaitLayout(
        g_waiting=g.get("waiting"),
        g_timer=g.get("timer"),
        sudog_elem=elem + second if elem is not None else None,
        sudog_waitlink=sudog.get("waitlink"),
        sudog_c=c + second if c is not None else None,
        hchan_timer=hchan.get("timer"),
        hchan_elemtype=hchan.get("elemtype"),
        hchan_recvq=hchan.get("recvq"),
        hchan_sendq=hchan.get("sendq"),
        pd_closing=poll.get("closing"),
        pd_rd=poll.get("rd"),
        pd_wd=poll.get("wd"),
    )
