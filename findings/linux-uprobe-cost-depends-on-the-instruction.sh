#!/usr/bin/env bash
# A uprobe on the second instruction of a function may cost many times what it costs on the first.
#
# The kernel emulates a few instructions on x86 (push, call, jmp, the conditional jumps, nop): the breakpoint is the only trap. All others
# it executes out of line and single-steps them, which is a second trap, and a dear one in a virtual machine, where the debug exception
# may leave the guest. A Go function begins with a comparison, the dear kind; its conditional jump is next to it, 4 bytes on. What a
# tracer costs is mostly decided by that. Seen on Linux 6.18 in a virtual machine: push %rbp some 700 ns of CPU, mov %rsp,%rbp after it
# some 6,500; on bare metal about twice as much is reported. Needs root (uprobes), gcc and readelf.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/main.c" <<'C'
#include <stdio.h>
#include <time.h>

void step(void);
__asm__(".globl step\n.type step, @function\nstep: push %rbp\nmov %rsp, %rbp\npop %rbp\nret\n.size step, . - step\n");

int main(void)
{
	struct timespec start, end;
	getchar();
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
	for (int i = 0; i < 100000; i++)
		step();
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
	printf("%lld\n", ((end.tv_sec - start.tv_sec) * 1000000000LL + end.tv_nsec - start.tv_nsec) / 100000);
	return 0;
}
C
gcc -O1 -o "$folder/main" "$folder/main.c" 2>"$folder/warnings"
cost() { { python3 "$(dirname "$0")/hits.py" "$1" -- "$folder/main" >"$folder/hits"; } 2>&1; }
push=$(cost step)
move=$(cost step+1)
echo "a hit on push %rbp takes $push ns of CPU, on mov %rsp,%rbp $move ns; $(cat "$folder/hits")"
[ "$move" -gt $((push * 3 / 2)) ]
