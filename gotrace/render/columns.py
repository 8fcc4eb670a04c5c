"""Tables of figures whose columns are left out where the terminal is too narrow, and sparklines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

_Row = TypeVar("_Row")
_BARS = "▁▂▃▄▅▆▇█"


class Column(NamedTuple, Generic[_Row]):
    """One column: its cells are at least `width` wide. The columns of the highest `rank` are left out first, those of rank 0 never."""

    heading: str
    width: int
    rank: int
    value: Callable[[_Row], str]


def fitting(columns: Sequence[Column[_Row]], room: int) -> list[Column[_Row]]:
    """The columns for which there is room; of one rank the last is left out first."""
    kept = list(columns)
    while width_of(kept) > room and (most := max(column.rank for column in kept)):
        kept.remove(next(column for column in reversed(kept) if column.rank == most))
    return kept


def width_of(columns: Sequence[Column[_Row]]) -> int:
    """How wide a line with these columns is."""
    return sum(column.width + 1 for column in columns) - 1


def heading(columns: Sequence[Column[_Row]]) -> str:
    """The line above the rows."""
    return " ".join(column.heading.rjust(column.width) for column in columns)


def cells(columns: Sequence[Column[_Row]], row: _Row) -> str:
    """The line of a row."""
    return " ".join(column.value(row).rjust(column.width) for column in columns)


def sparkline(values: Sequence[int]) -> str:
    """One character for each value, its height relative to the largest."""
    most = max(values, default=0)
    return "".join(_BARS[round(value * (len(_BARS) - 1) / most)] if most else _BARS[0] for value in values)
