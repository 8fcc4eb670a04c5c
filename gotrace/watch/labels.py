"""The labels by which goroutines are kept apart (``--label``), read from the process's memory: for goroutines that no program in the kernel
sees, as they wait."""

from __future__ import annotations

from collections.abc import Sequence

from gotrace.common.vocabulary import OTHER_VALUES, UNREAD, Loss
from gotrace.gobin.buildinfo import GoVersion
from gotrace.kernel.program import MOST_LABEL_SETS
from gotrace.kernel.records import LabelValues
from gotrace.kernel.rows import decode_label
from gotrace.kernel.structs import LABEL_VALUE, LABELS_UNREAD
from gotrace.kernel.tablewriter import TableWriter
from gotrace.live.labels import LIST_SINCE, Values, wanted_values
from gotrace.proc.memory import Memory
from gotrace.profile.types import Missing
from gotrace.watch.target import OpenTarget

_MOST_NOTED = 1 << 16


def no_labels(pid: int) -> Missing:
    """What a trace with ``--label`` says where it is not known where a goroutine's labels are."""
    why, lacks = "it is not known where they are in this binary's goroutines", "all labels: no goroutine seems to have any"
    return Missing("labels", why, lacks, pid)


class WantedLabels:
    """The labels with these `keys`. A set of labels is read once for all goroutines that have it, each time: its memory is used for others
    when no goroutine has it any more."""

    def __init__(self, memory: Memory, offset: int, version: GoVersion, keys: tuple[bytes, ...]) -> None:
        self._memory = memory
        self._offset = offset
        self._version = version
        self._keys = keys
        self._noted: set[int] = set()

    @classmethod
    def of(cls, target: OpenTarget, keys: tuple[bytes, ...]) -> WantedLabels | None:
        """Those of a process; None without keys, or if it is not known where labels are in its goroutines."""
        version, offset = target.binary.version, target.binary.layout.g_labels
        return cls(target.memory, offset, version, keys) if keys and version is not None and offset is not None else None

    def numbers(self, addresses: Sequence[int], writer: TableWriter) -> dict[int, int]:
        """The labels of goroutines, by g, as numbers in the kernel's table; those that have none of them are left out.

        Raises:
            ProcessLookupError, PermissionError: the memory can't be read any more.
        """
        numbers: dict[int, int] = {}
        for at, found in self._read(addresses).items():
            if found is None:
                writer.labels_unread += self._note(at)
                numbers[at] = LABELS_UNREAD
            elif any(found):
                numbers[at] = writer.put_labels(found)
        return {g: numbers[at] for g, at in zip(addresses, self._pointers, strict=True) if at in numbers}

    def values(self, addresses: Sequence[int], known: dict[Values, LabelValues], losses: dict[Loss, int]) -> dict[int, LabelValues]:
        """The same as values; `known` has those that were met, of which no more than `MOST_LABEL_SETS` are told."""
        named: dict[int, LabelValues] = {}
        for at, found in self._read(addresses).items():
            if found is None:
                losses[Loss.LABELS_UNREAD] += self._note(at)
                named[at] = (UNREAD,) * len(self._keys)
            elif any(found):
                if found not in known and len(known) >= MOST_LABEL_SETS:
                    losses[Loss.LABEL_VALUES_FULL] += 1
                    named[at] = (OTHER_VALUES,) * len(self._keys)
                    continue
                named[at] = known.setdefault(found, tuple(None if value is None else decode_label(*value) for value in found))
        return {g: named[at] for g, at in zip(addresses, self._pointers, strict=True) if at in named}

    def put_labelled(self, g: int, writer: TableWriter) -> None:
        """Tells the kernel side the labels of a goroutine whose thread it has not seen leaving its CPU."""
        number = self.numbers([g], writer).get(g)
        if number is not None:
            writer.put_labelled(g, self._pointers[0] if number != LABELS_UNREAD else (1 << 64) - 1, number)

    def _read(self, addresses: Sequence[int]) -> dict[int, Values | None]:
        raws = self._memory.read_many([(g + self._offset, 8) for g in addresses])
        self._pointers = [int.from_bytes(raw or b"", "little") for raw in raws]
        return {
            at: wanted_values(self._memory, at, self._version >= LIST_SINCE, self._keys, LABEL_VALUE)
            for at in dict.fromkeys(self._pointers) if at
        }

    def _note(self, at: int) -> bool:
        """Whether this set has not been counted yet."""
        if at in self._noted or len(self._noted) >= _MOST_NOTED:
            return False
        self._noted.add(at)
        return True
