#!/usr/bin/env bash
# A BPF program can't read memory that the program it looks at could read at any time.
#
# bpf_probe_read_user must not wait, so it reads only what has a page at that moment. Memory that was mapped and never touched has none,
# nor has what was swapped out, nor a part of an executable that was not run yet: the helper says EFAULT, as for a bad pointer. A read
# that begins a little before a struct, in a page that is untouched, fails as a whole. process_vm_readv has the page brought in and reads
# it. Seen on Linux 6.18, x86-64: -14 of a page of zeros, 0 once the program had read it. Needs root (bpf, uprobes), gcc and readelf.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/main.c" <<'C'
#include <stdio.h>
#include <sys/mman.h>

__attribute__((noinline)) void before(volatile long *page)
{
	__asm__ volatile("push %%rax; pop %%rax" : : "r"(page));
}

__attribute__((noinline)) void after(volatile long *page)
{
	__asm__ volatile("push %%rax; pop %%rax; nop" : : "r"(page));
}

int main(void)
{
	volatile long *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	getchar();
	before(page);
	long word = *page;
	after(page);
	return word;
}
C
gcc -O1 -o "$folder/main" "$folder/main.c"
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$(dirname "$0") python3 - "$folder/main" <<'PY'
import ctypes
import fcntl
import os
import struct
import subprocess
import sys

from hits import file_offset, open_uprobe, symbol_address

BPF = 321  # x86-64
SET_BPF = 0x40042408  # PERF_EVENT_IOC_SET_BPF
libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attributes: bytes) -> int:
    result = libc.syscall(BPF, command, attributes.ljust(128, b"\0"), 128)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def instruction(code: int, to: int, of: int, offset: int, value: int) -> bytes:
    return struct.pack("<BBhi", code, to | of << 4, offset, value)


def program(table: int) -> int:
    """table[0] = bpf_probe_read_user(stack, 8, the probed function's first argument)"""
    code = b"".join((
        instruction(0x79, 3, 1, 112, 0),  # r3 = ctx->di
        instruction(0xBF, 1, 10, 0, 0), instruction(0x07, 1, 0, 0, -8),  # r1 = fp - 8
        instruction(0xB7, 2, 0, 0, 8),  # r2 = 8
        instruction(0x85, 0, 0, 0, 112),  # bpf_probe_read_user
        instruction(0x7B, 10, 0, -8, 0),  # its result
        instruction(0x62, 10, 0, -12, 0),  # the key, 0
        instruction(0x18, 1, 1, 0, table), instruction(0, 0, 0, 0, 0),
        instruction(0xBF, 2, 10, 0, 0), instruction(0x07, 2, 0, 0, -12),
        instruction(0xBF, 3, 10, 0, 0), instruction(0x07, 3, 0, 0, -8),
        instruction(0xB7, 4, 0, 0, 0),
        instruction(0x85, 0, 0, 0, 2),  # bpf_map_update_elem
        instruction(0xB7, 0, 0, 0, 0), instruction(0x95, 0, 0, 0, 0)))
    text, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    return bpf(5, struct.pack("IIQQ", 2, len(code) // 8, ctypes.addressof(text), ctypes.addressof(licence)))


path = sys.argv[1]
target = subprocess.Popen([path], stdin=subprocess.PIPE)
tables, probes = [], []
for function in ("before", "after"):
    tables.append(bpf(0, struct.pack("IIII", 2, 4, 8, 1)))
    run = program(tables[-1])
    for cpu in sorted(os.sched_getaffinity(0)):
        probes.append(open_uprobe(path, file_offset(path, symbol_address(path, function)), cpu))
        fcntl.ioctl(probes[-1], SET_BPF, run)
target.communicate(b"\n")
results = []
for table in tables:
    key, value = ctypes.c_uint32(0), ctypes.c_int64(1)
    bpf(1, struct.pack("IxxxxQQQ", table, ctypes.addressof(key), ctypes.addressof(value), 0))
    results.append(value.value)
print(f"bpf_probe_read_user of a mapped page: {results[0]}; after the program has read it (a word of {target.returncode}): {results[1]}")
raise SystemExit(not (results == [-14, 0] and target.returncode == 0))
PY
