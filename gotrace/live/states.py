"""In which states the goroutines of a process are: nothing else of them is read."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field

from gotrace.live.gstruct import SCAN_BIT, Status
from gotrace.proc.memory import WORDS_AT_ONCE, Memory, anonymous_memory

GONE = frozenset((Status.IDLE, Status.DEAD, Status.DEAD_EXTRA, Status.MORIBUND))
"""States of a g without a goroutine."""
_VALID = frozenset(Status)
_SMALLEST_G, _SPARE = 256, 1 << 16
_CHUNK = 1 << 16


@dataclass
class States:
    """How many g structs are in each state, and the addresses of those in the states that were asked for."""

    counts: Counter[int] = field(default_factory=Counter)
    addresses: list[int] = field(default_factory=list)

    @property
    def living(self) -> int:
        """How many goroutines there are, the runtime's own included."""
        return sum(count for state, count in self.counts.items() if state not in GONE)


def states_of(memory: Memory, allgs: int, offset: int, wanted: frozenset[int] = frozenset()) -> States | None:
    """Reads the state of every g. `allgs` is the run-time address of runtime.allgs, `offset` that of the state in runtime.g; `wanted` are
    the states whose addresses are kept. None if what is there makes no sense.

    Raises:
        ProcessLookupError, PermissionError: the memory can't be read.
    """
    header = memory.read(allgs, 16)
    if header is None:
        return None
    base, length = int.from_bytes(header[:8], "little"), int.from_bytes(header[8:], "little")
    if length > anonymous_memory(memory.pid) // _SMALLEST_G + _SPARE:
        return None
    found = States()
    for start in range(0, length, _CHUNK):
        addresses = array("Q")
        addresses.frombytes(memory.read(base + 8 * start, 8 * min(_CHUNK, length - start)) or b"")
        for at in range(0, len(addresses), WORDS_AT_ONCE):
            part = addresses[at : at + WORDS_AT_ONCE]
            words = memory.read_u32s([address + offset for address in part])
            if words is None:
                return None
            kinds = {word: word & ~SCAN_BIT for word in set(words)}
            if not _VALID.issuperset(kinds.values()):
                return None
            for word, state in kinds.items():
                found.counts[state] += words.count(word)
            if wanted and not wanted.isdisjoint(kinds.values()):
                found.addresses += [address for address, word in zip(part, words, strict=True) if word & ~SCAN_BIT in wanted]
    return found
