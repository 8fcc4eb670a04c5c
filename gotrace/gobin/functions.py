"""A function of Go's function table, and a call of one, as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Function:
    """A function of the table. `entry` and `end` are link-time addresses; pcsp and the like are table offsets."""

    name: str
    entry: int
    end: int
    address: int
    pcsp: int
    pcfile: int
    pcln: int
    npcdata: int
    cu_offset: int
    func_id: int
    nfuncdata: int

    def __hash__(self) -> int:
        return self.entry  # a key of many caches


@dataclass(frozen=True)
class Call:
    """One level of a program counter: the function, and where in it. `file` is "" and `line` 0 where not known."""

    function: str
    file: str
    line: int
    inlined: bool
    func_id: int
