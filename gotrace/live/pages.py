"""Memory read in whole blocks and remembered: small structs that point to one another lie side by side, in a few spans of the heap."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from struct import Struct

from gotrace.live.fieldsstruct import FieldsStruct
from gotrace.proc.memory import Memory

_BLOCK = 8192
"""The size of the heap's pages (runtime/sizeclasses.go): a span is a multiple of it, so no small object crosses a mapping's end there."""
_MOST_BLOCKS = 1 << 15
_LIMIT = 1 << 47
_WORD = Struct("<Q")


class Pages:
    """A picture of parts of a process's memory, each block as of its own moment. At most `most` blocks of 8 kB are kept, by default
    256 MB, and what one `prefetch` asks for.

    Raises:
        ProcessLookupError, PermissionError: the memory can't be read (all methods).
    """

    def __init__(self, memory: Memory, most: int = _MOST_BLOCKS) -> None:
        self._memory = memory
        self._most = most
        self._blocks: dict[int, bytes | None] = {}

    def prefetch(self, addresses: Iterable[int], size: int = 8) -> None:
        """Reads the blocks of these structs of `size` bytes at once."""
        wanted = {(address + more) // _BLOCK for address in addresses if 0 < address < _LIMIT - size for more in (0, size - 1)}
        self._fetch(sorted(wanted - self._blocks.keys()))

    def read(self, address: int, size: int) -> bytes | None:
        """Exactly `size` bytes, None if they can't all be read."""
        start = address % _BLOCK
        if 0 < size <= _BLOCK - start:
            block = self._blocks.get(address // _BLOCK)
            if block is not None:
                return block[start : start + size]
        if not 0 < address < _LIMIT - size or size <= 0:
            return None
        first, last = address // _BLOCK, (address + size - 1) // _BLOCK
        missing = [number for number in range(first, last + 1) if number not in self._blocks]
        if missing:
            self._fetch(missing)
        parts = [self._blocks[number] for number in range(first, last + 1)]
        if None in parts:
            return self._memory.read(address, size)  # of a block that can't be read whole, a part may be readable
        start = address - first * _BLOCK
        whole = b"".join(part for part in parts if part is not None) if last > first else parts[0] or b""
        return whole[start : start + size]

    def records(self, addresses: Collection[int], wanted: FieldsStruct) -> list[tuple[int, ...] | None]:
        """The fields of many structs, as by `fields`."""
        self._fetch(sorted({address // _BLOCK for address in addresses if 0 < address < _LIMIT - _BLOCK} - self._blocks.keys()))
        blocks, parse, last = self._blocks, wanted.parse, _BLOCK - wanted.size
        found: list[tuple[int, ...] | None] = []
        for address in addresses:
            start, block = address % _BLOCK, blocks.get(address // _BLOCK)
            found.append(parse(block, start) if block is not None and start <= last else self.fields(address, wanted))
        return found

    def fields(self, address: int, wanted: FieldsStruct) -> tuple[int, ...] | None:
        """The fields of a struct, None if it can't be read."""
        start, block = address % _BLOCK, self._blocks.get(address // _BLOCK)
        if block is not None and start + wanted.size <= _BLOCK:
            return wanted.parse(block, start)
        raw = self.read(address, wanted.size)
        return None if raw is None else wanted.parse(raw)

    def word(self, address: int) -> int | None:
        """The 64-bit word at `address`, None if it can't be read."""
        start, block = address % _BLOCK, self._blocks.get(address // _BLOCK)
        if block is not None and start <= _BLOCK - 8:
            word: int = _WORD.unpack_from(block, start)[0]
            return word
        raw = self.read(address, 8)
        return None if raw is None else int.from_bytes(raw, "little")

    def _fetch(self, numbers: list[int]) -> None:
        if len(self._blocks) + len(numbers) > self._most:
            self._blocks.clear()
        for start in range(0, len(numbers), 256):
            part = numbers[start : start + 256]
            raws = self._memory.read_many([(number * _BLOCK, _BLOCK) for number in part])
            self._blocks.update(zip(part, raws, strict=True))


def word_at(raw: bytes, offset: int) -> int:
    """The 64-bit word at `offset` of `raw`."""
    return int.from_bytes(raw[offset : offset + 8], "little")


def signed_at(raw: bytes, offset: int) -> int:
    """The signed 64-bit number at `offset` of `raw`."""
    return int.from_bytes(raw[offset : offset + 8], "little", signed=True)
