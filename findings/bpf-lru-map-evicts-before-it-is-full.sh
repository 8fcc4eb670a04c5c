#!/usr/bin/env bash
# A BPF map of type LRU hash drops entries before it holds as many as it was made for.
#
# An LRU map never refuses an update: it makes room by dropping what was not used for long. But it hands its free entries to the CPUs in
# batches, and a CPU that has none left makes room though others still have some. Entries are gone when the map holds less than
# max_entries, nobody is told, and a start time that is kept in one is sometimes missing at the end. A plain hash holds all, and says
# E2BIG for the next. Seen on Linux 6.18 with 2 CPUs: of 10,000 keys put into a map for 10,000, 9,888 are there; of 1,000, 976. Needs root
# (bpf).
set -euo pipefail

python3 - <<'PY'
import ctypes
import os
import struct

BPF = 321  # x86-64
CREATE, LOOK_UP, UPDATE = 0, 1, 2
HASH, LRU_HASH = 1, 9
ENTRIES = 10_000
libc = ctypes.CDLL(None, use_errno=True)
key, value = ctypes.c_uint64(), ctypes.c_uint64()


def bpf(command: int, attributes: bytes) -> int:
    return libc.syscall(BPF, command, attributes.ljust(128, b"\0"), 128)


def kept(kind: int) -> int:
    """How many keys a map has after as many were put in as it is for."""
    table = bpf(CREATE, struct.pack("5I", kind, 8, 8, ENTRIES, 0))
    if table < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    element = struct.pack("IxxxxQQQ", table, ctypes.addressof(key), ctypes.addressof(value), 0)
    for key.value in range(ENTRIES):
        if bpf(UPDATE, element) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    count = 0
    for key.value in range(ENTRIES):
        count += bpf(LOOK_UP, element) == 0
    os.close(table)
    return count


plain, lru = kept(HASH), kept(LRU_HASH)
print(f"{ENTRIES} keys put into maps with max_entries {ENTRIES}: a hash has {plain} of them, an LRU hash {lru}")
raise SystemExit(not (plain == ENTRIES and lru < ENTRIES))
PY
