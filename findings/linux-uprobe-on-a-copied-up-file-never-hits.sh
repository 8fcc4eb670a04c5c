#!/usr/bin/env bash
# On overlayfs a uprobe may be accepted for a file that the process does not run.
#
# A process that was started from a lower layer has mapped the lower file. When something then changes the file in the merged tree, be it
# its times (touch) or its mode, overlayfs copies it up. The path, and /proc/PID/exe, now lead to the upper file. A uprobe on that is
# accepted and never hit, while a process that is started from now on hits it. Containers' images are lower layers, and a chmod in a start
# script is enough. The lower file's own path, which /proc/PID/mountinfo tells, is the one to probe. Seen on Linux 6.18: 1,000 hits before
# the copy; none after it, but 1,000 on the lower file; 1,000 of a new process. Needs root (mount, uprobes), gcc and readelf.
set -euo pipefail

folder=$(mktemp -d)
trap 'umount "$folder/merged" 2>/dev/null || true; rm -rf "$folder"' EXIT
mkdir "$folder"/{lower,upper,work,merged}
cat >"$folder/main.c" <<'C'
#include <stdio.h>
__attribute__((noinline)) void step(void)
{
	__asm__ volatile("push %rax; pop %rax");
}

int main(void)
{
	getchar();
	for (int i = 0; i < 1000; i++)
		step();
	return 0;
}
C
gcc -O1 -o "$folder/lower/main" "$folder/main.c"
mount -t overlay overlay -o "lowerdir=$folder/lower,upperdir=$folder/upper,workdir=$folder/work" "$folder/merged"
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$(dirname "$0") python3 - "$folder/merged/main" "$folder/lower/main" <<'PY'
import os
import struct
import subprocess
import sys
import time

from hits import file_offset, open_uprobe, symbol_address

path, lower = sys.argv[1:]


def hits(copy_up: bool = False) -> int:
    """Of a process that is started and makes 1,000 calls, by the path of its executable."""
    program = subprocess.Popen([path], stdin=subprocess.PIPE)
    time.sleep(1)  # until it waits for its standard input
    if copy_up:
        os.utime(path)
    offset = file_offset(path, symbol_address(path, "step"))
    probes = [open_uprobe(f"/proc/{program.pid}/exe", offset, cpu) for cpu in sorted(os.sched_getaffinity(0))]
    program.communicate(b"\n")
    total = sum(struct.unpack("Q", os.read(probe, 8))[0] for probe in probes)
    for probe in probes:
        os.close(probe)
    return total


before = hits()
old = subprocess.Popen([path], stdin=subprocess.PIPE)
time.sleep(1)
after, anew = hits(copy_up=True), hits()
offset = file_offset(lower, symbol_address(lower, "step"))
probes = [open_uprobe(lower, offset, cpu) for cpu in sorted(os.sched_getaffinity(0))]
old.communicate(b"\n")
below = sum(struct.unpack("Q", os.read(probe, 8))[0] for probe in probes)
print(f"1,000 calls: {before} hits; of a process under which the file was copied up {after} by its path and {below} in the lower layer;",
      f"{anew} of a process started since")
raise SystemExit((before, after, below, anew) != (1000, 0, 1000, 1000))
PY
