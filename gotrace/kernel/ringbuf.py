"""Consumes a BPF ring buffer by mmap: Documentation/bpf/ringbuf.rst and kernel/bpf/ringbuf.c of the kernel."""

from __future__ import annotations

import mmap
import struct

_HEADER = 8
"""A record's length, with one bit for a record that is still being written and one for a void record, and its place."""
_POSITION = struct.Struct("<Q")


class RingBuffer:
    """The consumer's side of the ring buffer map `fd` with `size` bytes of data (a power of two); all records have the same size."""

    def __init__(self, fd: int, size: int) -> None:
        page = mmap.PAGESIZE
        self._size = size
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # The data is mapped twice in a row, so that a record that wraps around is read in one piece.
        self._producer = mmap.mmap(fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)

    def take(self, size: int) -> bytes:
        """Returns all complete records, of `size` bytes each, in a row; frees their place in the buffer."""
        position, = _POSITION.unpack_from(self._consumer, 0)
        # Read once: the producer may go on forever. On x86 a later load is not moved before an earlier one.
        end, = _POSITION.unpack_from(self._producer, 0)
        stride = (_HEADER + size + 7) // 8 * 8
        at = mmap.PAGESIZE + position % self._size
        raw = self._producer[at : at + (end - position) // stride * stride]
        # A program may have been interrupted inside a record: those after it wait for the next call.
        complete = 0
        for length in memoryview(raw).cast("I")[:: stride // 4].tolist():
            if length != size:
                break
            complete += 1
        _POSITION.pack_into(self._consumer, 0, position + complete * stride)
        return raw[: complete * stride]

    def close(self) -> None:
        """Unmaps it."""
        self._consumer.close()
        self._producer.close()
