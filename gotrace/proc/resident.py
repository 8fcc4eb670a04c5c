"""Which parts of a process's memory exist: most of what a Go program reserves it has never touched."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from gotrace.proc.memory import Mapping

_PAGE = 4096
_THERE = 3 << 62
"""Present, or swapped out (Documentation/admin-guide/mm/pagemap.rst)."""
_AT_ONCE = 1 << 16


def existing(pid: int, mappings: Iterable[Mapping]) -> list[tuple[int, int]]:
    """(start, end) of the runs of pages in these mappings that are in memory or swapped out; the whole mappings where the kernel does
    not tell."""
    found: list[tuple[int, int]] = []
    try:
        with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
            for mapping in mappings:
                for start in range(mapping.start, mapping.end, _AT_ONCE * _PAGE):
                    count = min(_AT_ONCE, (mapping.end - start) // _PAGE)
                    file.seek(start // _PAGE * 8)
                    raw = file.read(8 * count)
                    words = array("Q", raw[: len(raw) // 8 * 8])
                    if len(words) < count:
                        _add(found, start, start + count * _PAGE)
                        continue
                    for index, word in enumerate(words):
                        if word & _THERE:
                            _add(found, start + index * _PAGE, start + (index + 1) * _PAGE)
    except OSError:
        return [(mapping.start, mapping.end) for mapping in mappings]
    return found


def _add(found: list[tuple[int, int]], start: int, end: int) -> None:
    if found and found[-1][1] == start:
        found[-1] = found[-1][0], end
    else:
        found.append((start, end))
