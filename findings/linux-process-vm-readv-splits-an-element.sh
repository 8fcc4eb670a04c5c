#!/usr/bin/env bash
# process_vm_readv may read a part of an element.
#
# Its manual page (man-pages 6.03) says that partial transfers apply at the granularity of iovec elements and never split one. They are by
# the page: an element whose second page can't be read gives the first page's part, as a result that is neither an error nor the element's
# length. Who checks for an error only goes on with a buffer whose end is old. Seen on Linux 6.18: 3,996 of 8,000 bytes, from an address
# 100 bytes into a page, in front of a page that is not mapped.
set -euo pipefail

python3 - <<'PY'
import ctypes
import mmap
import os


class Element(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
page = mmap.PAGESIZE
pages = libc.mmap(None, 2 * page, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
ctypes.memset(pages, 1, 2 * page)
libc.munmap(pages + page, page)
buffer = ctypes.create_string_buffer(2 * page)
local, remote = Element(ctypes.addressof(buffer), 2 * page), Element(pages + 100, 2 * page - 192)
read = libc.process_vm_readv(os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
print(f"one element of {remote.length} bytes whose second page is not mapped: {read} bytes were read")
raise SystemExit(read != page - 100)
PY
