"""Reads whole BPF hash maps in batches (BPF_MAP_LOOKUP_BATCH, Linux 5.6): one system call for hundreds of entries."""

from __future__ import annotations

import ctypes as ct
import errno
import os
from collections.abc import Iterator

_FIRST_BATCH = 256


def read_table(fd: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, memoryview]]:
    """All (key, value) of the hash map `fd`, as raw bytes; the value is only valid until the next one is asked for.

    Raises:
        OSError: the kernel refuses batch look-ups.
    """
    from bcc import lib

    capacity = _FIRST_BATCH
    keys = ct.create_string_buffer(capacity * key_size)
    values = ct.create_string_buffer(capacity * value_size)
    # The cursor is opaque to us; the kernel writes at most max(key size, 4) bytes.
    cursor, following = ct.create_string_buffer(max(key_size, 8)), ct.create_string_buffer(max(key_size, 8))
    first = True
    while True:
        size = ct.c_uint32(capacity)
        code = lib.bpf_lookup_batch(
            fd,
            None if first else ct.cast(cursor, ct.POINTER(ct.c_uint32)),
            ct.cast(following, ct.POINTER(ct.c_uint32)),
            keys, values, ct.byref(size),
        )
        number = ct.get_errno() if code else 0
        if number == errno.ENOSPC:  # one hash bucket holds more than the buffer: a larger one, from the same place
            capacity *= 4
            keys = ct.create_string_buffer(capacity * key_size)
            values = ct.create_string_buffer(capacity * value_size)
            continue
        if number not in (0, errno.ENOENT):
            raise OSError(number, f"BPF map look-up: {os.strerror(number)}")
        view = memoryview(values)
        for index in range(size.value):
            key = ct.string_at(ct.addressof(keys) + index * key_size, key_size)
            yield key, view[index * value_size : (index + 1) * value_size]
        if number == errno.ENOENT:
            return
        first = False
        ct.memmove(cursor, following, len(cursor))
