"""What parked goroutines wait for in Go, read from memory where no probe saw them park; as numbers of the kernel's tables."""

from __future__ import annotations

from gotrace.gobin.binary import GoBinary
from gotrace.kernel.tablewriter import TableWriter
from gotrace.kernel.waited import Reasons
from gotrace.live.goroutines import Goroutine, GoroutineReader
from gotrace.live.gstruct import Status
from gotrace.live.parkedon import parked_on
from gotrace.proc.memory import Memory
from gotrace.watch.inprogress.cutoff import Parked

_PARKED = frozenset((Status.WAITING, Status.LEAKED))


class WaitedReader:
    """Of one process."""

    def __init__(self, memory: Memory, binary: GoBinary, bias: int, reader: GoroutineReader, writer: TableWriter, reasons: Reasons) -> None:
        self._memory, self._binary, self._bias, self._reader = memory, binary, bias, reader
        self._writer = writer
        self._reasons = reasons

    def numbers(self, parked: dict[int, Parked]) -> dict[int, int]:
        """By g, of those that have not moved; what can't be read is left out.

        Raises:
            ProcessLookupError, PermissionError: the memory can't be read.
        """
        kind_of = {g: kind for g, found in parked.items() if not found.created and (kind := self._reasons.kind(found.reason))}
        if not kind_of:
            return {}
        before = {one.address: one for one in self._reader.read(list(kind_of)) if _is_same(one, parked[one.address])}
        kinds: dict[str, list[Goroutine]] = {}
        for g, one in before.items():
            kinds.setdefault(kind_of[g], []).append(one)
        found = parked_on(self._memory, self._binary, self._bias, kinds)
        after = {one.address: one for one in self._reader.read(list(found))}
        return {
            g: self._writer.put_waited(addresses, kind_of[g] == "select", kind_of[g] in ("chan", "select"))
            for g, addresses in found.items() if after.get(g) == before[g] and (len(addresses) == 1 or kind_of[g] == "select")
        }


def _is_same(now: Goroutine, parked: Parked) -> bool:
    return now.goid == parked.goid and now.status in _PARKED and now.wait_reason == parked.reason and parked.stack.pcs[:1] == (now.pc,)
