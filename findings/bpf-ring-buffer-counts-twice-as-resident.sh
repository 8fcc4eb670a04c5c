#!/usr/bin/env bash
# A BPF ring buffer of N bytes that a process maps makes its resident memory grow by 2 N at once, before a byte is read or written.
#
# The data pages are mapped twice, one copy behind the other, so that a record that wraps around can be read in one piece
# (kernel/bpf/ringbuf.c: bpf_ringbuf_area_alloc). They are mapped whole by mmap itself and not on demand (remap_vmalloc_range), and each
# mapping of a page counts, as file pages (RssFile). Who keeps within a memory limit by its own resident size, or divides resident memory
# among what it traces, takes a ring for twice its size although it was never used; the control group is charged for the pages once (GFP_KERNEL_ACCOUNT in the
# same function). An agent with a ring of 8 MB for each of ten processes seems to have 160 MB of "files".
# Seen on Linux 6.18, x86-64: a ring of 8 MB, 16 MB more resident, all of it RssFile. Needs root.
set -euo pipefail

python3 - <<'PY'
import ctypes, mmap, os, platform, re, struct, sys

SIZE, PAGE = 8 << 20, mmap.PAGESIZE
BPF_MAP_CREATE, BPF_MAP_TYPE_RINGBUF, SYS_BPF = 0, 27, 321
libc = ctypes.CDLL(None, use_errno=True)


def resident():
    text = open("/proc/self/status").read()
    return {name: int(re.search(rf"^{name}:\s+(\d+) kB", text, re.M)[1]) << 10 for name in ("VmRSS", "RssAnon", "RssFile")}


attributes = ctypes.create_string_buffer(struct.pack("<IIII", BPF_MAP_TYPE_RINGBUF, 0, 0, SIZE), 128)
ring = libc.syscall(SYS_BPF, BPF_MAP_CREATE, attributes, 128)
if ring < 0:
    sys.exit(f"bpf(2): {os.strerror(ctypes.get_errno())}; run as root")
before = resident()
consumer = mmap.mmap(ring, PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
data = mmap.mmap(ring, PAGE + 2 * SIZE, mmap.MAP_SHARED, mmap.PROT_READ, offset=PAGE)
after = resident()
grew = {name: after[name] - before[name] for name in after}
print(f"Linux {platform.release()}: a ring of {SIZE >> 20} MB, mapped, not touched: " + ", ".join(f"{name} +{size / 2**20:.1f} MB" for name, size in grew.items()))
assert 2 * SIZE <= grew["RssFile"] <= 2 * SIZE + 64 * PAGE, "the mapping counts differently now"
assert grew["RssAnon"] < SIZE / 8
PY
echo "as described"
