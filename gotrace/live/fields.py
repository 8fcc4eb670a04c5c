"""Fields of runtime.g that no machine code confirms, compared with the goroutines of the live process.

A table is for one release of Go; a custom build of Go may have additional fields in the struct. The fields after them have then moved,
and read as something else. Rules from src/runtime/runtime2.go and proc.go (newproc1, dolockOSThread, reentersyscall), Go 1.19 to 1.27.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from gotrace.gobin.binary import GoBinary
from gotrace.gobin.layout import Layout, newest, of_table
from gotrace.live.gstruct import SCAN_BIT, Status
from gotrace.live.labels import read_labels
from gotrace.proc.memory import Memory

_EMPTY = frozenset((Status.IDLE, Status.DEAD, Status.DEAD_EXTRA, Status.MORIBUND))
_TRIES, _RETRY_S = 3, 0.002
CHECKED = 64
"""How many goroutines are checked."""
_READ = 1024
"""How many bytes of a g are read: enough to find fields that may have moved."""
_MOST_IDS = 1 << 48
_SOON_NS = 86_400_000_000_000
_ONLY_TOLD = ("g_startpc", "g_gopc", "g_parentGoid")
"""Fields that may be searched for if the table does not fit: their contents resemble nothing else in the struct."""
_TOLD_BY_CODE = ("g_goid", "g_waitreason", "g_trackingSeq", "g_labels")
_TOLD_BY_TABLE = ("g_startpc", "g_gopc", "g_parentGoid", "g_waitsince", "g_lockedm", "g_labels")
"""Fields that only a dump shows."""


def fitted(memory: Memory, binary: GoBinary, bias: int, goroutines: Sequence[int]) -> tuple[Layout, list[str]]:
    """Returns the layout without the fields that do not fit the goroutines at these addresses, and a line for each of those fields. Follows
    fields that have moved, if the live goroutines confirm it.

    Raises:
        ProcessLookupError, PermissionError: the memory can't be read.
    """
    layout, facts = binary.layout, binary.code_facts
    if layout.source == "DWARF":
        return layout, []
    check = _Check(memory, binary, bias, goroutines)
    table = of_table(binary.version) or newest()
    moved = sorted({
        code - known for name in _TOLD_BY_CODE
        if (code := getattr(facts, name)) is not None and (known := getattr(table, name)) is not None and code != known
    })
    # Struct fields of eight bytes move by a multiple of eight.
    shifts = sorted({shift for by in moved for shift in (by, -(-by // 8) * 8)})
    lines, misfits, unsure = [], [], []
    for name, rule in check.rules().items():
        offset, told = getattr(layout, name), getattr(facts, name, None)
        if told is not None:
            continue  # known by the code
        good, bad = check.count(offset, rule) if offset is not None else (0, 0)
        if offset is not None and not bad:
            if not good:
                unsure.append(name)
            continue
        found = check.search_for(name, rule, table, shifts)
        if offset is not None:
            misfits.append(offset)
        if found is None and offset is not None:
            lines.append(f"{name.replace('_', '.', 1)} ({layout.source}) does not fit the live process: {bad} of {good + bad} goroutines")
        if found is not None or offset is not None:
            layout = layout.with_field(name, found)
    if moved and layout.source != "machine code":
        # Somewhere after the last field that is where the table has it.
        confirmed = (known for name in _TOLD_BY_CODE if (known := getattr(table, name)) is not None and getattr(facts, name) == known)
        misfits.append(1 + max(confirmed))
    for name in unsure:
        # No goroutine contradicts it, but none confirms it either, and fields before it have moved.
        if not misfits or getattr(layout, name) < min(misfits):
            continue
        found = check.search_for(name, check.rules()[name], table, shifts)
        if found is not None:
            layout = layout.with_field(name, found)
        else:
            shown = name.replace("_", ".", 1)
            lines.append(f"{shown} ({layout.source}) can't be confirmed, and fields beside it do not fit the live process")
            layout = layout.with_field(name, None)
    if layout.source == "machine code" and (unknown := [name for name in _TOLD_BY_TABLE if getattr(layout, name) is None]):
        names = ", ".join(name.replace("_", ".", 1) for name in unknown)
        lines.append(f"{names}: not known for {binary.version or 'this Go version'}: the table has no layout for it that fits the code")
    return layout, lines


class _Check:
    def __init__(self, memory: Memory, binary: GoBinary, bias: int, goroutines: Sequence[int]) -> None:
        self._memory, self._binary, self._bias = memory, binary, bias
        self._addresses = list(goroutines)
        self._raw: dict[int, bytes] = {}
        self._read(self._addresses)
        goid = binary.layout.g_goid
        self._most = 2 * max((_word(raw, goid) for raw in self._raw.values() if _word(raw, goid) < _MOST_IDS), default=0) + 4096
        self._now = time.monotonic_ns() + 1_000_000_000

    def rules(self) -> dict[str, Callable[[bytes, int], bool | None]]:
        """By field, what a value tells: True that it fits, False that it does not, None nothing."""
        return {
            "g_startpc": self._startpc, "g_gopc": self._gopc, "g_parentGoid": self._parent, "g_waitsince": self._since,
            "g_lockedm": self._machine, "g_labels": self._labels, "g_syscallsp": self._syscall_sp, "g_m": self._machine,
            "g_sleepWhen": self._due,
        }

    def search_for(self, name: str, rule: Callable[[bytes, int], bool | None], table: Layout, shifts: Sequence[int]) -> int | None:
        """Where else the field is, if all live goroutines agree."""
        known: int | None = getattr(table, name)
        if name not in _ONLY_TOLD or known is None:
            return None
        for shift in (0, *shifts):
            good, bad = self.count(known + shift, rule) if known + shift >= 0 else (0, 0)
            if good and not bad:
                return known + shift
        return None

    def count(self, offset: int, rule: Callable[[bytes, int], bool | None]) -> tuple[int, int]:
        """How many goroutines confirm and contradict that the field is there. A goroutine may be read in motion: a contradiction is read
        again."""
        good = 0
        doubtful = [address for address in self._addresses if address in self._raw]
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_RETRY_S)
                self._read(doubtful)
            said = {address: self._ask(address, offset, rule) for address in doubtful}
            good += sum(answer is True for answer in said.values())
            doubtful = [address for address, answer in said.items() if answer is False]
            if not doubtful:
                break
        return good, len(doubtful)

    def _ask(self, address: int, offset: int, rule: Callable[[bytes, int], bool | None]) -> bool | None:
        raw = self._raw.get(address, b"")
        status = int.from_bytes(raw[self._binary.layout.g_atomicstatus :][:4], "little") & ~SCAN_BIT
        if len(raw) < offset + 8 or status in _EMPTY:
            return None
        return rule(raw, offset)

    def _read(self, addresses: Sequence[int]) -> None:
        raws = self._memory.read_many([(address, _READ) for address in addresses])
        for address, raw in zip(addresses, raws, strict=True):
            if raw is None:  # the last one of its span
                raw = self._memory.read(address, 512)
            if raw is not None:
                self._raw[address] = raw

    def _startpc(self, raw: bytes, offset: int) -> bool | None:
        pc = _word(raw, offset)
        function = self._binary.table.function_at(pc - self._bias)
        return None if not pc else function is not None and function.entry == pc - self._bias or self._foreign(pc)

    def _gopc(self, raw: bytes, offset: int) -> bool | None:
        pc = _word(raw, offset)
        return None if not pc else self._binary.table.function_at(pc - self._bias) is not None or self._foreign(pc)

    def _foreign(self, pc: int) -> bool | None:
        """None, which is no answer, for an address that may be a plugin's code: not a small number, and not on Go's heap."""
        return None if 1 << 46 <= pc < 1 << 47 else False

    def _parent(self, raw: bytes, offset: int) -> bool | None:
        # Not that it is less than its own: each P assigns numbers from a batch of its own.
        parent = _word(raw, offset)
        return None if not parent else parent < self._most and parent != _word(raw, self._binary.layout.g_goid)

    def _since(self, raw: bytes, offset: int) -> bool | None:
        since = _word(raw, offset)
        return None if not since else since < self._now

    def _machine(self, raw: bytes, offset: int) -> bool | None:
        m, layout = _word(raw, offset), self._binary.layout
        if not m:
            return None
        if layout.m_g0 is None or layout.g_m is None:
            return 4096 <= m < 1 << 47
        g0 = self._memory.u64(m + layout.m_g0) if m < 1 << 47 else None
        return g0 is not None and 0 < g0 < 1 << 47 and self._memory.u64(g0 + layout.g_m) == m

    def _labels(self, raw: bytes, offset: int) -> bool | None:
        pointer = _word(raw, offset)
        if not pointer:
            return None
        return pointer < 1 << 47 and read_labels(self._memory, pointer, self._binary.version) is not None

    def _due(self, raw: bytes, offset: int) -> bool | None:
        """For a goroutine in time.Sleep it is the moment at which the sleep ends, on a clock that began when the host was started; its
        neighbours are pointers."""
        layout, due = self._binary.layout, _word(raw, offset)
        reasons, reason = self._binary.wait_reasons, raw[layout.g_waitreason]
        status = int.from_bytes(raw[layout.g_atomicstatus :][:4], "little") & ~SCAN_BIT
        if status != Status.WAITING or reason >= len(reasons) or reasons[reason] != "sleep" or not due:
            return None  # 0 for the scavenger, which has a timer of its own
        if due >= 1 << 63 or due % 8 == 0 and due < 1 << 47 and self._memory.read(due, 8) is not None:
            return False
        return True if self._now - _SOON_NS < due < self._now + _SOON_NS else None

    def _syscall_sp(self, raw: bytes, offset: int) -> bool | None:
        sp, layout = _word(raw, offset), self._binary.layout
        return None if not sp else _word(raw, layout.g_stack_lo) <= sp <= _word(raw, layout.g_stack_hi)


def _word(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 8], "little")
