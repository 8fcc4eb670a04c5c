"""The BPF maps of one trace, by name, and their elements as structs."""

from __future__ import annotations

import ctypes as ct
import errno
import struct
from collections.abc import Iterator
from typing import TypeVar

from gotrace.kernel.bpf import BpfError, delete_element, read_element, read_table, write_element
from gotrace.kernel.structs import Halt

ONLY = bytes(4)
"""The key of a map's only element."""
Struct = TypeVar("Struct", bound=ct.Structure)


class Maps:
    """The maps with these `descriptors`. All methods raise BpfError if the kernel refuses."""

    def __init__(self, descriptors: dict[str, int]) -> None:
        self._descriptors = descriptors

    def table(self, name: str, key: type, value: type) -> Iterator[tuple[bytes, memoryview]]:
        """Yields all elements as raw bytes of these types; a value is only valid until the next one is requested."""
        return read_table(self._descriptors[name], ct.sizeof(key), ct.sizeof(value))

    def structs(self, name: str, key: type, kind: type[Struct]) -> Iterator[tuple[bytes, Struct]]:
        """Yields all elements: their keys, and copies of their values."""
        return ((raw_key, kind.from_buffer_copy(raw)) for raw_key, raw in self.table(name, key, kind))

    def raw(self, name: str, key: bytes, size: int) -> bytes:
        """Returns the bytes of one element; for a per-CPU map, those of all CPUs."""
        return read_element(self._descriptors[name], key, size)

    def read(self, name: str, key: bytes, kind: type[Struct]) -> Struct:
        """Returns one element."""
        return kind.from_buffer_copy(self.raw(name, key, ct.sizeof(kind)))

    def numbered(self, name: str, number: int, kind: type) -> bytes | None:
        """Returns the bytes of the element with that 64-bit key; None if there is none."""
        try:
            return self.raw(name, struct.pack("<Q", number), ct.sizeof(kind))
        except BpfError:
            return None

    def write(self, name: str, key: bytes, value: bytes, only_new: bool = False) -> None:
        """Sets one element. With `only_new` it raises BpfError (EEXIST) if the element exists."""
        write_element(self._descriptors[name], key, value, only_new)

    def put(self, name: str, number: int, value: ct.Structure) -> None:
        """Adds an element with that 64-bit key, unless it exists."""
        try:
            self.write(name, struct.pack("<Q", number), bytes(value), only_new=True)
        except BpfError as error:
            if error.errno != errno.EEXIST:
                raise

    def delete(self, name: str, key: bytes) -> None:
        """Removes one element, if it exists."""
        delete_element(self._descriptors[name], key)

    def clear(self, name: str, key: type, value: type) -> None:
        """Removes all elements."""
        for raw_key in [raw_key for raw_key, _ in self.table(name, key, value)]:
            self.delete(name, raw_key)

    def halted_ns(self, until_ns: int) -> int:
        """How long the process had been stopped from outside in total, counted as in bpf/maps.c: halted_until."""
        state = self.read("halt", ONLY, Halt)
        total: int = state.total_ns + (max(0, until_ns - state.since) if state.since else 0)
        return total
