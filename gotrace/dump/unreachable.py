"""Goroutines at channels and locks that nobody else can reach: they will never go on."""

from __future__ import annotations

from collections.abc import Sequence

from gotrace.dump.found import Found
from gotrace.dump.objects import addressed
from gotrace.dump.prospects import same
from gotrace.dump.types import Unreachable
from gotrace.live.goroutines import OFF_CPU
from gotrace.live.heap import Heap
from gotrace.live.pages import Pages
from gotrace.live.reachable import References, Search, Stack
from gotrace.live.semaphores import waiters
from gotrace.proc.memory import Mapping, mappings
from gotrace.proc.resident import existing
from gotrace.watch.target import OpenTarget

_MOST_BYTES = 1 << 31
_KINDS = frozenset(("chan", "mutex", "rwmutex", "waitgroup", "cond"))


def unreachable(target: OpenTarget, found: Sequence[Found], waiting: dict[int, int]) -> Unreachable:
    """Searches the process's memory twice; what both searches say counts. `waiting` is what each g has in its field of that name, by its
    address.

    Raises:
        ProcessLookupError, PermissionError: the memory can't be read.
    """
    asked = {one.state.id: things for one in found if (things := _things(one)) is not None}
    if not asked:
        return Unreachable(complete=True)
    searches = [_search(target, found, waiting, asked) for _ in range(2)]
    now = {each.address: each for each in target.reader.read([one.address for one in found])}
    still = {one.state.id for one in found if (each := now.get(one.address)) is not None and same(each, one.snapshot)}
    lost = searches[0][1] & searches[1][1] & still
    return Unreachable(lost, searches[0][0].searched, searches[0][0].rounds, all(search.complete for search, _ in searches))


def _things(one: Found) -> set[int] | None:
    """The addresses of what it waits for, None if it waits for anything else as well."""
    things = addressed(one.state.object)
    if one.state.state != "waiting" or not things or any(kind not in _KINDS or "due_in_ns" in detail for kind, _, detail in things):
        return None
    return {int(address, 16) for _, address, _ in things}


def _search(
    target: OpenTarget, found: Sequence[Found], waiting: dict[int, int], asked: dict[int, set[int]]
) -> tuple[Search, frozenset[int]]:
    """The search, and the goroutines of which all objects are out of reach."""
    pages, binary = Pages(target.memory), target.binary
    everything = target.reader.read()
    heap = Heap(pages, binary, target.bias, [one.address for one in everything], binary.layout.g_goid + 8)
    if not heap.found:
        return Search(complete=False), frozenset()
    stacks, owned = [], {}
    for g in everything:
        if g.ended or g.stack_lo >= g.stack_hi:
            continue
        # Of one that runs the whole stack counts: where it ends changes.
        sp = g.sp if g.status in OFF_CPU and g.stack_lo <= g.sp < g.stack_hi else g.stack_lo
        stacks.append(Stack(g.stack_lo, g.stack_hi, sp, g.goid))
        owned[g.address] = g.goid
    owned |= _sudogs(target, pages, found, waiting)
    # A lock may be anywhere in the object that contains it.
    things = {goid: {_base(heap, address) for address in addresses} for goid, addresses in asked.items()}
    waiting_for: dict[int, set[int]] = {}
    for goid, bases in things.items():
        for base in bases:
            waiting_for.setdefault(base, set()).add(goid)
    areas = existing(target.process.pid, _writable(target.process.pid))
    search = References(target.memory, heap, stacks, waiting_for, things, owned).search(areas, _MOST_BYTES)
    return search, frozenset(goid for goid, bases in things.items() if bases <= search.alone)


def _base(heap: Heap, address: int) -> int:
    found = heap.object(address)
    return found[0] if found is not None else address


def _sudogs(target: OpenTarget, pages: Pages, found: Sequence[Found], waiting: dict[int, int]) -> dict[int, int]:
    """The goroutines by the addresses of their sudogs: those lead to what they wait for, and lists of the runtime lead to them."""
    owned: dict[int, int] = {}
    ids = {one.address: one.state.id for one in found}
    layout, table = target.binary.wait_layout, target.binary.semtable
    if layout.sudog_waitlink is not None:
        for one in found:
            sudog = waiting.get(one.address, 0)
            while sudog and sudog not in owned and pages.word(sudog) == one.address:
                owned[sudog] = one.state.id
                sudog = pages.word(sudog + layout.sudog_waitlink) or 0
    if table is not None:
        at: dict[int, int] = {}
        waiters(target.memory, pages, table + target.bias, layout, at)
        owned |= {sudog: ids[g] for sudog, g in at.items() if g in ids}
    return owned


def _writable(pid: int) -> list[Mapping]:
    return [mapping for mapping in mappings(pid) if mapping.flags.startswith("rw") and not mapping.path.startswith(("[vvar", "[vsyscall"))]
