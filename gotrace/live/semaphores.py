"""Who waits for which semaphore: the runtime's table of semaphores has every waiter (runtime/sema.go: semaRoot)."""

from __future__ import annotations

from gotrace.gobin.semtable import ROOTS, STRIDE
from gotrace.gobin.waitlayout import WaitLayout
from gotrace.live.pages import Pages, word_at
from gotrace.proc.memory import Memory

_TREAP = 8
_SUDOG = 112
_NEXT, _PREVIOUS = 8, 16
_MOST = 1 << 23


def waiters(
    memory: Memory, pages: Pages, table: int, layout: WaitLayout, sudogs: dict[int, int] | None = None
) -> dict[int, int]:
    """The semaphore's address by the address of the waiting g. `table` is where runtime.semtable is. `sudogs` gets the g's by the addresses
    of their sudogs.

    Each root is a tree of sudogs, one for each semaphore; further waiters of that are in the list waitlink. A sudog that is met twice, or
    that is in the tree of another root than its semaphore belongs to, ends the way there.

    Raises:
        ProcessLookupError, PermissionError: the memory can't be read.
    """
    at_elem, at_link = layout.sudog_elem, layout.sudog_waitlink
    raw = memory.read(table, ROOTS * STRIDE)
    if raw is None or at_elem is None or at_link is None:
        return {}
    found: dict[int, int] = {}
    met: set[int] = set()
    trees = [(root, top) for root in range(ROOTS) if (top := word_at(raw, root * STRIDE + _TREAP))]
    lists: list[tuple[int, int]] = []
    while (trees or lists) and len(met) < _MOST:
        pages.prefetch([sudog for _, sudog in trees] + [sudog for _, sudog in lists], _SUDOG)
        level, links = [], []
        for root, sudog in trees:
            node = pages.read(sudog, _SUDOG) if sudog not in met else None
            address = word_at(node, at_elem) if node is not None else 0
            if node is None or not address or (address >> 3) % ROOTS != root:
                continue
            met.add(sudog)
            found[word_at(node, 0)] = address
            if sudogs is not None:
                sudogs[sudog] = word_at(node, 0)
            level += [(root, child) for child in (word_at(node, _PREVIOUS), word_at(node, _NEXT)) if child]
            links += [(address, link)] if (link := word_at(node, at_link)) else []
        for address, sudog in lists:
            node = pages.read(sudog, _SUDOG) if sudog not in met else None
            if node is None or word_at(node, at_elem) != address:
                continue
            met.add(sudog)
            found[word_at(node, 0)] = address
            if sudogs is not None:
                sudogs[sudog] = word_at(node, 0)
            links += [(address, link)] if (link := word_at(node, at_link)) else []
        trees, lists = level, links
    found.pop(0, None)
    return found
