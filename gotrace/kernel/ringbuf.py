"""Consumes a BPF ring buffer by mmap: Documentation/bpf/ringbuf.rst and kernel/bpf/ringbuf.c of the kernel."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

_BUSY, _DISCARD = 1 << 31, 1 << 30
_HEADER = 8
_POSITION = struct.Struct("<Q")


class RingBuffer:
    """The consumer's side of the ring buffer map `fd` of `size` bytes of data (a power of two)."""

    def __init__(self, fd: int, size: int) -> None:
        page = mmap.PAGESIZE
        self._size = size
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # The data is mapped twice in a row, so that a record that wraps around is read in one piece.
        self._producer = mmap.mmap(fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)

    def read(self) -> Iterator[bytes]:
        """All records that are complete now. A record's place is given back once the next one is asked for."""
        position, = _POSITION.unpack_from(self._consumer, 0)
        # Read once: the producer may go on for ever. On x86 a later load is not moved before an earlier one.
        end, = _POSITION.unpack_from(self._producer, 0)
        while position < end:
            at = mmap.PAGESIZE + position % self._size
            length, = struct.unpack_from("<I", self._producer, at)
            if length & _BUSY:
                return
            size = length & ~(_BUSY | _DISCARD)
            if not length & _DISCARD:
                yield self._producer[at + _HEADER : at + _HEADER + size]
            position += (size + _HEADER + 7) // 8 * 8
            _POSITION.pack_into(self._consumer, 0, position)

    def close(self) -> None:
        """Unmaps it."""
        self._consumer.close()
        self._producer.close()
